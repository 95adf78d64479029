"""Requests that are sent byte by byte, or without an end; and what became of them."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

from tests.process.daemon import Daemon

ENDLESS_SECONDS = 10.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(daemon: Daemon, host: str = "127.0.0.1") -> Streams:
    """Open a connection from one of the addresses of this machine: a client is one to healthd by its address."""
    return await asyncio.open_connection("127.0.0.1", daemon.port, local_addr=(host, 0))


async def _end(
    reader: asyncio.StreamReader, seconds: float, on_answer: Callable[[], object] = lambda: None
) -> tuple[bytes, bool]:
    """Read to the end, for so long at most; return what came, and whether it ended. Tells when the first of it came."""
    came = b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            while more := await reader.read(1 << 16):
                if not came:
                    on_answer()
                came += more
            return came, True
        return came, False
    return came, isinstance(reader.exception(), OSError)


def _status(came: bytes) -> int:
    return int(came.split()[1]) if came.startswith(b"HTTP/1.1 ") else 0


async def drip(
    daemon: Daemon, request: bytes, tail: bytes, deadline: float, host: str = "127.0.0.1"
) -> tuple[float, int]:
    """Send a request and then a byte of what never ends every fifth of a second; return when it was cut, and how."""
    reader, writer = await opened(daemon, host)
    at = time.monotonic()
    ended = asyncio.create_task(_end(reader, deadline))
    writer.write(request)
    for byte in itertools.cycle(tail):
        if ended.done() or time.monotonic() - at > deadline:
            break
        with contextlib.suppress(OSError):
            writer.write(bytes([byte]))
        await asyncio.sleep(0.2)
    came, over = await ended
    writer.close()
    return (time.monotonic() - at if over else -1.0), _status(came)


class Poured(NamedTuple):
    """What became of a request that has no end."""

    took: float
    """Seconds until the connection was cut; negative: it was not."""
    status: int
    """0: nothing was said."""
    sent: int
    """Bytes in all."""
    sent_before: int
    """Bytes until the answer came; what comes later is thrown away."""


async def pour(daemon: Daemon, request: bytes, piece: bytes, most: int) -> Poured:
    """Send a request and then pieces until it is cut."""
    reader, writer = await opened(daemon)
    at, sent, sent_before = time.monotonic(), 0, 0

    def answered() -> None:
        nonlocal sent_before
        sent_before = sent

    ended = asyncio.create_task(_end(reader, ENDLESS_SECONDS, answered))
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(request)
        while sent < most and not ended.done() and time.monotonic() - at < ENDLESS_SECONDS:
            writer.write(piece)
            sent += len(piece)
            async with asyncio.timeout(ENDLESS_SECONDS):
                await writer.drain()
            await asyncio.sleep(0)  # the answer has its turn, also while there is room for more
    came, over = await ended
    writer.close()
    return Poured(time.monotonic() - at if over else -1.0, _status(came), sent, sent_before)
