"""Viewers and pollers who do as little as they can: they read, and count the frames they are given."""

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from datetime import datetime
from urllib.parse import urlsplit

FRAME = re.compile(rb"X-Frame-Id: (\d+)\r\n")
CLOSED, END = b"--healthd-frame--\r\n", b"\r\n0\r\n\r\n"
LONGEST_MARK = 64
"""Bytes; a mark that is cut in two by two reads is not longer."""


class Viewer(asyncio.Protocol):
    """One GET, read to its end."""

    def __init__(self) -> None:
        self.frames = 0
        self.missed = 0
        """Frames between the first and the newest that did not come."""
        self.received = 0
        self.clean = False
        """The end of the chunked body was read, and before it that of the multipart, where it is one."""
        self.lost_at: float | None = None
        self.first = asyncio.Event()
        self.status = 0
        """Of the answer; 0: none has come."""
        self.text = b""
        """The last that came."""
        self._newest = 0
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
        if not self.received:
            self.status = int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/") else 0
        self.received += len(data)
        self.text = data
        seen, counted = self._tail + data, 0
        for found in FRAME.finditer(seen):
            number, counted = int(found[1]), found.end()
            self.missed += number - self._newest - 1 if self.frames else 0
            self.frames += 1
            self._newest = number
        self.clean = seen.endswith(END) and (self.frames == 0 or CLOSED in seen[-LONGEST_MARK:])
        self._tail = seen[max(counted, len(seen) - LONGEST_MARK) :]
        self.first.set()

    def reset(self) -> None:
        """Leave with a reset in place of a goodbye."""
        sock = self.transport.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Poller(asyncio.Protocol):
    """Asks for the next frame as soon as it has one, until it is told that there is none."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._newest = 0
        self._data = b""
        self.late: list[float] = []
        """Seconds from the capture of each frame to its last byte."""
        self.clean = False
        """The last answer said that there is nothing newer, and nothing is left unanswered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Note an answer that is whole."""
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        status = int(head.split()[1])
        fields = dict(line.split(": ", 1) for line in head.decode("latin-1").lower().split("\r\n")[1:])
        if len(body) < (0 if status == 304 else int(fields["content-length"])):
            return
        self._data = b""
        if status != 200:
            self.clean = True
            return
        captured_at = datetime.fromisoformat(fields["x-frame-timestamp"].upper()).timestamp()
        self.late.append(time.time() - captured_at)
        self._newest = int(fields["x-frame-id"])
        self._ask()

    def _ask(self) -> None:
        path = f"{self._path}?after={self._newest}&wait=60000"
        self.transport.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())


async def _connected(url: str, receive_buffer: int | None = None) -> socket.socket:
    parts = urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    return sock


async def look(url: str, path: str, *, receive_buffer: int | None = None, head: str = "") -> Viewer:
    """Open one viewer; return once it has asked. `head`: further lines of the request, each with its end."""
    sock = await _connected(url, receive_buffer)
    _, viewer = await asyncio.get_running_loop().create_connection(Viewer, sock=sock)
    viewer.transport.write(f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n{head}\r\n".encode())
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


@contextlib.asynccontextmanager
async def polling(url: str, path: str, number: int) -> AsyncIterator[list[Poller]]:
    """Have so many poll for the next frame, to the end of the block."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Poller(path), sock=await _connected(url)) for _ in range(number)]
    pollers = [poller for _, poller in made]
    try:
        yield pollers
    finally:
        for poller in pollers:
            poller.transport.abort()
        await asyncio.sleep(0)


async def read_slowly(viewer: Viewer, *, bytes_per_second: float) -> None:
    """Read about so much and no more, until cancelled."""
    begun, before = time.perf_counter(), viewer.received
    while True:
        ahead = viewer.received - before > (time.perf_counter() - begun) * bytes_per_second
        if ahead == viewer.transport.is_reading():
            (viewer.transport.pause_reading if ahead else viewer.transport.resume_reading)()
        await asyncio.sleep(0.005)
