"""Whoever looks at a stream, as raw bytes on a socket: strict with what it gets, and as rude as a test wants it."""

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Self

BOUNDARY = b"healthd-frame"
JPEG_BEGIN, JPEG_END = b"\xff\xd8", b"\xff\xd9"


class BadStreamError(Exception):
    """What came is not what the protocol allows."""


@dataclass(frozen=True, slots=True)
class PartSeen:
    """One part of a multipart body."""

    at: float
    """Seconds of the monotonic clock when its last byte, the boundary after it included, was read."""
    frame_id: int | None
    timestamp: str | None
    size: int
    jpeg: bytes
    """Empty unless pictures are kept."""


class Multipart:
    """Reads a `multipart/x-mixed-replace` body, strictly."""

    def __init__(self, *, keep: bool = False) -> None:
        self.parts: list[PartSeen] = []
        self.closed = False
        """The closing delimiter was read."""
        self._keep = keep
        self._data = bytearray()
        self._begun = False
        self._head: dict[str, str] | None = None

    def feed(self, data: bytes) -> None:
        """Read on."""
        self._data += data
        while self._step():
            pass

    def _step(self) -> bool:
        if self.closed:
            _require(not self._data, f"bytes after the closing delimiter: {bytes(self._data[:40])!r}")
            return False
        if not self._begun:
            self._begun = self._line() == b"--" + BOUNDARY
            return self._begun
        if self._head is None:
            end = self._data.find(b"\r\n\r\n")
            _require(end >= 0 or len(self._data) < 1000, "the head of a part has no end")
            if end >= 0:
                lines = bytes(self._data[:end]).decode("ascii").split("\r\n")
                self._head = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
                del self._data[: end + 4]
            return end >= 0
        size = int(self._head["content-length"])
        after = bytes(self._data[size : size + len(BOUNDARY) + 8])
        match = re.match(rb"\r\n--" + BOUNDARY + rb"(--)?\r\n", after)
        if match is None:
            _require(len(after) < len(BOUNDARY) + 8, f"no boundary after a part: {after!r}")
            return False
        self._note(bytes(self._data[:size]))
        del self._data[: size + len(match[0])]
        self.closed = match[1] is not None
        return True

    def _note(self, jpeg: bytes) -> None:
        assert self._head is not None
        head, self._head = self._head, None
        _require(head["content-type"] == "image/jpeg", f"not a picture: {head}")
        _require(jpeg.startswith(JPEG_BEGIN) and jpeg.endswith(JPEG_END), "not a whole JPEG")
        frame_id = int(head["x-frame-id"]) if "x-frame-id" in head else None
        kept = jpeg if self._keep else b""
        self.parts.append(PartSeen(time.monotonic(), frame_id, head.get("x-frame-timestamp"), len(jpeg), kept))

    def _line(self) -> bytes | None:
        end = self._data.find(b"\r\n")
        if end < 0:
            return None
        line = bytes(self._data[:end])
        del self._data[: end + 2]
        _require(line == b"--" + BOUNDARY, f"no boundary at the beginning: {line!r}")
        return line


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001
    if not holds:
        raise BadStreamError(otherwise)


@dataclass(frozen=True, slots=True)
class Event:
    """One Server-Sent Event."""

    at: float
    name: str
    event_id: str
    data: str


