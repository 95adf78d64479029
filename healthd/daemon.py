"""The composition root: builds everything, owns the signals and the order of the stop."""

import asyncio
import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import structlog
import uvicorn

from healthd import __version__
from healthd.api.auth import Authenticator
from healthd.api.events import tell_listeners
from healthd.api.jobs import written
from healthd.api.services import Services
from healthd.cameras.events import EventHub
from healthd.cameras.factory import make_sources, models_of
from healthd.cameras.isolated import PRELOAD, isolated_camera, may_need_processes
from healthd.cameras.jpeg import JpegEncoder
from healthd.cameras.runner import CameraRunner
from healthd.cameras.signs import SignCache
from healthd.cameras.source import CameraSource
from healthd.cameras.supervisor import Supervisor
from healthd.cameras.viewers import EndReason, Viewers
from healthd.children import NURSERY
from healthd.cpus import set_thread_budget
from healthd.http_server import StartError, listen, load_tls, make_server, take_server, url_of
from healthd.jobs.service import Jobs
from healthd.loop_watch import LoopWatch
from healthd.metrics import Metrics, Sample
from healthd.models.factory import make_manager
from healthd.models.inference import Inference
from healthd.models.isolated import PRELOAD as MODEL_PRELOAD
from healthd.models.model import CONTRACT, ModelFamily
from healthd.models.tally import Tally
from healthd.native_log import TALLY
from healthd.orphans import Orphans
from healthd.plugins import FAMILIES, SOURCES, Plugins, checked_class, installed, load_plugins
from healthd.process import raise_file_limit, versions
from healthd.reload import Reloader, make_catalog, take_auth
from healthd.settings import CameraSettings, Settings
from healthd.settings_changes import ConfigFile
from healthd.signals import own_signals
from healthd.worker import WorkerPool, WorkerTimeout

log = structlog.get_logger(__name__)
__all__ = ["InstalledPlugins", "StartError", "build", "load_installed_plugins", "serve"]
CV2_THREADS = 1
"""Threads of one call into OpenCV: each camera and each encoder has a thread of its own already, and the cores are the
models'."""
HOUSEKEEPING_SECONDS = 15.0
NOTICE_SECONDS = 0.25
"""What uvicorn takes to see that it is to stop, and that everything has been answered."""
FORCE_SECONDS = 3.0
"""A stop that takes so much longer than grace and drain together has come to nothing, and is forced."""


@dataclass(frozen=True, slots=True)
class InstalledPlugins:
    """What is installed beside healthd, loaded or not."""

    sources: Plugins[type[CameraSource]]
    families: Plugins[type[ModelFamily]]
    made: Mapping[type[ModelFamily], ModelFamily]
    """The one object of each family that is loaded."""


check_source = checked_class(CameraSource, contract=CONTRACT)  # type: ignore[type-abstract]  # it makes no instance
check_family = checked_class(ModelFamily, contract=CONTRACT)  # type: ignore[type-abstract]


async def load_installed_plugins(*, safe_mode: bool = False) -> InstalledPlugins:
    """Import every installed plugin and make the families; one that cannot be made is as broken as an import.

    `safe_mode`: those that others publish are not imported.
    """
    made: dict[type[ModelFamily], ModelFamily] = {}

    def check_and_make(loaded: Any) -> type[ModelFamily]:
        family = check_family(loaded)
        made[family] = family()
        return family

    sources = await load_plugins(SOURCES, installed(SOURCES), check=check_source, safe_mode=safe_mode)
    families = await load_plugins(FAMILIES, installed(FAMILIES), check=check_and_make, safe_mode=safe_mode)
    if safe_mode:
        log.warning("safe_mode", skipped=[*sources.skipped, *families.skipped])
    return InstalledPlugins(sources, families, made)


