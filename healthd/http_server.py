"""uvicorn as healthd uses it: no hands on signals, sockets that notice dead peers, a door with limits."""

import contextlib
import ipaddress
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import uvicorn
from litestar import Litestar

from healthd.api.connection import DoorCounts
from healthd.api.services import Services
from healthd.api.sockets import message_bytes
from healthd.app import create_app
from healthd.errors import HealthdError, SettingsError
from healthd.http_door import Door
from healthd.http_protocol import DroppableProtocol
from healthd.http_sockets import socket_options
from healthd.settings import ServerSettings, Settings
from healthd.tls import Pair, Tls

__all__ = [
    "DroppableProtocol",
    "Server",
    "StartError",
    "listen",
    "load_tls",
    "make_server",
    "protocol",
    "proxy_options",
    "take_server",
    "url_of",
]
BACKLOG = 2048


class StartError(HealthdError):
    """The daemon cannot start; the message says what to do."""


def proxy_options(settings: ServerSettings) -> dict[str, Any]:
    """Return what uvicorn must be told of reverse proxies: whose word on client and scheme is believed."""
    networks = [str(ipaddress.ip_network(text, strict=False)) for text in settings.trusted_proxies]
    return {"proxy_headers": bool(networks), "forwarded_allow_ips": networks}


class Server(uvicorn.Server):
    """uvicorn without hands on the signals: stock uvicorn re-raises them, and what comes after `serve()` never runs."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_started: Callable[[], None] = lambda: None,
        settings: ServerSettings | None = None,
        counts: DoorCounts | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._settings = settings or ServerSettings()
        self._counts = counts or DoorCounts()
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and say so."""
        await self.lifespan.startup()
        made: Any = self.config.http_protocol_class
        make = partial(made, config=self.config, server_state=self.server_state, app_state={})
        doors = [
            Door(bound, make, settings=self._settings, counts=self._counts, tls=self._tls) for bound in sockets or ()
        ]
        self.servers: Any = doors
        self.started = True
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def take_server(config: uvicorn.Config, bound: socket.socket, settings: Settings) -> None:
    """Take other limits, for connections that begin from now on."""
    config.ws_max_size = message_bytes(settings.inference)
    if sys.platform == "linux" and bound.fileno() >= 0:
        dead_peer_seconds = 2 * settings.streams.write_timeout_seconds
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_peer_seconds * 1000))


def listen(host: str, port: int, *, dead_peer_seconds: float) -> socket.socket:
    """Bind a listening socket; what is set here is inherited by the connections it accepts.

    A connection whose peer has acknowledged nothing for `dead_peer_seconds` is ended by the kernel (`TCP_USER_TIMEOUT`,
    RFC 5482): the cable was cut, the kiosk lost its power.

    Raises:
        StartError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # without it asyncio leaves Nagle on: +40 ms
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux":  # elsewhere dead peers stay longer
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_peer_seconds * 1000))
        bound.bind((host, port))
        bound.listen(BACKLOG)  # now, so that a second daemon on this port fails here and not later
    except OSError as exc:
        bound.close()
        why = exc.strerror or repr(exc)
        raise StartError(f"cannot listen on {host}:{port}: {why}; free the port or set server.port") from exc
    bound.setblocking(False)
    return bound


def load_tls(settings: Settings) -> Tls | None:
    """Load the certificate, if there is one.

    Raises:
        StartError: it cannot be used.
    """
    cert, key = settings.server.tls_cert, settings.server.tls_key
    if cert is None or key is None:
        return None
    try:
        return Tls(Pair(cert, key))
    except SettingsError as exc:
        raise StartError(str(exc)) from None


def make_server(settings: Settings, services: Services, tls: Tls | None, *, on_started: Callable[[], None]) -> Server:
    """Build the server around the parts of the daemon."""
    app = create_app(services)
    services.tls = tls
    if tls is not None:
        services.metrics.read_from(tls.samples)
    options: dict[str, Any] = {
        "lifespan": "off",
        "http": protocol(app),
        **socket_options(settings),
        "log_config": None,
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        **proxy_options(settings.server),
        "root_path": settings.server.root_path,
    }
    return Server(
        uvicorn.Config(app, **options),
        on_started=on_started,
        settings=settings.server,
        counts=services.doors,
        tls=(lambda: tls.context) if tls is not None else None,
    )


def protocol(app: Litestar) -> Any:
    """Return what uvicorn is to speak HTTP with for an application: as its `http`, in place of a class."""
    services = app.state.services
    return partial(
        DroppableProtocol,
        snapshots=app.state.cached_snapshots,
        head_seconds=services.settings.server.header_timeout_seconds,
        on_refused=lambda status: services.metrics.requests.labels("unknown", str(status.value)).inc(),
    )


def url_of(settings: Settings, bound: socket.socket) -> str:
    """Return where the daemon is, for people."""
    host, port = settings.server.host, bound.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    return f"http{'s' if settings.server.tls_cert else ''}://{shown}:{port}"
