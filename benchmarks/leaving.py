"""Viewers who leave, stop reading, or come and go: how soon it is noticed, what it costs the others, what is left."""

import asyncio
import random
import statistics
import time
from dataclasses import dataclass

import psutil

from benchmarks.figures import Figure
from benchmarks.process import Daemon
from benchmarks.room import EVENTS, FPS, ROOM, SNAPSHOT, STREAM, metric, seen, watching
from benchmarks.viewers import Viewer, look, looking, polling

STALLED = 5
WRITE_TIMEOUT_SECONDS = 5.0
"""The default of `streams.write_timeout_seconds`."""
COMERS, AT_ONCE = 1000, 20
OPEN = "healthd_viewers_open"


@dataclass(frozen=True, slots=True)
class Stall:
    """What five who do not read did to the daemon and to three who do."""

    dropped_after: float
    """Seconds from their last read to the drop of the last one."""
    grown_mb: float
    missed: int
    """Frames that the others did not get."""
    seen: int


@dataclass(frozen=True, slots=True)
class Left:
    """What a thousand who came and went have left."""

    grown_mb: float
    threads: int
    descriptors: int
    viewers: int
    admitted: int


async def _until(listener: Viewer, ends: int) -> None:
    """Wait until a listener of events has been told of so many more ended sessions."""
    begun, told = time.perf_counter(), 0
    while told < ends:
        told += listener.text.count(b'"ended"')
        listener.text = b""
        await asyncio.sleep(0.0005)
        if time.perf_counter() > begun + 30:
            raise TimeoutError("the session does not end")


async def _freed(daemon: Daemon, times: int) -> list[float]:
    """Seconds from closing a socket to the event that says that its session has ended."""
    seconds = []
    async with looking(daemon.url, EVENTS) as [listener]:
        await listener.first.wait()
        for _ in range(times):
            viewer = await look(daemon.url, STREAM)
            await viewer.first.wait()
            await asyncio.sleep(0.2)
            listener.text = b""
            begun = time.perf_counter()
            viewer.transport.close()
            await _until(listener, 1)
            seconds.append(time.perf_counter() - begun)
    return seconds


async def _stalled(daemon: Daemon) -> Stall:
    process = psutil.Process(daemon.process.pid)
    async with (
        looking(daemon.url, *[STREAM] * 3) as others,
        looking(daemon.url, *[STREAM] * STALLED, receive_buffer=4096) as stalled,
    ):
        await seen([*others, *stalled])
        await asyncio.sleep(2)
        frames = sum(viewer.frames for viewer in others)
        missed = sum(viewer.missed for viewer in others)
        memory = most = process.memory_info().rss
        open_before = await metric(daemon, OPEN)
        for viewer in stalled:
            viewer.transport.pause_reading()
        begun = time.perf_counter()
        while await metric(daemon, OPEN) > open_before - STALLED:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.02)
            if time.perf_counter() > begun + 30:
                raise TimeoutError("who does not read is not dropped")
        lasted = time.perf_counter() - begun
        await asyncio.sleep(0.2)
        return Stall(
            dropped_after=lasted,
            grown_mb=(most - memory) / 1e6,
            missed=sum(viewer.missed for viewer in others) - missed,
            seen=sum(viewer.frames for viewer in others) - frames,
        )


async def _come_and_go(daemon: Daemon, rng: random.Random) -> None:
    left = iter(range(COMERS))

    async def one() -> None:
        for _ in left:
            viewer = await look(daemon.url, rng.choice([STREAM, STREAM, f"{STREAM}?width=320", EVENTS]))
            await asyncio.sleep(rng.choice([0.0, rng.random() / 1000, rng.random() / 10]))
            (viewer.transport.close if rng.random() < 0.5 else viewer.reset)()

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    await asyncio.sleep(2)  # the last have gone, and what was being encoded for them is done


async def _left(daemon: Daemon) -> Left:
    process, rng = psutil.Process(daemon.process.pid), random.Random(11)
    await _come_and_go(daemon, rng)
    memory, threads, descriptors = process.memory_info().rss, process.num_threads(), process.num_fds()
    admitted = await metric(daemon, "healthd_viewers_admitted_total")
    await _come_and_go(daemon, rng)
    return Left(
        grown_mb=(process.memory_info().rss - memory) / 1e6,
        threads=process.num_threads() - threads,
        descriptors=process.num_fds() - descriptors,
        viewers=int(await metric(daemon, OPEN)),
        admitted=int(await metric(daemon, "healthd_viewers_admitted_total") - admitted),
    )


async def _polled(daemon: Daemon, seconds: float) -> list[float]:
    """Seconds from the capture of a frame to the last byte of the answer to one who polls for it."""
    async with polling(daemon.url, SNAPSHOT, 1) as [poller]:
        await asyncio.sleep(seconds)
        return poller.late[3:]


async def _measure(*, quick: bool) -> list[Figure]:
    with watching() as daemon:
        flowing = await _freed(daemon, 10 if quick else 40)
        polled = await _polled(daemon, 3 if quick else 15)
        stall = await _stalled(daemon)
        left = await _left(daemon)
        await asyncio.to_thread(daemon.post, f"{ROOM}/pause")
        paused = await _freed(daemon, 5 if quick else 20)
    return [
        Figure(
            "client closes its socket to session freed, frames flowing",
            max(flowing) * 1000,
            "ms",
            ("<=", 100),
            detail=f"worst of {len(flowing)}; median {statistics.median(flowing) * 1000:.1f} ms",
        ),
        Figure(
            "client closes its socket to session freed, camera paused",
            max(paused) * 1000,
            "ms",
            ("<=", 1500),
            detail=f"worst of {len(paused)}; median {statistics.median(paused) * 1000:.1f} ms",
        ),
        Figure(
            f"{STALLED} clients stop reading: the last of them dropped",
            stall.dropped_after,
            "s",
            ("<=", WRITE_TIMEOUT_SECONDS + 0.5),
            detail=f"`streams.write_timeout_seconds` is {WRITE_TIMEOUT_SECONDS:g}",
        ),
        Figure("meanwhile: growth of memory", stall.grown_mb, "MB", ("<=", 5), detail="worst seen"),
        Figure(
            "meanwhile: frames that 3 others missed",
            stall.missed,
            "",
            ("==", 0),
            detail=f"of {stall.seen + stall.missed}",
        ),
        Figure(
            f"{COMERS} come and go, {AT_ONCE} at a time, half by reset: viewers left",
            left.viewers,
            "",
            ("==", 0),
            detail=f"{left.admitted} were let in before they left; after as many to warm up",
        ),
        Figure("threads and file descriptors left by them", max(left.threads, left.descriptors), "", ("<=", 0)),
        Figure("memory left by them", left.grown_mb, "MB", ("<=", 5)),
        Figure(
            "long poll: capture of a frame to its last byte at the caller",
            statistics.median(polled) * 1000,
            "ms",
            ("<=", 1000 / FPS),
            detail=f"median of {len(polled)}, worst {max(polled) * 1000:.0f} ms, encode included; goal: one interval",
        ),
    ]


def measure(*, quick: bool) -> list[Figure]:
    """Measure how viewers end."""
    return asyncio.run(_measure(quick=quick))
