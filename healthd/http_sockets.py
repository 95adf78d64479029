"""uvicorn's WebSockets as healthd uses them: ends that are told and bounded, and a life that busy links survive."""

import asyncio
import logging
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from healthd.api.connection import EXTENSION, Connection
from healthd.api.sockets import message_bytes
from healthd.http_refusals import HEADERS, bad_request, error_body
from healthd.settings import Settings
from healthd.waiting import Pace

PING_SECONDS = 20.0
"""How often a peer is asked whether it is there, and how long it may take to say so."""
LINGER_SECONDS = 2.0
"""How long what a peer goes on sending is thrown away after it was told why its socket ends."""
SAY_SECONDS = 1.5
"""How long the application has, at a stop, to say itself why a socket ends; it needs twice `CLOSE_SECONDS` at most."""
MAX_UNSENT_BYTES = 64 * 1024
"""Of answers to pings that a peer does not read."""
MAX_FRAGMENTS = 16_384
"""Pieces of one message; smaller ones would take many times the memory of what they carry."""
SMALL_BYTES = 1024
"""A piece of a message below that is a crumb: reading it costs many times what it carries."""
CRUMBS_A_SECOND = 1000
"""What is taken of them, after as many at once."""
CONTROLS_A_SECOND = 100
"""Pings and pongs, after as many at once. They are no messages, so nothing else bounds them."""
SLICE_BYTES = 4096
"""What is read of a socket before it is looked at: of frames of six bytes, some 5 ms of work.

asyncio reads 256 KiB at once: 43,000 of such frames held everybody else up for half a second (measured).
"""
_NO_SOCKET = "no WebSocket can begin with this request"


def socket_options(settings: Settings) -> dict[str, Any]:
    """Return what uvicorn must be told of WebSockets. Pictures are compressed already: nothing is deflated."""
    return {
        "ws": SocketProtocol,
        "ws_max_size": message_bytes(settings.inference),
        "ws_ping_interval": PING_SECONDS,
        "ws_ping_timeout": PING_SECONDS,
        "ws_per_message_deflate": False,
    }


class _Handshake(ServerProtocol):
    """Refuses a handshake that is none in the shape of every error, not in plain text."""

    def reject(self, status: StatusLike, text: str) -> Response:
        """Return the answer to send."""
        refused = super().reject(status, text)
        body = error_body(refused.status_code, f"{_NO_SOCKET}: {text.strip()}")
        for name, value in (*HEADERS, ("content-length", str(len(body)))):
            if name in refused.headers:
                del refused.headers[name]
            refused.headers[name] = value
        return Response(refused.status_code, refused.reason_phrase, refused.headers, body)


