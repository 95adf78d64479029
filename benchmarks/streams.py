"""Streams: fifty viewers of one camera, what each costs, one who is slow among them, and the stop."""

import asyncio
import contextlib
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.figures import Figure
from benchmarks.plugin.healthd_bench import room_picture
from benchmarks.room import EVENTS, FPS, SNAPSHOT, STREAM, cpu_seconds, cpu_share, metric, seen, slowest_fps, watching
from benchmarks.viewers import Viewer, look, looking, polling, read_slowly

VIEWERS, LISTENERS, POLLERS, STALLED = 50, 10, 10, 5
SLOW_BYTES_PER_SECOND = 120_000
PEER = Path(__file__).parent / "peers" / "fastapi_mjpeg.py"
PEER_NAME = "FastAPI with a blocking generator"
PEER_PATIENCE_SECONDS = 20.0
ENCODES = 'healthd_jpeg_encodes_total{camera="room",variant="plain"}'


@dataclass(frozen=True, slots=True)
class Crowd:
    """What fifty viewers got, and what they cost."""

    slowest_fps: float
    slowest_beside_slow: float
    """Frames per second of the slowest, with one among them who can read but a tenth."""
    slow_one_fps: float
    picture_kb: float
    encodes_per_second: float
    cpu_per_viewer: float
    """Share of one core."""
    idle_cpu: float
    idle_again_cpu: float
    memory_per_viewer: float
    """kB."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What the peer did, in words."""

    rate: str
    stop: str


async def _crowd(seconds: float) -> Crowd:
    with watching() as daemon:
        process = psutil.Process(daemon.process.pid)
        await asyncio.sleep(1)
        idle, memory = await cpu_share(process, 3), process.memory_info().rss
        async with looking(daemon.url, *[STREAM] * VIEWERS) as viewers:
            await seen(viewers)
            await asyncio.sleep(1)
            encodes, cpu, begun = await metric(daemon, ENCODES), cpu_seconds(process), time.perf_counter()
            slowest = await slowest_fps(viewers, seconds)
            lasted = time.perf_counter() - begun
            cpu = (cpu_seconds(process) - cpu) / lasted
            encodes = (await metric(daemon, ENCODES) - encodes) / lasted
            grown = process.memory_info().rss - memory
            beside, slow_one = await _beside_a_slow_one(daemon.url, viewers, seconds)
            size = statistics.mean(viewer.received / max(1, viewer.frames) for viewer in viewers)
        await asyncio.sleep(1)
        return Crowd(
            slowest_fps=slowest,
            slowest_beside_slow=beside,
            slow_one_fps=slow_one,
            picture_kb=size / 1000,
            encodes_per_second=encodes,
            cpu_per_viewer=(cpu - idle) / VIEWERS,
            idle_cpu=idle,
            idle_again_cpu=await cpu_share(process, 3),
            memory_per_viewer=grown / VIEWERS / 1000,
        )


async def _beside_a_slow_one(url: str, viewers: list[Viewer], seconds: float) -> tuple[float, float]:
    """Frames per second of the slowest of these, and of one more who reads about a tenth of what there is."""
    slow = await look(url, STREAM, receive_buffer=16384)
    reading = asyncio.create_task(read_slowly(slow, bytes_per_second=SLOW_BYTES_PER_SECOND))
    try:
        await asyncio.sleep(2)
        before, begun = slow.frames, time.perf_counter()
        beside = await slowest_fps(viewers, seconds)
        return beside, (slow.frames - before) / (time.perf_counter() - begun)
    finally:
        reading.cancel()
        slow.transport.abort()


async def _stop() -> tuple[float, int, int]:
    """Seconds of a stop with everybody looking; how many saw a clean end, and of how many."""
    with watching() as daemon:
        paths = [*[STREAM] * VIEWERS, *[EVENTS] * LISTENERS]
        async with (
            looking(daemon.url, *paths) as viewers,
            looking(daemon.url, *[STREAM] * STALLED, receive_buffer=4096) as stalled,
            polling(daemon.url, SNAPSHOT, POLLERS) as pollers,
        ):
            await seen([*viewers, *stalled])
            for viewer in stalled:
                viewer.transport.pause_reading()
            await asyncio.sleep(2)
            seconds = await asyncio.to_thread(daemon.stop)
            await asyncio.sleep(0.2)
            clean = sum(viewer.clean for viewer in viewers) + sum(poller.clean for poller in pollers)
            return seconds, clean, len(viewers) + len(pollers)


