"""uvicorn as healthd uses it: no hands on signals, sockets that notice dead peers, a door with limits."""

import contextlib
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import uvicorn

from healthd.api.connection import DoorCounts
from healthd.errors import HealthdError
from healthd.http_door import Door
from healthd.http_protocol import DroppableProtocol, protocol
from healthd.settings import ServerSettings

__all__ = ["DroppableProtocol", "Server", "StartError", "listen", "protocol"]
BACKLOG = 2048


class StartError(HealthdError):
    """The daemon cannot start; the message says what to do."""


class Server(uvicorn.Server):
    """uvicorn without hands on the signals: stock uvicorn re-raises them, and what comes after `serve()` never runs."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_started: Callable[[], None] = lambda: None,
        settings: ServerSettings | None = None,
        counts: DoorCounts | None = None,
        tls: ssl.SSLContext | None = None,
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
