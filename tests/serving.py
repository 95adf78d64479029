"""The API over real HTTP in this process, around fake cameras."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from litestar import Litestar

from healthd.api.auth import Authenticator, Scope
from healthd.api.events import tell_listeners
from healthd.api.jobs import written
from healthd.api.services import Services
from healthd.app import create_app
from healthd.cameras.events import EventHub
from healthd.cameras.jpeg import JpegEncoder
from healthd.cameras.runner import CameraRunner
from healthd.cameras.signs import SignCache
from healthd.cameras.supervisor import Supervisor
from healthd.cameras.viewers import EndReason, Viewers
from healthd.http_server import DroppableProtocol, Server, listen, protocol
from healthd.jobs.service import Jobs
from healthd.metrics import Metrics
from healthd.models.catalog import Catalog
from healthd.models.inference import Inference
from healthd.models.manager import ModelManager
from healthd.plugins import FAMILIES, SOURCES, Plugins
from healthd.settings import Settings
from healthd.tls import Pair, Tls


@dataclass(frozen=True)
class Served:
    """Something that listens."""

    port: int
    url: str
    stop: Callable[[], Awaitable[object]] | None = None
    """Ends it before its block does."""


def make_services(runners: Sequence[CameraRunner] = (), *, keys: Sequence[tuple[str, str, Scope]] = ()) -> Services:
    """The parts of a daemon with these cameras, none of them started."""
    settings, metrics = Settings(), Metrics()
    models, catalog = ModelManager({}, directory=Path("models")), Catalog({}, directory=Path("models"))
    inference = Inference(models, catalog, metrics=metrics)
    services = Services(
        settings=settings,
        supervisor=Supervisor(runners),
        models=models,
        inference=inference,
        jobs=Jobs(settings, inference=inference, find_model=lambda asked: catalog.find(asked).model_id, encode=written),
        sources=Plugins(SOURCES, []),
        families=Plugins(FAMILIES, []),
        metrics=metrics,
        auth=Authenticator(keys),
        viewers=Viewers(max_viewers=20, max_viewers_per_camera=10),
        events=EventHub(),
        signs=SignCache(JpegEncoder()),
    )
    tell_listeners(services)
    return services


@asynccontextmanager
async def serving(
    app: Any, *, host: str = "127.0.0.1", port: int = 0, pair: Pair | None = None, **options: Any
) -> AsyncIterator[Served]:
    """Serve an ASGI application for as long as the block lasts. `pair`: with TLS; `options` are uvicorn's."""
    bound = listen(host, port, dead_peer_seconds=10)
    config = uvicorn.Config(
        app,
        http=protocol(app) if isinstance(app, Litestar) else DroppableProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
        **options,
    )
    started = asyncio.Event()
    tls = Tls(pair) if pair is not None else None
    server = Server(config, on_started=started.set, tls=(lambda: tls.context) if tls is not None else None)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    scheme = "http" if pair is None else "https"
    shown = f"[{host}]" if ":" in host else host
    taken = bound.getsockname()[1]

    async def stop() -> None:
        server.should_exit = True
        await asyncio.wait_for(asyncio.shield(task), 5)

    try:
        await asyncio.wait_for(started.wait(), 5)
        yield Served(taken, f"{scheme}://{shown}:{taken}", stop)
    finally:
        await stop()


@asynccontextmanager
async def running(services: Services) -> AsyncIterator[Services]:
    """Run the cameras for as long as the block lasts; then end viewers and cameras."""
    services.supervisor.start()
    try:
        yield services
    finally:
        services.viewers.end_all(EndReason.STOP)
        await services.supervisor.drain(3)


@asynccontextmanager
async def daemon(
    runners: Sequence[CameraRunner] = (), *, keys: Sequence[tuple[str, str, Scope]] = (), **options: Any
) -> AsyncIterator[tuple[Served, Services]]:
    """Serve running cameras."""
    services = make_services(runners, keys=keys)
    async with serving(create_app(services), **options) as served, running(services):
        yield served, services


@asynccontextmanager
async def answering(answer: bytes | None, *, host: str = "127.0.0.1") -> AsyncIterator[Served]:
    """Listen, and give each connection these bytes; None: take what comes and never answer."""
    over, talks = asyncio.Event(), []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await over.wait()
        else:
            writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(talk, host, 0) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            yield Served(port, f"http://{host}:{port}")
        finally:
            over.set()
            await asyncio.gather(*talks, return_exceptions=True)


def response(body: bytes, *, status: str = "200 OK", headers: bytes = b"") -> bytes:
    """Write an answer of HTTP."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n%s" % (
        status.encode(),
        len(body),
        headers,
        body,
    )


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def has_ipv6() -> bool:
    """Whether this machine has a loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def under(prefix: str, app: Callable[..., Any]) -> Callable[..., Any]:
    """An application behind a proxy that shows it under a prefix, and nothing elsewhere."""

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if not scope["path"].startswith(f"{prefix}/"):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b"nothing here"})
            return
        path = scope["path"].removeprefix(prefix)
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    return proxy