async def build(settings: Settings, plugins: InstalledPlugins) -> Services:
    """Build the parts of the daemon; starts no camera."""
    cv2.setNumThreads(CV2_THREADS)
    versions()  # reads the disk the first time, when nobody waits yet
    set_thread_budget(settings.performance.threads)
    metrics = Metrics()
    families = {plugin.name: plugins.made[plugin.target] for plugin in plugins.families if plugin.target is not None}
    tally = Tally()
    models = make_manager(settings, families, tally, metrics)
    encoder = JpegEncoder()

    def new_camera(
        name: str, camera: CameraSettings, source: CameraSource | str, *, quality: int, last_frame_id: int = 0
    ) -> CameraRunner:
        return CameraRunner(
            name,
            settings=camera,
            source=source if isinstance(source, CameraSource) else None,
            isolated=isolated_camera(name, camera, source, plugins.sources, threads=settings.performance.threads),
            failure=source if isinstance(source, str) else None,
            models=models,
            encoder=encoder,
            metrics=metrics,
            default_quality=quality,
            last_frame_id=last_frame_id,
        )

    made = await make_sources(plugins.sources, settings.cameras)
    supervisor = Supervisor(
        new_camera(name, camera, made[name], quality=settings.snapshots.quality)
        for name, camera in settings.cameras.items()
    )
    catalog = make_catalog(families, settings, models_of(made))
    inference = Inference(
        models,
        catalog,
        metrics=metrics,
        tally=tally,
        queue_size=settings.models.queue_size,
        queue_timeout_seconds=settings.models.queue_timeout_seconds,
    )
    jobs = Jobs(
        settings, inference=inference, find_model=lambda asked: inference.catalog.find(asked).model_id, encode=written
    )
    auth = Authenticator(())
    take_auth(auth, settings.auth)
    viewers = Viewers(
        max_viewers=settings.streams.max_viewers,
        max_viewers_per_camera=settings.streams.max_viewers_per_camera,
        max_viewers_per_client=settings.streams.max_viewers_per_client,
        max_sockets=settings.inference.max_sockets,
        max_sockets_per_client=settings.inference.max_sockets_per_client,
        max_seconds=settings.streams.max_seconds,
    )
    services = Services(
        settings=settings,
        supervisor=supervisor,
        models=models,
        inference=inference,
        jobs=jobs,
        sources=plugins.sources,
        families=plugins.families,
        metrics=metrics,
        auth=auth,
        new_camera=new_camera,
        viewers=viewers,
        events=EventHub(),
        signs=SignCache(encoder),
    )
    tell_listeners(services)
    metrics.read_from(supervisor.samples)
    metrics.read_from(viewers.samples)
    metrics.read_from(auth.samples)
    metrics.read_from(services.sockets.samples)
    metrics.read_from(services.doors.samples)
    metrics.read_from(inference.samples)
    metrics.read_from(jobs.samples)
    metrics.read_from(lambda: _samples(services))
    return services


async def _load_and_build(settings: Settings) -> Services:
    models = settings.models.isolation == "process"
    cameras = any(may_need_processes(camera) for camera in settings.cameras.values())
    # A reload may bring the first camera that needs one.
    NURSERY.warm_up((*PRELOAD, *(MODEL_PRELOAD if models else ())), start=cameras or models)
    return await build(settings, await load_installed_plugins(safe_mode=settings.server.safe_mode))


