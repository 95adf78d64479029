"""uvicorn as healthd uses it: no hands on signals, sockets that notice dead peers, connections that can be dropped."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from healthd.errors import HealthdError

BACKLOG = 2048
UNSENT_BYTES = 128 * 1024
"""What the kernel may hold unsent for one connection: a slow viewer skips frames instead of getting old ones."""
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)


class StartError(HealthdError):
    """The daemon cannot start; the message says what to do."""


class DroppableProtocol(HttpToolsProtocol):
    """Offers `healthd.connection` in the scope: `abort()` drops the connection with what is still in its buffers."""

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        extensions: dict[str, Any] = {"healthd.connection": {"abort": self.transport.abort}}
        self.scope["extensions"] = extensions


class Server(uvicorn.Server):
    """uvicorn without hands on the signals: stock uvicorn re-raises them, and what comes after `serve()` never runs."""

    def __init__(self, config: uvicorn.Config, *, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def listen(host: str, port: int, *, dead_peer_seconds: float) -> socket.socket:
    """Bind a listening socket; what is set here is inherited by the connections it accepts (Linux).

    A connection whose peer has acknowledged nothing for `dead_peer_seconds` is ended by the kernel (`TCP_USER_TIMEOUT`,
    RFC 5482): the cable was cut, the kiosk lost its power.

    Raises:
        StartError: the address cannot be had.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # not on this system: slow viewers then lag by what its buffers hold
            bound.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            bound.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, int(dead_peer_seconds * 1000))
        bound.bind((host, port))
        bound.listen(BACKLOG)  # now, so that a second daemon on this port fails here and not later
    except OSError as exc:
        bound.close()
        why = exc.strerror or repr(exc)
        raise StartError(f"cannot listen on {host}:{port}: {why}; free the port or set server.port") from exc
    bound.setblocking(False)
    return bound
