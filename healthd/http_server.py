"""uvicorn as healthd uses it: no hands on signals, sockets that notice dead peers, connections that can be dropped."""

import asyncio
import contextlib
import os
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import uvicorn
from litestar import Litestar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from healthd.api.cached import CachedSnapshots, Question
from healthd.api.connection import EXTENSION, Connection
from healthd.errors import HealthdError
from healthd.http_refusals import bad_request

BACKLOG = 2048
UNSENT_BYTES = 32 * 1024
"""What the kernel may hold unsent of one stream: a slow viewer skips frames instead of getting old ones."""


class StartError(HealthdError):
    """The daemon cannot start; the message says what to do."""


class DroppableProtocol(HttpToolsProtocol):
    """Keeps nothing back in a buffer of its own, and puts a `Connection` into the scope of each request.

    With `snapshots`, those that are encoded are answered here, one each time that something comes: a client that sends
    many requests at once waits for its turn as all do. A request known by heart whose picture is being encoded is held
    back until it is, as if it came then; nothing is read meanwhile.
    """

    def __init__(self, *args: Any, snapshots: CachedSnapshots | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._snapshots = snapshots
        self._question: Question | None = None
        """What was answered of what has just come."""
        self._answers_now = False
        """The request that is being read was answered as soon as its head was there."""
        self._begun, self._ended = 0, 0
        """Requests whose first and whose last byte came."""
        self._answered_at = 0.0
        self._held: bytes | None = None
        """A request that waits for its picture to be encoded."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection. A write has room again only when the kernel has taken all that was written before."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        self._socket = transport.get_extra_info("socket")
        if self.scheme == "https":
            self._snapshots = None  # what is written past the transport is not encrypted
        self._lost = asyncio.get_running_loop().create_future()
        self._cycles: weakref.WeakSet[Any] = weakref.WeakSet()

    def data_received(self, data: bytes) -> None:
        """Answer a request that is known by heart, or read what came."""
        snapshots, self._question = self._snapshots, None
        if snapshots is None:
            super().data_received(data)
            return
        begun = self._begun
        at_rest = begun == self._ended
        if at_rest:
            known = snapshots.known(data)
            if known is not None and (self._answer(known) or self._hold(data, known)):
                return
        super().data_received(data)
        if at_rest and self._begun == self._ended == begun + 1:
            self._learn(data)

    def on_message_begin(self) -> None:
        """Begin to read a request."""
        super().on_message_begin()
        self._answers_now = False
        self._begun += 1

    def on_body(self, body: bytes) -> None:
        """Take in a piece of a body."""
        if not self._answers_now:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End reading a request."""
        self._ended += 1
        if not self._answers_now:
            super().on_message_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nothing was asked for a while."""
        now = self.loop.time()
        left = (now if self._held is not None else self._answered_at) + self.timeout_keep_alive - now
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request of this connection: uvicorn tells the one that came last, and blames the others."""
        self._held = None
        super().connection_lost(exc)
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        if not self._lost.done():
            self._lost.set_result(None)

    def on_headers_complete(self) -> None:
        """Begin a request, or a WebSocket: not on top of an answer that is still being sent."""
        if self._answers_at_once():
            self._answers_now = True
            return
        self._unset_keepalive_if_required()  # set by an answer to what came in the same piece
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
            hold_little=self._hold_little,
        )
        scope: Any = self.scope
        scope["extensions"] = {EXTENSION: connection}

    def _learn(self, request: bytes) -> None:
        if self._snapshots is not None and self._question is not None:
            self._snapshots.remember(request, self._question)

    def shutdown(self) -> None:
        """End after what was asked already is answered."""
        self._let_go(None)
        super().shutdown()

    @property
    def _is_free(self) -> bool:
        """Whether nothing is being answered, and all that was is with the kernel."""
        transport, cycle = self.transport, self.cycle
        idle = cycle is None or cycle.response_complete
        return idle and not transport.get_write_buffer_size() and not transport.is_closing()

    def _hold(self, request: bytes, question: Question) -> bool:
        """Wait with a request until its picture is encoded, if that is all that is missing."""
        encoding = self._snapshots.encoding(question) if self._snapshots is not None and self._is_free else None
        if encoding is None:
            return False
        self._held = request
        self.flow.pause_reading()

        def encoded(task: "asyncio.Task[bytes]") -> None:
            failed = task.cancelled() or task.exception() is not None
            self._let_go(None if failed else question)

        encoding.add_done_callback(encoded)
        return True

    def _let_go(self, question: Question | None) -> None:
        """Go on with a request that was held back; the whole way, unless its `question` can be answered now."""
        held, self._held = self._held, None
        if held is None:
            return
        self.flow.resume_reading()
        if question is None or not self._answer(question):
            super().data_received(held)

    def _answers_at_once(self) -> bool:
        """Answer the request whose head is here, if it is for a picture that is encoded and nothing else is asked."""
        parser, snapshots = self.parser, self._snapshots
        if (
            snapshots is None
            or self._question is not None
            or parser.get_method() != b"GET"
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
        ):
            return False
        question = snapshots.question(self.url, self.headers, self.client[0] if self.client else "")
        if question is None or not self._answer(question):
            return False
        self._question = question
        return True

    def _answer(self, question: Question) -> bool:
        """Write the answer to a question, unless another is on its way or the cache has none."""
        if self._snapshots is None or not self._is_free:
            return False
        transport = self.transport
        answer = self._snapshots.answer(question, self.server_state.default_headers)
        if answer is None:
            return False
        head, body = answer
        try:
            sent = os.writev(self._socket.fileno(), answer)  # neither the transport nor the kernel needs a copy of both
        except OSError:  # it has no room; or it is broken, which the transport gets to know by the same
            sent = 0
        if sent < len(head):
            transport.write(head[sent:])
            transport.write(body)
        elif sent < len(head) + len(body):
            transport.write(memoryview(body)[sent - len(head) :])
        self.server_state.total_requests += 1
        self._answered_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        return True

    def handle_websocket_upgrade(self) -> None:
        """Go on as a WebSocket."""
        self._hold_little(True)
        super().handle_websocket_upgrade()

    def _hold_little(self, little: bool) -> None:  # noqa: FBT001  as `Connection` says
        if sys.platform == "linux" and not self.transport.is_closing():  # elsewhere slow viewers lag by its buffers
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES if little else 0)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's words
        """Refuse what is no request, in the shape of every error."""
        self.transport.write(bad_request("this is no request of HTTP/1.1 that can be read"))
        self.transport.close()

    def _should_upgrade(self) -> bool:
        """Answer as it was when the head of the request was read."""
        return self._upgrades

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request is answered as if it had not asked."""


def protocol(app: Litestar) -> Any:
    """Return what uvicorn is to speak HTTP with for an application: as its `http`, in place of a class."""
    return partial(DroppableProtocol, snapshots=app.state.cached_snapshots)


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