class SocketProtocol(WebSocketsSansIOProtocol):
    """Puts a `Connection` into the scope of each socket, and ends it in a way that the peer gets to know of.

    Takes over from `DroppableProtocol`, with its transport: a write has room when the kernel has taken all before it.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a connection."""
        super().connection_made(transport)
        self.conn = _Handshake(max_size=self.config.ws_max_size, logger=logging.getLogger("uvicorn.error"))
        self.lost: asyncio.Future[None] = self.loop.create_future()
        self._heard_at = self.loop.time()
        self._failed = False
        """Whether the peer was told to go, or dropped, for what it sent."""
        self._rest = b""
        """What came behind a message that nobody has taken yet."""
        self._controls, self._crumbs = Pace(CONTROLS_A_SECOND), Pace(CRUMBS_A_SECOND)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for the end of the connection."""
        super().connection_lost(exc)
        if not self.lost.done():
            self.lost.set_result(None)

    def shutdown(self) -> None:
        """End a socket at a stop. The application was told before: what it says of the end must come first.

        Without the wait a busy machine told clients 1012 and nothing, where 1001 and the reason were due (measured).
        """
        if not self.handshake_complete or self._failed:
            super().shutdown()
            return
        self.stop_keepalive()
        end = self.loop.call_later(SAY_SECONDS, self._end)
        self.lost.add_done_callback(lambda _: end.cancel())

    def _end(self) -> None:
        """End a socket of which nothing was said, or whose peer does not take the rest."""
        if self.transport.is_closing():  # the peer has said its own goodbye: nothing can be said any more
            self.transport.abort()
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Take in what the peer sends; nothing counts after it was told to go."""
        self._heard_at = self.loop.time()
        if self._failed:
            return
        if self.handshake_initiated:
            self._rest += data
            self._take_in()
            return
        super().data_received(data)
        if not self.handshake_initiated:  # the whole request is here, and it is none that a socket can begin with
            self.transport.write(b"".join(self.conn.data_to_send()) or bad_request(_NO_SOCKET))
            self.transport.close()

    def _take_in(self) -> None:
        """Take in what has come, up to a message that waits; slice by slice, so that a flood ends with the first."""
        data, self._rest, at = self._rest, b"", 0
        while at < len(data) and not self.read_paused and not self._failed:
            super().data_received(data[at : at + SLICE_BYTES])
            at += SLICE_BYTES
        self._rest = b"" if self._failed else data[at:]

    def handle_connect(self, event: Request) -> None:
        """Begin a socket, or refuse a request that begins none."""
        try:
            super().handle_connect(event)
        except UnicodeError:  # a path of bytes that are no text
            self.handshake_initiated = False
            return
        if self.response.status_code == 101:
            scope: Any = self.scope
            scope["extensions"][EXTENSION] = Connection(
                lost=self.lost,
                abort=self.transport.abort,
                close=self.transport.close,
                drained=self.writable.wait,
                misused=lambda: self._failed,
            )

    def handle_cont(self, event: Frame) -> None:
        """Take in one more piece of a message."""
        if self._failed:
            return
        if len(self.frames) >= MAX_FRAGMENTS:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"more than {MAX_FRAGMENTS} fragments")
        elif len(event.data) < SMALL_BYTES and self._crumbs.count() > 0:
            crumbs = f"fragments of less than {SMALL_BYTES} bytes"
            self._fail(CloseCode.POLICY_VIOLATION, f"more than {CRUMBS_A_SECOND} {crumbs} a second")
        else:
            super().handle_cont(event)

    def handle_pong(self, event: Frame) -> None:
        """Take in a pong, asked for or not."""
        if self._has_room_for_control():
            super().handle_pong(event)

    def handle_ping(self) -> None:
        """Answer a ping; drop a peer that asks and does not read."""
        if not self._has_room_for_control():
            return
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._failed = True
            self.transport.abort()

    def send_receive_event_to_app(self) -> None:
        """Hand a message on; what is no text is the peer's mistake and none of ours."""
        if self._failed:
            return
        if self.close_sent and self._crumbs.count() > 0:  # nobody takes these: nothing else slows them
            self._failed = True
            return
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")
                return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Say what was wrong. What the peer is still sending is read on for a while: a reset would eat our words."""
        close = self.conn.close_sent
        code, reason = (close.code, close.reason) if close is not None else (CloseCode.ABNORMAL_CLOSURE, "")
        self._failed = True
        self.stop_keepalive()
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():  # TLS knows no half of a connection
            self.transport.write_eof()
        self.read_paused = False
        self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """Drop a peer that has not answered. One that is heard of is alive: its answer waits behind a large picture."""
        if self._heard_at > self.ping_sent_at or self.read_paused:
            self.ping_sent_at = self.loop.time()
            self.pong_timer = self.loop.call_later(self.ping_timeout or PING_SECONDS, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    async def send(self, message: Any) -> None:
        """Send what the application says; a refusal completes the handshake."""
        if self._failed:  # the application has not heard of it yet
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True
        elif message["type"] == "websocket.close":  # reads on, for the peer's own word of the end
            self._take_in()

    async def receive(self) -> Any:
        """Give the next message; when all were given, take in what came behind them."""
        message = await super().receive()
        self._take_in()
        return message

    def _has_room_for_control(self) -> bool:
        """Count a ping or a pong; end the socket where it is one too many."""
        if not self._failed and self._controls.count() > 0:
            self._fail(CloseCode.POLICY_VIOLATION, f"more than {CONTROLS_A_SECOND} pings and pongs a second")
        return not self._failed

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.frames = []
        if not self.handshake_complete:  # there is no socket yet on which it could be said
            self._failed = True
            self.transport.abort()
            return
        self.conn.fail(code, reason)
        self.handle_parser_exception()
