"""The composition root: builds everything, owns the signals and the order of the stop."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import threading
import time
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
from healthd.app import create_app
from healthd.cameras.events import EventHub
from healthd.cameras.factory import make_sources
from healthd.cameras.jpeg import JpegEncoder
from healthd.cameras.runner import CameraRunner
from healthd.cameras.signs import SignCache
from healthd.cameras.source import CameraSource
from healthd.cameras.supervisor import Supervisor
from healthd.cameras.viewers import EndReason, Viewers
from healthd.cpus import set_thread_budget
from healthd.http_server import Server, StartError, listen, protocol
from healthd.http_sockets import socket_options
from healthd.jobs.service import Jobs
from healthd.metrics import Metrics, Sample
from healthd.models.catalog import Catalog
from healthd.models.inference import Inference
from healthd.models.manager import ModelManager
from healthd.models.model import CONTRACT, ModelFamily
from healthd.models.room import Limits
from healthd.models.tally import Tally
from healthd.native_log import TALLY
from healthd.plugins import FAMILIES, SOURCES, Plugins, checked_class, installed, load_plugins
from healthd.process import versions
from healthd.settings import Settings
from healthd.worker import Worker, WorkerTimeout

log = structlog.get_logger(__name__)
__all__ = ["InstalledPlugins", "StartError", "build", "load_installed_plugins", "serve"]
CV2_THREADS = 1
"""Threads of one call into OpenCV: each camera and each encoder has a thread of its own already, and the cores are the
models'."""
HOUSEKEEPING_SECONDS = 15.0
NOTICE_SECONDS = 0.25
"""What uvicorn takes to see that it is to stop, and that everything has been answered."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_SIGNAL_SECONDS = 0.05
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
    made = await make_sources(plugins.sources, settings.cameras)
    supervisor = Supervisor(
        CameraRunner(
            name,
            settings=camera,
            source=source if isinstance(source := made[name], CameraSource) else None,
            failure=source if isinstance(source, str) else None,
            models=models,
            encoder=encoder,
            metrics=metrics,
            default_quality=settings.snapshots.quality,
        )
        for name, camera in settings.cameras.items()
    )
    catalog = Catalog(
        families,
        directory=settings.models.directory,
        cameras=models_of(made),
        preload=settings.models.preload,
        default=settings.models.default,
    )
    inference = Inference(
        models,
        catalog,
        metrics=metrics,
        tally=tally,
        queue_size=settings.models.queue_size,
        queue_timeout_seconds=settings.models.queue_timeout_seconds,
    )
    jobs = Jobs(settings, inference=inference, find_model=lambda asked: catalog.find(asked).model_id, encode=written)
    auth = Authenticator(
        [(key.name, key.key.reveal(), key.scope) for key in settings.auth.keys if settings.auth.needs_key],
        session_seconds=settings.auth.session_hours * 3600,
    )
    viewers = Viewers(
        max_viewers=settings.streams.max_viewers,
        max_viewers_per_camera=settings.streams.max_viewers_per_camera,
        max_sockets=settings.inference.max_sockets,
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
        viewers=viewers,
        events=EventHub(),
        signs=SignCache(encoder),
    )
    tell_listeners(services)
    metrics.read_from(supervisor.samples)
    metrics.read_from(viewers.samples)
    metrics.read_from(services.sockets.samples)
    metrics.read_from(inference.samples)
    metrics.read_from(jobs.samples)
    metrics.read_from(lambda: _samples(services))
    return services


def make_manager(
    settings: Settings, families: Mapping[str, ModelFamily], tally: Tally, metrics: Metrics | None = None
) -> ModelManager:
    """Build what loads and shares the models; it loads nothing yet."""
    wanted, metrics = settings.models, metrics or Metrics()
    return ModelManager(
        families,
        directory=wanted.directory,
        threads=settings.performance.threads or None,
        cache_directory=wanted.cache_place,
        cache_max_bytes=wanted.cache_max_bytes,
        allow_pickle=wanted.allow_pickle,
        limits=Limits(wanted.max_loaded, wanted.memory_budget_bytes),
        concurrency=wanted.concurrency,
        batch_window_seconds=wanted.batch_window_ms / 1e3,
        idle_unload_seconds=wanted.idle_unload_seconds,
        load_timeout_seconds=wanted.load_timeout_seconds,
        failed_load_seconds=wanted.failed_load_seconds,
        room_timeout_seconds=wanted.queue_timeout_seconds,
        on_prediction=lambda shared, said: tally.add(shared.shown, shared.labels, said),
        on_batch=lambda shared, size: metrics.model_batch_size.labels(shared.shown).observe(size),
    )


def models_of(made: Mapping[str, CameraSource | str]) -> dict[str, str]:
    """Return the model of each camera that says which it has."""
    said: dict[str, str] = {}
    for name, source in made.items():
        if isinstance(source, CameraSource) and isinstance(model_id := source.model_id, str):
            said[name] = model_id
    return said


async def _load_and_build(settings: Settings) -> Services:
    return await build(settings, await load_installed_plugins(safe_mode=settings.server.safe_mode))


async def serve(settings: Settings, *, on_listening: Callable[[str], None] = lambda _: None) -> int:
    """Run the daemon until SIGTERM or SIGINT; return its exit code. Must run on the main thread.

    Raises:
        StartError: it cannot start.
    """
    stop = asyncio.Event()
    patience = settings.shutdown.grace_seconds + settings.shutdown.drain_seconds + FORCE_SECONDS
    with _own_signals(stop, force_seconds=patience):
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
        log.info("daemon_started", version=__version__, cameras=len(services.supervisor), pid=os.getpid())
        services.supervisor.start()
        services.inference.start()
        services.jobs.start()
        server = _server(settings, services, on_started=lambda: on_listening(_url(settings, bound)))
        serving = asyncio.create_task(server.serve(sockets=[bound]), name="http")
        housekeeping = asyncio.create_task(_keep_house(services), name="housekeeping")
        history = asyncio.create_task(services.history.keep(), name="history")
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        crashed = serving.done() and not stop.is_set()
        if crashed:
            log.error("http_server_died", exc_info=serving.exception() if not serving.cancelled() else None)
        housekeeping.cancel()
        history.cancel()
        stopping.cancel()
        await _stop(settings, services, server=server, serving=serving)
    return 1 if crashed else 0


async def _stop(settings: Settings, services: Services, *, server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    shutdown = settings.shutdown
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

    # Phase 4: done; the caller exits, whatever threads still hang.
    log.info("stopped", seconds=round(loop.time() - begun, 3), abandoned=list(abandoned))


@contextlib.contextmanager
def _own_signals(stop: asyncio.Event, *, force_seconds: float) -> Iterator[None]:
    """The first SIGTERM or SIGINT sets `stop`; a second one ends the process at once (exit 143 or 130).

    `timeout` and some supervisors send one signal to the process and once more to its group: what comes within
    `SAME_SIGNAL_SECONDS` is the first one still. A process that is still there `force_seconds` after the first signal
    ends with exit 1. All this is done by a thread of its own, whatever holds up the event loop and its thread.
    """
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        stop.set()
        log.info("signal_received", signal=number.name)

    def first(number: signal.Signals) -> None:
        loop.call_soon_threadsafe(asked, number)

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=_watch_signals, args=(reading, first, force_seconds), name="signals", daemon=True).start()
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # written to by Python's handler in C, at once
    before = {number: signal.signal(number, lambda *_: None) for number in STOP_SIGNALS}
    os.register_at_fork(after_in_child=_disown_signals)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken)
        os.close(writing)


def _watch_signals(reading: int, first: Callable[[signal.Signals], None], force_seconds: float) -> None:
    """Read the number of each signal that comes, until the pipe is closed."""
    asked_at: float | None = None
    while True:
        wait = None if asked_at is None else max(0.0, asked_at + force_seconds - time.monotonic())
        if not select.select([reading], [], [], wait)[0]:
            os._exit(1)
        numbers = os.read(reading, 1)
        if not numbers:
            os.close(reading)
            return
        if numbers[0] not in STOP_SIGNALS:
            continue
        if asked_at is None:
            asked_at = time.monotonic()
            first(signal.Signals(numbers[0]))
        elif time.monotonic() - asked_at > SAME_SIGNAL_SECONDS:
            os._exit(128 + numbers[0])


def _disown_signals() -> None:
    """Let a fork that a plugin made die of its own signals, and not write ours into the pipe it shares with us."""
    signal.set_wakeup_fd(-1)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _server(settings: Settings, services: Services, *, on_started: Callable[[], None]) -> uvicorn.Server:
    app = create_app(services)
    options: dict[str, Any] = {
        "lifespan": "off",
        "http": protocol(app),
        **socket_options(settings),
        "log_config": None,
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "root_path": settings.server.root_path,
    }
    return Server(uvicorn.Config(app, **options), on_started=on_started)


async def _keep_house(services: Services) -> None:
    """Unload models that nobody uses, now and then."""
    while True:
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
        worker = Worker("housekeeping")
        worker.start()
        try:
            await worker.call(services.models.unload_idle, timeout=HOUSEKEEPING_SECONDS, late="models not unloaded")
        except WorkerTimeout as exc:
            log.warning("housekeeping_stuck", reason=str(exc))
        except Exception:
            log.exception("housekeeping_bug")
        finally:
            worker.close()


def _samples(services: Services) -> Iterator[Sample]:
    yield Sample("healthd_build_info", 1, {"version": __version__})
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


def _url(settings: Settings, bound: socket.socket) -> str:
    host, port = settings.server.host, bound.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
