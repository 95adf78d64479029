"""Bodies: small ones have an end soon. Answers that come before one has been read to its end arrive all the same.

A server that closes a socket with unread bytes in it resets the connection, and the answer may be lost with it; one
that keeps it open reads what nobody wants for as long as the client cares to send.
"""

import asyncio
import math
from collections.abc import Iterable
from typing import Any

from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.exceptions import ClientException
from litestar.types import ASGIApp, Message, Receive, Scope, Send

LINGER_SECONDS = 2.0
"""How long a client may go on sending after its answer; what it sends is thrown away."""
MOST_BYTES = 262_144
"""Of a body that is no upload: a key, a few settings."""
SMALL_BYTES = 65_536
"""So much is left to the server, which reads it and keeps the connection."""


class Bodies:
    """Bounds what routes are sent that take a few words, and no upload.

    Ends connections whose request was answered before it was read, in a way that lets the answer arrive.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        """`seconds`: how long a body may take to arrive; one that is uploaded has limits of its own."""
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer; where it has not read the body, close the connection after the answer."""
        size = _announced(scope["headers"]) if scope["type"] == ScopeType.HTTP else 0
        if not size:
            await self._app(scope, receive, send)
            return
        headers = Headers.from_scope(scope)
        body = _Body(scope, receive, waits=headers.get("expect", "").lower() == "100-continue", seconds=self._seconds)

        async def answer(message: Message) -> None:
            if body.ended or (size <= SMALL_BYTES and not body.late):  # the server reads the rest of a small one
                await send(message)
            elif message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
                await send(message)
            elif message["type"] == "http.response.body" and not message["more_body"] and not body.late:
                await send({**message, "more_body": True})
                await body.drain()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send(message)

        await self._app(scope, body.receive, answer)


class _Body:
    """The body of one request, and whether all of it has been read."""

    def __init__(self, scope: Any, receive: Receive, *, waits: bool, seconds: float) -> None:
        self.ended = self.late = False
        self._scope = scope
        self._receive = receive
        self._seconds = seconds
        self._begun_at: float | None = None
        self._received = 0
        self._waits = waits
        """Whether the client sends nothing before it is told to; the server tells it when the body is asked for."""

    async def receive(self) -> Any:
        """Read the next piece.

        Raises:
            ClientException: 408 or 413: it takes too long, or is too large, for a few words.
        """
        if self.ended or not self._is_small:
            return await self._read()
        now = asyncio.get_running_loop().time()
        self._begun_at = self._begun_at or now
        try:
            async with asyncio.timeout_at(self._begun_at + self._seconds):
                message = await self._read()
        except TimeoutError:
            self.late = True
            told = f"the body did not arrive within {self._seconds:g} s (server.header_timeout_seconds)"
            raise ClientException(told, status_code=408) from None
        if self._received > MOST_BYTES:
            raise ClientException(f"the body has more than {MOST_BYTES:,} bytes", status_code=413)
        return message

    @property
    def _is_small(self) -> bool:
        """Whether the framework reads it for the route; known once that was found. Others have limits of their own."""
        handler = self._scope.get("route_handler")
        return handler is not None and handler.parsed_data_field is not None

    async def _read(self) -> Any:
        self._waits = False
        message: Any = await self._receive()
        self._received += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            self.ended = True
        return message

    async def drain(self) -> None:
        """Read what is left, for a while."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not (self.ended or self._waits):
                    await self._read()
        except TimeoutError:
            return


def _announced(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """Tell from the raw headers how many bytes come; of a body in chunks, which does not say, without end."""
    chunked = False
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
        chunked = chunked or name == b"transfer-encoding"
    return math.inf if chunked else 0
