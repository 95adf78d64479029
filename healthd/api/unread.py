"""Answers that come before the request has been read to its end: the client gets to read them, and then it is over.

A server that closes a socket with unread bytes in it resets the connection, and the answer may be lost with it; one
that keeps it open reads what nobody wants for as long as the client cares to send.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

LINGER_SECONDS = 2.0
"""How long a client may go on sending after its answer; what it sends is thrown away."""
SMALL_BYTES = 65_536
"""So much is left to the server, which reads it and keeps the connection."""


class UnreadBodies:
    """Ends connections whose request was answered before it was read, in a way that lets the answer arrive."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer; where it has not read the body, close the connection after the answer."""
        if scope["type"] != ScopeType.HTTP or not _is_large(scope["headers"]):
            await self._app(scope, receive, send)
            return
        headers = Headers.from_scope(scope)
        body = _Body(receive, waits=headers.get("expect", "").lower() == "100-continue")

        async def answer(message: Message) -> None:
            if body.ended:
                await send(message)
            elif message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
                await send(message)
            elif message["type"] == "http.response.body" and not message["more_body"]:
                await send({**message, "more_body": True})
                await body.drain()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send(message)

        await self._app(scope, body.receive, answer)


class _Body:
    """The body of one request, and whether all of it has been read."""

    def __init__(self, receive: Receive, *, waits: bool) -> None:
        self.ended = False
        self._receive = receive
        self._waits = waits
        """Whether the client sends nothing before it is told to; the server tells it when the body is asked for."""

    async def receive(self) -> Any:
        """Read the next piece."""
        self._waits = False
        message: Any = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            self.ended = True
        return message

    async def drain(self) -> None:
        """Read what is left, for a while."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not (self.ended or self._waits):
                    await self.receive()
        except TimeoutError:
            return


def _is_large(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell from the raw headers whether a body comes that the server would not simply read."""
    chunked = False
    for name, value in headers:
        if name == b"content-length":
            return value.isdigit() and int(value) > SMALL_BYTES
        chunked = chunked or name == b"transfer-encoding"
    return chunked
