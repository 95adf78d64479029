"""Those beside: who looks at a healthy camera and asks for predictions while something else breaks.

`python -m benchmarks.chaos.beside URL CAMERA` is a process of its own. It polls snapshots, keeps an MJPEG stream open
and sends pictures to `/infer`, says `ready` when all of that works, goes on until its standard input ends, and then
writes what it has seen as JSON. It also notes when its own timers are late: what it stood still itself in the middle of
a poll or a gap is no wait for the daemon, and is taken off that poll or that gap, and off no other.
"""

import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import cv2
import numpy as np

from tests.stream_client import StreamClient

POLL_SECONDS, INFER_SECONDS, TICK_SECONDS = 0.05, 0.25, 0.01
ANSWER_SECONDS = 5.0
ROOT = Path(__file__).parent.parent.parent


@dataclass(slots=True)
class Seen:
    """What those beside have seen; times are seconds of the monotonic clock, which all processes share."""

    polls: list[tuple[float, float, int]] = field(default_factory=list)
    """When it was asked, how long it took, status (0: no answer)."""
    infers: list[tuple[float, float, int]] = field(default_factory=list)
    parts: list[tuple[float, int]] = field(default_factory=list)
    """When a frame of the stream had come, and its id."""
    breaks: list[float] = field(default_factory=list)
    """When the stream broke."""
    late: list[tuple[float, float]] = field(default_factory=list)
    """When a timer was late, and by how much."""


class Beside:
    """Those beside, from the beginning of the block to `leave`."""

    def __init__(self, url: str, camera: str, *, model: str) -> None:
        self._command = [sys.executable, "-m", "benchmarks.chaos.beside", url, camera, model]
        self.seen = Seen()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self.__exit__()
            raise RuntimeError("those beside could not begin")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def leave(self) -> None:
        """Have them leave, and say what they have seen."""
        told, _ = self._process.communicate("", timeout=2 * ANSWER_SECONDS)
        self.seen = Seen(**json.loads(told))

    def compared(self, begun: float, broken: float, ended: float, *, forgiven: float = 0.0) -> dict[str, float]:
        """Compare what they saw from the fault to the end with what they saw before it; not what was `forgiven`."""
        seen = self.seen
        before = _span(seen.polls, begun, broken)
        stops = _stops(seen.late)
        gap_before, broken = _gap(seen.parts, stops, begun, broken), max(broken, forgiven)
        after = _span(seen.polls, broken, ended)
        infers = _span(seen.infers, broken, ended)
        late = [seconds for at, seconds in seen.late if broken <= at <= ended]
        frames = [number for at, number in seen.parts if broken <= at <= ended]
        return {
            "polls": len(after),
            "polls_failed": sum(status != 200 for _, _, status in after),
            "poll_p99_ms": 1e3 * _p99([_without(stops, at, at + took) for at, took, _ in after]),
            "poll_p99_before_ms": 1e3 * _p99([_without(stops, at, at + took) for at, took, _ in before]),
            "infers": len(infers),
            "infers_failed": sum(status != 200 for _, _, status in infers),
            "frames": len(frames),
            "frames_skipped": sum(max(0, b - a - 1) for a, b in itertools.pairwise(frames)),
            "gap_ms": 1e3 * _gap(seen.parts, stops, broken, ended),
            "gap_before_ms": 1e3 * gap_before,
            "stream_breaks": sum(broken <= at <= ended for at in seen.breaks),
            "late_ms": 1e3 * max(late, default=0.0),
        }


def _span(rows: Sequence[tuple[float, float, int]], first: float, last: float) -> list[tuple[float, float, int]]:
    return [tuple(row) for row in rows if first <= row[0] <= last]  # type: ignore[misc]


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else 0.0


def _stops(late: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return when those beside stood still themselves, from when a timer was due to when it rang."""
    return [(begun + TICK_SECONDS, begun + TICK_SECONDS + seconds) for begun, seconds in late]


def _without(stops: Sequence[tuple[float, float]], first: float, last: float) -> float:
    """Return how long a span was without what those beside stood still in it."""
    return last - first - sum(max(0.0, min(last, end) - max(first, begun)) for begun, end in stops)


def _gap(parts: Sequence[tuple[float, int]], stops: Sequence[tuple[float, float]], first: float, last: float) -> float:
    """Return the longest time without a frame."""
    times = [first, *(at for at, _ in parts if first <= at <= last), last]
    return max(_without(stops, a, b) for a, b in itertools.pairwise(times))


class _Asker:
    """One connection that asks again and again; opened anew when it breaks."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[float, float, int]:
        """Send a request; return when, how long the whole answer took, and its status (0: none came)."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status = await self._answer(request)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            status = 0
        if status == 0 and self._streams is not None:
            self._streams[1].close()
            self._streams = None
        return begun, time.monotonic() - begun, status

    async def _answer(self, request: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        length = next(line for line in head if line.startswith("content-length:"))
        await reader.readexactly(int(length.partition(":")[2]))
        return int(head[0].split()[1])


async def _again(url: str, request: bytes, every: float, noted: list[tuple[float, float, int]]) -> None:
    asker = _Asker(url)
    while True:
        noted.append(await asker.ask(request))
        await asyncio.sleep(max(0.0, noted[-1][0] + every - time.monotonic()))


async def _look(url: str, path: str, seen: Seen) -> None:
    port = urlsplit(url).port or 80
    while True:
        client = StreamClient(path)
        try:
            await client.open(port)
            while client.lost_at is None:
                await asyncio.sleep(POLL_SECONDS)
                seen.parts += [(part.at, part.frame_id) for part in client.parts if part.frame_id is not None]
                client.parts.clear()
        except OSError:
            pass
        finally:
            client.leave()
        seen.breaks.append(time.monotonic())
        await asyncio.sleep(POLL_SECONDS)


async def _tick(seen: Seen) -> None:
    while True:
        begun = time.monotonic()
        await asyncio.sleep(TICK_SECONDS)
        late = time.monotonic() - begun - TICK_SECONDS
        if late > TICK_SECONDS:
            seen.late.append((begun, late))


def _infer_request(model: str) -> bytes:
    jpeg = cv2.imencode(".jpg", np.full((192, 320, 3), 90, np.uint8))[1].tobytes()
    head = f"POST /api/v1/infer?model={model} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
    return f"{head}Content-Length: {len(jpeg)}\r\n\r\n".encode() + jpeg


async def _all(url: str, camera: str, model: str) -> Seen:
    seen, path = Seen(), f"/api/v1/cameras/{camera}"
    poll = f"GET {path}/snapshot HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    tasks = [
        asyncio.create_task(_again(url, poll, POLL_SECONDS, seen.polls)),
        asyncio.create_task(_again(url, _infer_request(model), INFER_SECONDS, seen.infers)),
        asyncio.create_task(_look(url, f"{path}/stream", seen)),
        asyncio.create_task(_tick(seen)),
    ]
    while not _all_work(seen):  # noqa: ASYNC110  four tasks would have to say so
        await asyncio.sleep(TICK_SECONDS)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return seen


def _all_work(seen: Seen) -> bool:
    return bool(seen.parts) and all(any(row[2] == 200 for row in rows) for rows in (seen.polls, seen.infers))


def as_json(seen: Seen) -> dict[str, Any]:
    """Return it as what JSON knows."""
    return asdict(seen)


if __name__ == "__main__":
    print(json.dumps(as_json(asyncio.run(_all(*sys.argv[1:])))))