class Events:
    """Reads a body of Server-Sent Events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.comments: list[str] = []
        self._data = b""

    def feed(self, data: bytes) -> None:
        """Read on."""
        *blocks, self._data = (self._data + data).split(b"\n\n")
        for block in blocks:
            if block.startswith(b":"):
                self.comments.append(block[1:].decode().strip())
                continue
            fields = dict(line.partition(": ")[::2] for line in block.decode().split("\n"))
            if "data" in fields:
                self.events.append(Event(time.monotonic(), fields["event"], fields["id"], fields["data"]))


@dataclass(eq=False)
class StreamClient(asyncio.Protocol):
    """One GET. Reads until the connection is lost, or the body has ended."""

    path: str
    keep: bool = False
    http: str = "1.1"
    headers: tuple[str, ...] = ()
    receive_buffer: int | None = None
    body: Multipart | Events | None = None
    text: bytes = b""
    """The body where it is neither multipart nor events."""
    status: int | None = None
    answered: dict[str, str] = field(default_factory=dict)
    chunked: bool = False
    ended: bool = False
    """The end of the chunked body was read."""
    lost_at: float | None = None
    received: int = 0
    error: Exception | None = None
    """What was wrong with what came."""

    def __post_init__(self) -> None:
        self._data = bytearray()
        self._left = 0
        self._transport: asyncio.Transport | None = None

    async def open(self, port: int, host: str = "127.0.0.1", *, sock: socket.socket | None = None) -> Self:
        """Connect and ask; through a socket that is not connected yet, if one is given."""
        loop = asyncio.get_running_loop()
        sock = sock or socket.socket()
        try:
            sock.setblocking(False)
            if self.receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
            await loop.sock_connect(sock, (host, port))
            lines = [f"GET {self.path} HTTP/{self.http}", f"Host: {host}:{port}", *self.headers, "", ""]
            await loop.create_connection(lambda: self, sock=sock)
        except BaseException:
            sock.close()
            raise
        assert self._transport is not None
        self._transport.write("\r\n".join(lines).encode())
        return self

    # -- what it sees --------------------------------------------------------------------------------------------

    @property
    def parts(self) -> list[PartSeen]:
        return self.body.parts if isinstance(self.body, Multipart) else []

    @property
    def frames(self) -> list[int]:
        return [part.frame_id for part in self.parts if part.frame_id is not None]

    @property
    def events(self) -> list[Event]:
        return self.body.events if isinstance(self.body, Events) else []

    @property
    def clean(self) -> bool:
        """Whether the body ended as a body ends: closing delimiter, end of chunks (or of the connection)."""
        over = self.ended if self.chunked else self.lost_at is not None
        closed = self.body.closed if isinstance(self.body, Multipart) else True
        return over and closed and self.error is None

    # -- what it does --------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send something more."""
        assert self._transport is not None
        self._transport.write(data)

    def leave(self) -> None:
        """Close the socket, as a browser does with its tab."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Close the socket with a reset."""
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def stop_reading(self) -> None:
        """Leave everything in the socket from now on."""
        assert self._transport is not None
        self._transport.pause_reading()

    # -- what comes ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost_at = time.monotonic()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        try:
            self._data += data
            while self._step():
                pass
        except Exception as exc:  # noqa: BLE001  the test reads it
            self.error = self.error or exc

    def _step(self) -> bool:
        if self.status is None:
            return self._read_head()
        if not self.chunked:
            data = bytes(self._data)
            self._data.clear()
            self._take(data)
            return False
        if self._left == 0:
            end = self._data.find(b"\r\n")
            if end < 0 or self.ended:
                return False
            self._left = int(self._data[:end], 16) + 2
            del self._data[: end + 2]
        if len(self._data) < self._left:
            return False
        chunk = bytes(self._data[: self._left])
        _require(chunk.endswith(b"\r\n"), "a chunk has no end")
        del self._data[: self._left]
        self.ended = self._left == 2
        self._left = 0
        self._take(chunk[:-2])
        return True

    def _read_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *lines = self._data[:end].decode("latin-1").split("\r\n")
        del self._data[: end + 4]
        self.answered = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
        self.chunked = self.answered.get("transfer-encoding") == "chunked"
        kind = self.answered.get("content-type", "")
        if kind.startswith("multipart/"):
            self.body = Multipart(keep=self.keep)
        elif kind.startswith("text/event-stream"):
            self.body = Events()
        self.status = int(first.split()[1])
        return True

    def _take(self, data: bytes) -> None:
        if self.body is None:
            self.text += data
        else:
            self.body.feed(data)


@contextlib.asynccontextmanager
async def looking(
    port: int, *paths: str, made: Callable[[str], StreamClient] = StreamClient
) -> AsyncIterator[list[StreamClient]]:
    """Open a client for each path, and close them at the end of the block."""
    clients: list[StreamClient] = []
    try:
        for path in paths:
            clients.append(await made(path).open(port))  # noqa: PERF401  those that are open must be closed
        yield clients
    finally:
        for client in clients:
            client.leave()
        await asyncio.sleep(0)