async def serve(
    settings: Settings,
    *,
    file: ConfigFile | None = None,
    reload_asked: Callable[[], bool] = lambda: False,
    take_log: Callable[[Settings], None] = lambda _: None,
    on_listening: Callable[[str], None] = lambda _: None,
) -> int:
    """Run the daemon until SIGTERM or SIGINT; return its exit code. Must run on the main thread.

    `file`: is read again on SIGHUP; `reload_asked`: whether one came before; `take_log`: takes `[log]` into effect.

    Raises:
        StartError: it cannot start.
    """
    stop = asyncio.Event()
    raise_file_limit()
    tls = load_tls(settings)
    reload = asyncio.Event()
    latest = settings

    def patience() -> float:
        return latest.shutdown.grace_seconds + latest.shutdown.drain_seconds + FORCE_SECONDS

    with contextlib.closing(NURSERY), own_signals(stop, force_seconds=patience, reload=reload):
        if reload_asked():
            reload.set()
        bound = listen(
            settings.server.host,
            settings.server.port,
            dead_peer_seconds=2 * settings.streams.write_timeout_seconds,
        )
        stopping = asyncio.create_task(stop.wait(), name="stop")
        building = asyncio.create_task(_load_and_build(settings), name="build")
        await asyncio.wait([building, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not building.done():  # a plugin is still being imported, or makes its camera: nothing runs that must stop
            building.cancel()
            await asyncio.wait([building], timeout=1.0)
            log.info("stopped_before_start")
            return 0
        services = building.result()
        gc.freeze()  # modules and routes stay: to look through all of them would stop every thread for 50 ms
        log.info("daemon_started", version=__version__, cameras=len(services.supervisor), pid=os.getpid())
        services.supervisor.start()
        services.inference.start()
        services.jobs.start()
        server = make_server(settings, services, tls, on_started=lambda: on_listening(url_of(settings, bound)))

        def on_changed(changed: Settings) -> None:
            nonlocal latest
            if changed.log != latest.log:
                take_log(changed)
            latest = changed
            take_server(server.config, bound, changed)

        reloader = Reloader(services, file=file, on_changed=on_changed)
        services.reload = reloader.reload
        serving = asyncio.create_task(server.serve(sockets=[bound]), name="http")
        housekeeping = asyncio.create_task(_keep_house(services), name="housekeeping")
        history = asyncio.create_task(services.history.keep(), name="history")
        watch = LoopWatch()
        services.metrics.read_from(watch.samples)
        looking = asyncio.create_task(watch.keep(), name="loop-watch")
        following = asyncio.create_task(reloader.follow(reload), name="reload")
        watching = asyncio.create_task(reloader.watch(), name="config-watch")
        certificate = [asyncio.create_task(tls.keep(), name="tls")] if tls is not None else []
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        crashed = serving.done() and not stop.is_set()
        if crashed:
            log.error("http_server_died", exc_info=serving.exception() if not serving.cancelled() else None)
        for task in (housekeeping, history, looking, stopping, following, watching, *certificate):
            task.cancel()
        await _stop(services, server=server, serving=serving)
    return 1 if crashed else 0


async def _stop(services: Services, *, server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    shutdown = services.settings.shutdown
    # Phase 1: tell the world. /readyz turns 503 (liveness stays 200), streams end with their closing boundary, and
    # whoever waits for a frame is answered.
    services.draining = True
    services.viewers.end_all(EndReason.STOP)
    services.supervisor.release_waiters()
    services.inference.stop()
    services.jobs.request_stop()
    log.info("stop_requested", grace_seconds=shutdown.grace_seconds, drain_seconds=shutdown.drain_seconds)

    # Phase 2: readers stop at the next frame, predictors and jobs after the picture in hand; who does not answer is
    # abandoned.
    # HTTP goes on meanwhile: uvicorn closes its door as soon as it is told to, and the probes could not be read.
    abandoned, _ = await asyncio.gather(
        services.supervisor.drain(shutdown.drain_seconds), services.jobs.drain(shutdown.drain_seconds)
    )

    # Phase 3: no new connections; requests in hand are answered. Those that are late are told so, and cut.
    server.should_exit = True
    _, late = await asyncio.wait([serving], timeout=shutdown.grace_seconds + NOTICE_SECONDS)
    if late:
        requests = tuple(server.server_state.tasks)
        log.warning("http_abandoned", grace_seconds=shutdown.grace_seconds, requests=len(requests))
        for request in requests:
            request.cancel()
        _, late = await asyncio.wait([serving], timeout=1.0 - NOTICE_SECONDS)
        if late:
            serving.cancel()

    # Phase 4: done; the caller exits, whatever threads still hang. Processes that still hang end here.
    NURSERY.close()
    log.info("stopped", seconds=round(loop.time() - begun, 3), abandoned=list(abandoned))


async def _keep_house(services: Services) -> None:
    """Unload models that nobody uses, look at the memory of processes, and reap what is adopted, now and then."""
    chores: list[tuple[Callable[[], object], str, WorkerPool]] = [
        (services.models.unload_idle, "models not unloaded", WorkerPool("housekeeping", keep=0)),
        (services.supervisor.measure, "memory not looked at", WorkerPool("housekeeping", keep=0)),
    ]
    if os.getpid() == 1:  # the nursery has reaped, until it was killed; then nobody does
        chores.append((Orphans().reap, "adopted processes not reaped", WorkerPool("housekeeping", keep=0)))
    while True:
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
        for chore, late, threads in chores:
            if threads.stuck:  # one that hangs is enough; it may come back
                continue
            try:
                await threads.call(chore, timeout=HOUSEKEEPING_SECONDS, late=late)
            except WorkerTimeout as exc:
                log.warning("housekeeping_stuck", reason=str(exc))
            except Exception:
                log.exception("housekeeping_bug")


def _samples(services: Services) -> Iterator[Sample]:
    for outcome, number in services.reloads.items():
        yield Sample("healthd_config_reloads_total", number, {"outcome": outcome})
    yield Sample("healthd_config_restart_needed", len(services.restart_needed))
    yield Sample("healthd_native_output_lines_total", TALLY.lines)
    yield Sample("healthd_ready", float(services.readiness == "ready"))
    yield Sample("healthd_infer_uploads_open", services.uploads.open)
    loaded = services.models.loaded()
    yield Sample("healthd_models_loaded", len(loaded))
    for model_id in {model.shown for model in loaded}:  # loaded twice, with other options: one line
        same = [model for model in loaded if model.shown == model_id]
        yield Sample("healthd_model_users", sum(model.users for model in same), {"model": model_id})
        yield Sample("healthd_model_waiting", sum(model.waiting for model in same), {"model": model_id})
        memory = sum(model.memory_bytes or 0 for model in same)
        yield Sample("healthd_model_memory_bytes", memory, {"model": model_id})
        yield Sample("healthd_model_predictions_total", sum(model.predictions for model in same), {"model": model_id})