async def _peer(seconds: float) -> Peer:
    """As many MJPEG viewers at the peer, but no events and no polls: what the slowest got, and whether it stops."""
    if importlib.util.find_spec("fastapi") is None:
        return Peer(*[f"{PEER_NAME}: skipped, FastAPI is not installed"] * 2)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures.npy"
        np.save(pictures, np.stack([room_picture(number) for number in range(8)]))
        process = await asyncio.to_thread(
            subprocess.Popen, [sys.executable, str(PEER), str(pictures)], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        try:
            url = await asyncio.to_thread(_url_of, process)
            async with looking(url, *["/stream"] * (VIEWERS + STALLED)) as viewers:
                await asyncio.sleep(3)
                for viewer in viewers[VIEWERS:]:
                    viewer.transport.pause_reading()
                slowest = await slowest_fps(viewers[:VIEWERS], seconds)
                process.terminate()
                begun = time.perf_counter()
                with contextlib.suppress(subprocess.TimeoutExpired):  # else the viewers go on reading
                    await asyncio.to_thread(process.wait, PEER_PATIENCE_SECONDS)
                lasted = time.perf_counter() - begun
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
    ended = f"exit after {lasted:.1f} s" if lasted < PEER_PATIENCE_SECONDS else f"killed after {lasted:.0f} s"
    return Peer(
        f"{PEER_NAME}, {STALLED} stalled ones beside them: {slowest:.2f} per s",
        f"{PEER_NAME}, {VIEWERS} MJPEG viewers and {STALLED} stalled ones alone: {ended}",
    )


def _url_of(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    return next(word for line in process.stderr for word in line.split() if word.startswith("http://"))


async def _measure(*, quick: bool) -> list[Figure]:
    crowd = await _crowd(5 if quick else 15)
    stops = [await _stop() for _ in range(1 if quick else 3)]
    peer = await _peer(3 if quick else 10)
    return [
        Figure(
            f"{VIEWERS} viewers of one 720p camera at {FPS} fps: frames the slowest got",
            crowd.slowest_fps,
            "per s",
            (">=", 14),
            peer.rate,
            f"{crowd.picture_kb:.0f} kB each, over loopback; the viewers in another process on the same cores",
        ),
        Figure(
            "the same with one slow viewer among them: frames the slowest of the others got",
            crowd.slowest_beside_slow,
            "per s",
            (">=", 14),
            detail=f"it reads {SLOW_BYTES_PER_SECOND / 1000:.0f} kB/s, and got {crowd.slow_one_fps:.1f} per s",
        ),
        Figure(
            f"{VIEWERS} viewers: encodes",
            crowd.encodes_per_second,
            "per s",
            ("<=", FPS + 1),
            f"{VIEWERS * FPS} per s, if each had its own",
            "one variant",
        ),
        Figure("CPU of one viewer", crowd.cpu_per_viewer * 100, "% of a core", detail=f"mean of {VIEWERS}"),
        Figure(
            "CPU after the last viewer has gone",
            crowd.idle_again_cpu * 100,
            "% of a core",
            peer=f"before the first came: {crowd.idle_cpu * 100:.2f} %",
            detail="the camera itself",
        ),
        Figure("memory of one viewer", crowd.memory_per_viewer, "kB", detail=f"mean of {VIEWERS}"),
        Figure(
            f"SIGTERM to exit: {VIEWERS} viewers, {LISTENERS} event streams, {POLLERS} long polls, {STALLED} stalled",
            max(seconds for seconds, _, _ in stops),
            "s",
            ("<=", 1.0),
            peer.stop,
            f"worst of {len(stops)}",
        ),
        Figure(
            "clean ends among those who were reading",
            min(clean / of for _, clean, of in stops) * 100,
            "%",
            ("==", 100),
            detail="closing boundary and end of the chunked body; of a poll, its answer",
        ),
    ]


def measure(*, quick: bool) -> list[Figure]:
    """Measure streams."""
    return asyncio.run(_measure(quick=quick))
