"""uvicorn as healthd uses it: no hands on signals, sockets that notice dead peers, connections that can be dropped."""

import asyncio
import contextlib
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from healthd.api.connection import EXTENSION, Connection
from healthd.errors import HealthdError
from healthd.http_refusals import bad_request

BACKLOG = 2048
UNSENT_BYTES = 32 * 1024
"""What the kernel may hold unsent for one connection: a slow viewer skips frames instead of getting old ones."""


class StartError(HealthdError):
    """The daemon cannot start; the message says what to do."""


class DroppableProtocol(HttpToolsProtocol):
    """Keeps nothing back in a buffer of its own, and puts a `Connection` into the scope of each request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection. A write has room again only when the kernel has taken all that was written before."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        self._lost = asyncio.get_running_loop().create_future()
        self._cycles: weakref.WeakSet[Any] = weakref.WeakSet()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request of this connection: uvicorn tells the one that came last, and blames the others."""
        super().connection_lost(exc)
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        if not self._lost.done():
            self._lost.set_result(None)

    def on_headers_complete(self) -> None:
        """Begin a request, or a WebSocket: not on top of an answer that is still being sent."""
        busy = self.cycle is not None and not self.cycle.response_complete
        self._upgrades = not busy and self.parser.get_method() == b"GET" and super()._should_upgrade()
        super().on_headers_complete()
        if self.parser.should_upgrade() and self._upgrades:
            return
        cycle: Any = self.cycle
        if cycle is None:  # it becomes something else than HTTP
            return
        self._cycles.add(cycle)

        def send_bare() -> None:
            cycle.chunked_encoding, cycle.expected_content_length = False, sys.maxsize

        connection = Connection(
            lost=self._lost,
            abort=self.transport.abort,
            close=self.transport.close,
            drained=self.flow.drain,
            send_bare=send_bare,
        )
        scope: Any = self.scope
        scope["extensions"] = {EXTENSION: connection}

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's words
        """Refuse what is no request, in the shape of every error."""
        self.transport.write(bad_request("this is no request of HTTP/1.1 that can be read"))
        self.transport.close()

    def _should_upgrade(self) -> bool:
        """Answer as it was when the head of the request was read."""
        return self._upgrades

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request is answered as if it had not asked."""


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
        if sys.platform == "linux":  # elsewhere slow viewers lag by what its buffers hold, dead ones stay longer
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_peer_seconds * 1000))
        bound.bind((host, port))
        bound.listen(BACKLOG)  # now, so that a second daemon on this port fails here and not later
    except OSError as exc:
        bound.close()
        why = exc.strerror or repr(exc)
        raise StartError(f"cannot listen on {host}:{port}: {why}; free the port or set server.port") from exc
    bound.setblocking(False)
    return bound
