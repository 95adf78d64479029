"""uvicorn's HTTP as healthd uses it: connections that can be dropped, pictures at once, heads with an end."""

import asyncio
import os
import socket
import sys
import weakref
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from healthd.api.cached import CachedSnapshots, Question
from healthd.api.connection import EXTENSION, Connection
from healthd.http_refusals import bad_request
from healthd.http_unsent import Unsent
from healthd.settings import ServerSettings

UNSENT_BYTES = 32 * 1024
"""What the kernel may hold unsent of one stream: a slow viewer skips frames instead of getting old ones."""
MAX_HEAD_BYTES = 65_536
"""Of a request: its line and its headers, or what follows a body in chunks."""
MAX_PIPELINED = 100
"""Requests that may wait on one connection while another is being answered."""
LINGER_SECONDS = 2.0
"""How long what a client goes on sending is thrown away after it was told why its connection ends."""
TAKING_SECONDS = 1.0
"""How often it is looked whether an answer has been taken."""
_NO_REQUEST = "this is no request of HTTP/1.1 that can be read"


class DroppableProtocol(HttpToolsProtocol):
    """Keeps nothing back in a buffer of its own, and puts a `Connection` into the scope of each request.

    With `snapshots`, those that are encoded are answered here, one each time that something comes: a client that sends
    many requests at once waits for its turn as all do. A request known by heart whose picture is being encoded is held
    back until it is, as if it came then; nothing is read meanwhile.
    """

    def __init__(
        self,
        *args: Any,
        snapshots: CachedSnapshots | None = None,
        head_seconds: float = ServerSettings().header_timeout_seconds,
        on_refused: Callable[[HTTPStatus], object] = lambda _: None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._on_refused = on_refused
        self._snapshots = snapshots
        self._head_seconds = head_seconds
        self._head_at: float | None = None
        """Since when a head is being read."""
        self._free_at = 0.0
        """When the connection was made, or the last answer was complete."""
        self._head_bytes = self._silent_bytes = self._steps = 0
        """Of the head as far as it was read; since the parser last got anywhere; and how often it did."""
        self._refusal = (HTTPStatus.BAD_REQUEST, _NO_REQUEST)
        self._refused = self._has_become_socket = self._closes = False
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
        self._encrypts = self.scheme == "https"
        transport.set_write_buffer_limits(high=int(self._encrypts), low=0)  # asyncio's TLS takes 0 for: never write
        self._socket = transport.get_extra_info("socket")
        self._unsent = Unsent(transport)
        self._free_at = self.loop.time()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cycles: weakref.WeakSet[Any] = weakref.WeakSet()

    def data_received(self, data: bytes) -> None:
        """Answer a request that is known by heart, or read what came."""
        if self._refused:
            return
        snapshots, self._question = self._snapshots, None
        if snapshots is None:
            self._read(data)
            return
        begun = self._begun
        at_rest = begun == self._ended
        if at_rest:
            known = snapshots.known(data)
            if known is not None and (self._answer(known) or self._hold(data, known)):
                return
        self._read(data)
        if at_rest and self._begun == self._ended == begun + 1:
            self._learn(data)

    def _read(self, data: bytes) -> None:
        """Let the parser read; refuse what it would have to keep without end."""
        steps = self._steps
        self._feed(data)
        self._silent_bytes = self._silent_bytes + len(data) if steps == self._steps else 0
        if self._silent_bytes > MAX_HEAD_BYTES:
            self._refuse(*_TOO_LARGE)

    def _feed(self, data: bytes) -> None:
        """Let the parser read. What is no HTTP is refused without a word in the log: strangers write no log."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(*self._refusal)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        """Begin to read a request."""
        super().on_message_begin()
        self._head_at, self._head_bytes = self.loop.time(), 0
        self._steps += 1
        self._answers_now = False
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        """Take in a piece of the target."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header."""
        self._count_head(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count_head(self, size: int) -> None:
        """Count what a request says before its body.

        Raises:
            _RefusedError: it is too much.
        """
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = _TOO_LARGE
            raise _RefusedError

    def on_body(self, body: bytes) -> None:
        """Take in a piece of a body."""
        self._steps += 1
        if not self._answers_now:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End reading a request."""
        self._ended += 1
        self._steps += 1
        if not self._answers_now:
            super().on_message_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nothing was asked for a while. Whoever still takes an answer is not done."""
        now = self.loop.time()
        left = self._answered_at + self.timeout_keep_alive - now
        if self._held is not None or self._unsent.size:
            self._answered_at, left = now, min(TAKING_SECONDS, self.timeout_keep_alive)
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
        self._end()

    def on_headers_complete(self) -> None:
        """Begin a request, or a WebSocket: not on top of an answer that is still being sent."""
        self._head_at = None
        self._steps += 1
        if self._answers_at_once():
            self._answers_now = True
            return
        self._unset_keepalive_if_required()  # set by an answer to what came in the same piece
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy and len(self.pipeline) >= MAX_PIPELINED:
            raise _RefusedError
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
            lost=self.lost,
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
        return idle and not self._unsent.buffered and not transport.is_closing()

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
            self._feed(held)

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
        try:  # neither the transport nor the kernel needs a copy of both; what is encrypted is copied anyway
            sent = 0 if self._encrypts else os.writev(self._socket.fileno(), answer)
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
        self._has_become_socket = True
        super().handle_websocket_upgrade()
        taken_over: Any = self.transport.get_protocol()
        taken_over.lost.add_done_callback(lambda _: self._end())

    def _hold_little(self, little: bool) -> None:  # noqa: FBT001  as `Connection` says
        if sys.platform == "linux" and not self.transport.is_closing():  # elsewhere slow viewers lag by its buffers
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES if little else 0)

    def on_response_complete(self) -> None:
        """Go on with the next request; nothing more is read while others wait."""
        self._free_at = self.loop.time()
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()

    @property
    def has_asked(self) -> bool:
        """Whether a request was read to the end of its head."""
        return self._ended > 0

    @property
    def idle_since(self) -> float | None:
        """When it was answered last; None: it is being answered, or has become a WebSocket."""
        cycle = self.cycle
        if self._has_become_socket or self._held is not None or (cycle is not None and not cycle.response_complete):
            return None
        return max(self._free_at, self._answered_at)

    def look(self, now: float) -> str | None:
        """End what is too slow; return why, if it did."""
        since, transport, unsent = self.idle_since, self.transport, self._unsent
        if transport.is_closing():
            if not self._closes:
                self._closes = True
                unsent.forget()
            if unsent.is_over(now):
                unsent.drop()
        elif since is None or self._refused:
            unsent.forget()
            return None
        elif self._head_at is not None and now - self._head_at > self._head_seconds:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")
            return "slow"
        elif (
            self._head_at is None and not unsent.size and now - since > max(self._head_seconds, self.timeout_keep_alive)
        ):
            transport.close()
            return "silent"
        if unsent.is_stuck(now):
            unsent.drop()
            return "untaken"
        return None

    def cut(self) -> None:
        """Drop the connection."""
        self._unsent.drop()

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Say why the connection ends. What the client is still sending is read on: a reset would eat our words."""
        if self._refused:  # the parser has, and then the bytes are counted
            return
        transport, cycle = self.transport, self.cycle
        self._refused, self._head_at = True, None
        self._on_refused(status)
        if cycle is not None and not cycle.response_complete:  # there is no place for it in the middle of an answer
            transport.abort()
            return
        transport.write(bad_request(detail, status))
        if not transport.can_write_eof() or transport.is_closing():
            transport.close()
            return
        transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_SECONDS, transport.abort)

    def _end(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def _should_upgrade(self) -> bool:
        """Answer as it was when the head of the request was read."""
        return self._upgrades


class _RefusedError(Exception):
    """Nothing more is read of this connection."""


_TOO_LARGE = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"the head of a request has more than {MAX_HEAD_BYTES:,} bytes",
)
