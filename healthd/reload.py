"""Takes a changed configuration into effect while the daemon runs: only what differs is touched."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import structlog

from healthd.api.auth import Authenticator
from healthd.api.services import Services
from healthd.cameras.factory import make_sources, models_of
from healthd.cameras.isolated import isolated_camera
from healthd.cameras.parts import Fitting
from healthd.cameras.records import Tuning
from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import CameraSource, PredictOptions
from healthd.config_watch import FileWatch
from healthd.errors import BusyError, HealthdError, NotHereError
from healthd.models.catalog import Catalog, wrong_models
from healthd.models.model import InferenceParams, ModelFamily
from healthd.models.room import Limits
from healthd.settings import AuthSettings, CameraSettings, Settings, settings_hints, settings_source
from healthd.settings_changes import (
    CameraDifference,
    ConfigFile,
    Reloaded,
    camera_difference,
    effect_of,
    in_effect,
    section_differences,
)
from healthd.settings_tree import ConfigError, Problem
from healthd.worker import WorkerPool, WorkerTimeout

log = structlog.get_logger(__name__)
READ_SECONDS = 30.0
"""How long reading the file, and the files that it refers to, may take."""
WATCH_SECONDS = 1.0
NO_FILE = (
    "healthd was started without a configuration file: there is nothing to read again, restart it to change something"
)
Trigger = Literal["signal", "api", "watch"]


@dataclass(slots=True)
class _Plan:
    """What is to be done. Everything that can fail has been tried."""

    settings: Settings
    """As they will be in effect."""
    restart_needed: tuple[str, ...]
    differences: dict[str, CameraDifference] = field(default_factory=dict)
    """Of the cameras that stay, those that differ."""
    made: Mapping[str, CameraSource | str] = field(default_factory=dict)
    """The sources of cameras that are new, or whose settings differ in more than what counts at once."""


class Reloader:
    """Reads the file again on request. One reload at a time. Lives as long as the daemon; event loop only."""

    def __init__(
        self,
        services: Services,
        *,
        file: ConfigFile | None,
        on_changed: Callable[[Settings], None] = lambda _: None,
    ) -> None:
        """`on_changed` is told of the settings that are in effect from now on."""
        if services.new_camera is None:
            raise ValueError("nobody makes cameras here")
        self._services = services
        self._new_camera = services.new_camera
        self._started = services.settings
        self._file = file
        self._on_changed = on_changed
        self._turn = asyncio.Lock()
        self._threads = WorkerPool("config-reload", keep=0)

    async def reload(self, trigger: Trigger = "api") -> Reloaded:
        """Read the file as a whole, and take into effect what differs; all of it or nothing.

        Raises:
            ConfigError: it cannot be used, for every reason that it names; nothing was changed.
            NotHereError: there is no file.
            BusyError: the daemon stops, or the file cannot be read in time.
        """
        async with self._turn:
            try:
                plan = await self._plan()
                done = self._apply(plan)
            except HealthdError as exc:
                self._services.reloads["failed"] += 1
                log.error("config_reload_failed", trigger=trigger, reason=str(exc))  # noqa: TRY400  no bug
                raise
            except Exception:
                self._services.reloads["failed"] += 1
                log.exception("config_reload_bug", trigger=trigger)
                raise
            if self._services.tls is not None:
                self._services.tls.look_soon()
            self._services.reloads["ok"] += 1
            log.info(
                "config_reloaded",
                trigger=trigger,
                added=list(done.added),
                removed=list(done.removed),
                restarted=list(done.restarted),
                changed=list(done.changed),
                restart_needed=list(done.restart_needed),
            )
            return done

    async def follow(self, asked: asyncio.Event) -> None:
        """Reload whenever it is asked for, until cancelled. What comes while one is under way leads to one more."""
        while True:
            await asked.wait()
            asked.clear()
            await self._try("signal")

    async def watch(self) -> None:
        """Reload when the file has changed and stays as it is, while `config.watch` says so; until cancelled."""
        if self._file is None:
            return
        watch, threads = FileWatch(self._file), WorkerPool("config-watch", keep=1)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self._services.settings.config.watch or threads.stuck:
                continue
            try:
                seen = await threads.call(watch.look, timeout=READ_SECONDS, late="the configuration was not looked at")
            except Exception as exc:  # noqa: BLE001  without a watch that goes on, no change would be seen any more
                log.warning("config_watch_stuck", file=self._file.path.name, reason=str(exc))
                await asyncio.sleep(0 if threads.stuck else READ_SECONDS)  # no thread is to be had
                continue
            if seen == "gone":
                log.warning("config_file_gone", file=self._file.path.name)
            elif seen == "changed":
                await self._try("watch")

    async def _try(self, trigger: Trigger) -> None:
        with contextlib.suppress(Exception):  # it is logged, and the next one may work
            await self.reload(trigger)

    # -- before anything is touched ------------------------------------------------------------------------------

    async def _plan(self) -> _Plan:
        self._refuse_while_stopping()
        wanted = await self._read()
        found = in_effect(self._started, wanted)
        before = self._services.settings.cameras
        differences = {
            name: difference
            for name, camera in found.cameras.items()
            if name in before and (difference := camera_difference(before[name], camera)).keys
        }
        to_make = {
            name: camera
            for name, camera in found.cameras.items()
            if name not in before or any(effect_of("cameras", key) != "hot" for key in _keys(differences.get(name)))
        }
        made = await make_sources(self._services.sources, to_make)
        plan = _Plan(found, tuple(section_differences(self._started, wanted, "daemon")), differences, made)
        problems = list(self._problems(plan))
        if problems:
            raise ConfigError(problems)
        self._refuse_while_stopping()
        for hint in settings_hints(wanted):
            log.warning("settings_hint", hint=hint)
        return plan

    def _refuse_while_stopping(self) -> None:
        if self._services.draining:
            raise BusyError("healthd stops")

    async def _read(self) -> Settings:
        if self._file is None:
            raise NotHereError(NO_FILE)
        if self._threads.stuck:
            raise BusyError(
                "the configuration cannot be read: its file, or one that it refers to, still does not answer"
            )
        try:
            return await self._threads.call(
                self._file.load, timeout=READ_SECONDS, late="the configuration was not read"
            )
        except WorkerTimeout as exc:
            raise BusyError(f"{exc}: its file, or one that it refers to, does not answer") from None

    def _problems(self, plan: _Plan) -> Iterator[Problem]:
        """Say what plugins refuse, and which models cannot be; what was wrong before keeps nothing from changing."""
        services, settings = self._services, plan.settings
        skipped = services.sources.skipped
        for name, made in plan.made.items():
            if (
                isinstance(made, str)
                and settings.cameras[name].enabled
                and settings.cameras[name].plugin not in skipped
            ):
                yield Problem(self._origin(settings, f"cameras.{name}"), f"cameras.{name}", made)
        families = None if services.families.skipped else services.models.families.values()
        known = set(wrong_models(services.settings.models, families, watching=self._models({}).values()))
        for key, reason in wrong_models(settings.models, families, watching=self._models(plan.made, settings).values()):
            if (key, reason) not in known:
                yield Problem(self._origin(settings, key), key, reason)

    def _origin(self, settings: Settings, key: str) -> str:
        source = settings_source(settings, key)
        named = source.name or (self._file.path.name if self._file is not None else "settings")
        return "environment" if source.origin == "environment" else named

    def _models(self, made: Mapping[str, CameraSource | str], settings: Settings | None = None) -> dict[str, str]:
        """Return the model of each camera that has one, as it will be."""
        sources: dict[str, CameraSource | str | None] = {}
        for name in (settings or self._services.settings).cameras:
            runner = self._services.supervisor.get(name)
            sources[name] = made.get(name) or (runner.configured_source if runner is not None else None)
        return models_of(sources)

    # -- what is done: nothing here waits ------------------------------------------------------------------------

    def _apply(self, plan: _Plan) -> Reloaded:
        services, before, after = self._services, self._services.settings, plan.settings
        models_before = self._models({})
        removed = tuple(name for name in before.cameras if name not in after.cameras)
        for name in removed:
            self._remove(name)
        restarted, changed = self._change_cameras(plan)
        services.settings = after
        added = tuple(name for name in after.cameras if name not in before.cameras)
        for name in added:
            self._add(name, plan.made[name])
        services.supervisor.put_in_order(tuple(after.cameras))
        self._change_the_rest(before, after, models_before)
        services.restart_needed = plan.restart_needed
        return Reloaded(
            added=added,
            removed=removed,
            restarted=tuple(restarted),
            changed=(*section_differences(before, after, "hot"), *changed),
            restart_needed=plan.restart_needed,
        )

    def _remove(self, name: str) -> None:
        services = self._services
        log.info("camera_removed", camera=name)
        services.viewers.end_camera(name)
        services.supervisor.remove(name, within_seconds=services.settings.shutdown.drain_seconds)
        services.metrics.forget_camera(name)

    def _add(self, name: str, source: CameraSource | str) -> None:
        services = self._services
        log.info("camera_added", camera=name)
        runner = self._new_camera(
            name,
            services.settings.cameras[name],
            source,
            quality=services.settings.snapshots.quality,
            last_frame_id=services.supervisor.last_frame_id(name),
        )
        services.supervisor.add(runner)

    def _change_cameras(self, plan: _Plan) -> tuple[list[str], list[str]]:
        """Change those that stay; return which were restarted, and what of the others counts at once."""
        before, after = self._services.settings, plan.settings
        restarted: list[str] = []
        changed: list[str] = []
        for name, camera in after.cameras.items():
            runner = self._services.supervisor.get(name)
            if runner is None or name not in before.cameras:
                continue
            was, now = file_tuning(before, name), file_tuning(after, name)
            if was != now:
                runner.tune(tuning=_merged_tuning(was, now, runner.tuning), thresholds={})
            difference = plan.differences.get(name)
            if difference is None:
                continue
            made = plan.made.get(name)
            if difference.restart or not _takes_thresholds(runner.configured_source, made):
                log.info("camera_restarted", camera=name, settings=sorted(difference.keys))
                restarted.append(name)
                same_plugin = camera.plugin == before.cameras[name].plugin
                self._refit(runner, camera, made, same_plugin=same_plugin)
                continue
            runner.adapt(camera)
            if isinstance(made, CameraSource):
                _take_thresholds(runner.configured_source, made)
            changed += [f"cameras.{name}.{key}" for key in sorted(difference.keys - {"options"})]
            changed += [f"cameras.{name}.options.{key}" for key in sorted(difference.options)]
        return restarted, changed

    def _refit(
        self, runner: CameraRunner, camera: CameraSettings, made: CameraSource | str | None, *, same_plugin: bool
    ) -> None:
        source = made if isinstance(made, CameraSource) else None
        old = runner.configured_source
        if source is not None and old is not None and same_plugin:
            source.params = merged_params(old, source)
        failure = made if isinstance(made, str) else None
        threads = self._started.performance.threads
        isolated = isolated_camera(runner.name, camera, source or "", self._services.sources, threads=threads)
        runner.refit(Fitting(camera, source, failure, isolated))

    def _change_the_rest(self, before: Settings, after: Settings, models_before: Mapping[str, str]) -> None:
        services = self._services
        take_auth(services.auth, after.auth)
        streams, inference, models = after.streams, after.inference, after.models
        services.viewers.set_limits(
            max_viewers=streams.max_viewers,
            max_viewers_per_camera=streams.max_viewers_per_camera,
            max_viewers_per_client=streams.max_viewers_per_client,
            max_sockets=inference.max_sockets,
            max_sockets_per_client=inference.max_sockets_per_client,
            max_seconds=streams.max_seconds,
        )
        services.uploads.most = inference.max_uploads
        services.uploads.most_of_one = inference.max_uploads_per_client
        services.decoder.max_pixels = inference.max_pixels
        services.jobs.adapt(after)
        services.models.adapt(
            limits=Limits(models.max_loaded, models.memory_budget_bytes),
            idle_unload_seconds=models.idle_unload_seconds,
            load_timeout_seconds=models.load_timeout_seconds,
            failed_load_seconds=models.failed_load_seconds,
            room_timeout_seconds=models.queue_timeout_seconds,
        )
        watching = self._models({})
        if before.models != models or list(models_before.items()) != list(watching.items()):
            services.inference.adapt(
                make_catalog(services.models.families, after, watching),
                queue_size=models.queue_size,
                queue_timeout_seconds=models.queue_timeout_seconds,
            )
        self._on_changed(after)
        for told in services.on_changed:
            told()


def make_catalog(families: Mapping[str, ModelFamily], settings: Settings, cameras: Mapping[str, str]) -> Catalog:
    """Make the list of models that requests may name; `cameras`: the model of each camera that has one."""
    wanted = settings.models
    return Catalog(
        families,
        directory=wanted.directory,
        cameras=cameras,
        preload=wanted.preload,
        default=wanted.default,
    )


def take_auth(authenticator: Authenticator, auth: AuthSettings) -> None:
    """Let those in who may come in by these settings, and nobody else."""
    keys = [(key.name, key.key.reveal(), key.scope) for key in auth.keys if auth.needs_key]
    authenticator.replace(keys, session_seconds=auth.session_hours * 3600, idle_seconds=auth.session_idle_hours * 3600)


def file_tuning(settings: Settings, name: str) -> Tuning:
    """Return what the configuration says of what can be changed by a request too."""
    camera = settings.cameras[name]
    return Tuning(camera.predict_fps, camera.quality or settings.snapshots.quality, camera.quality is not None)


def _merged_tuning(was: Tuning, now: Tuning, current: Tuning) -> Tuning:
    """Take what has changed in the configuration; keep what somebody has set by request."""
    pictures = now if (now.quality, now.quality_chosen) != (was.quality, was.quality_chosen) else current
    return Tuning(
        predict_fps=now.predict_fps if now.predict_fps != was.predict_fps else current.predict_fps,
        quality=pictures.quality,
        quality_chosen=pictures.quality_chosen,
    )


def merged_params(old: CameraSource, new: CameraSource) -> InferenceParams | None:
    """Return the thresholds of the new source, but for those that were set by request and are unchanged in the file."""
    if old.params is None or new.params is None or not isinstance(old.options, PredictOptions):
        return new.params
    file, current, wanted = old.options.params().model_dump(), old.params.model_dump(), new.params.model_dump()
    kept = {key: current[key] for key in file if current[key] != file[key] and wanted[key] == file[key]}
    return InferenceParams.model_validate({**wanted, **kept})


def _takes_thresholds(source: CameraSource | None, made: CameraSource | str | None) -> bool:
    """Whether what differs in the options, if anything does, can be taken by a source that runs."""
    if made is None:
        return True
    both = isinstance(made, CameraSource) and made.params is not None
    return both and source is not None and source.params is not None and isinstance(source.options, PredictOptions)


def _take_thresholds(source: CameraSource | None, made: CameraSource) -> None:
    if source is not None:
        source.params = merged_params(source, made)
        source.options = made.options


def _keys(difference: CameraDifference | None) -> frozenset[str]:
    return difference.keys if difference is not None else frozenset()
