"""Viewers of a stream who do as little as they can: they read, and count the frames they are given."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

MARK = b"X-Frame-Id: "
END = b"\r\n0\r\n\r\n"


class Viewer(asyncio.Protocol):
    """One GET, read to its end."""

    def __init__(self) -> None:
        self.frames = 0
        self.received = 0
        self.clean = False
        """The end of the chunked body was read."""
        self.lost_at: float | None = None
        self.first = asyncio.Event()
        self.text = b""
        """The last that came."""
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember when."""
        del exc
        self.lost_at = time.perf_counter()

    def data_received(self, data: bytes) -> None:
        """Count, and forget."""
        self.received += len(data)
        seen = self._tail + data
        self.frames += seen.count(MARK)
        self._tail = seen[-(len(MARK) - 1) :]
        self.text = data
        self.clean = data.endswith(END) or seen.endswith(END)
        self.first.set()


async def look(url: str, path: str, *, receive_buffer: int | None = None) -> Viewer:
    """Open one viewer; return once it has got something."""
    parts = urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (parts.hostname, parts.port))
    _, viewer = await loop.create_connection(Viewer, sock=sock)
    viewer.transport.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    return viewer


@contextlib.asynccontextmanager
async def looking(url: str, *paths: str, receive_buffer: int | None = None) -> AsyncIterator[list[Viewer]]:
    """Open a viewer for each path, and close them at the end of the block."""
    viewers = [await look(url, path, receive_buffer=receive_buffer) for path in paths]
    try:
        yield viewers
    finally:
        for viewer in viewers:
            viewer.transport.abort()
        await asyncio.sleep(0)
