"""Streams: fifty viewers of one camera, what each costs, how soon it is noticed that one has gone, and the stop."""

import asyncio
import contextlib
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.figures import Figure
from benchmarks.plugin.healthd_bench import room_picture
from benchmarks.process import Daemon
from benchmarks.viewers import Viewer, look, looking

VIEWERS, LISTENERS, POLLERS, STALLED = 50, 10, 10, 5
FPS = 15
STREAM, EVENTS = "/api/v1/cameras/room/stream", "/api/v1/events/stream"
POLL = "/api/v1/cameras/room/snapshot?after={}&wait=60000"
PEER = Path(__file__).parent / "peers" / "fastapi_mjpeg.py"
PEER_NAME = "FastAPI with a blocking generator"
PEER_PATIENCE_SECONDS = 20.0
ENCODES = 'healthd_jpeg_encodes_total{camera="room",variant="plain"}'


@dataclass(frozen=True, slots=True)
class Crowd:
    """What fifty viewers got, and what they cost."""

    slowest_fps: float
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


@contextlib.contextmanager
def _watching() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text('[server]\nport = 0\n[cameras.room]\nplugin = "bench-room"\n', encoding="utf-8")
        with Daemon("run", "--config", str(config)) as daemon:
            daemon.wait_for(lambda: daemon.get("/api/v1/cameras/room/snapshot")[0] == 200)
            yield daemon


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def _cpu_share(process: psutil.Process, seconds: float) -> float:
    before, begun = _cpu_seconds(process), time.perf_counter()
    await asyncio.sleep(seconds)
    return (_cpu_seconds(process) - before) / (time.perf_counter() - begun)


async def _metric(daemon: Daemon, name: str) -> float:
    _, text = await asyncio.to_thread(daemon.get, "/metrics")
    return next(float(line.rpartition(" ")[2]) for line in text.decode().splitlines() if line.startswith(name))


async def _seen(viewers: list[Viewer]) -> None:
    await asyncio.wait_for(asyncio.gather(*(viewer.first.wait() for viewer in viewers)), 60)


async def _slowest(viewers: list[Viewer], seconds: float) -> float:
    before, begun = [viewer.frames for viewer in viewers], time.perf_counter()
    await asyncio.sleep(seconds)
    lasted = time.perf_counter() - begun
    return min((viewer.frames - start) / lasted for viewer, start in zip(viewers, before, strict=True))


async def _crowd(seconds: float) -> Crowd:
    with _watching() as daemon:
        process = psutil.Process(daemon.process.pid)
        await asyncio.sleep(1)
        idle, memory = await _cpu_share(process, 3), process.memory_info().rss
        async with looking(daemon.url, *[STREAM] * VIEWERS) as viewers:
            await _seen(viewers)
            await asyncio.sleep(1)
            encodes, cpu, begun = await _metric(daemon, ENCODES), _cpu_seconds(process), time.perf_counter()
            slowest = await _slowest(viewers, seconds)
            lasted = time.perf_counter() - begun
            cpu = (_cpu_seconds(process) - cpu) / lasted
            encodes = (await _metric(daemon, ENCODES) - encodes) / lasted
            grown = process.memory_info().rss - memory
            size = statistics.mean(viewer.received / max(1, viewer.frames) for viewer in viewers)
        await asyncio.sleep(1)
        return Crowd(
            slowest_fps=slowest,
            picture_kb=size / 1000,
            encodes_per_second=encodes,
            cpu_per_viewer=(cpu - idle) / VIEWERS,
            idle_cpu=idle,
            idle_again_cpu=await _cpu_share(process, 3),
            memory_per_viewer=grown / VIEWERS / 1000,
        )


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
            while b'"ended"' not in listener.text:
                await asyncio.sleep(0.0005)
                if time.perf_counter() > begun + 10:
                    raise TimeoutError("the session does not end")
            seconds.append(time.perf_counter() - begun)
    return seconds


async def _stop() -> tuple[float, int, int]:
    """Seconds of a stop with everybody looking; how many saw a clean end, and of how many."""
    with _watching() as daemon:
        newest = int(str(daemon.camera("room")["frame_id"])) + 100_000
        paths = [*[STREAM] * VIEWERS, *[EVENTS] * LISTENERS]
        async with (
            looking(daemon.url, *paths) as viewers,
            looking(daemon.url, *[STREAM] * STALLED, receive_buffer=4096) as stalled,
            looking(daemon.url, *[POLL.format(newest)] * POLLERS) as pollers,
        ):
            await _seen([*viewers, *stalled])
            for viewer in stalled:
                viewer.transport.pause_reading()
            await asyncio.sleep(2)
            seconds = await asyncio.to_thread(daemon.stop)
            await asyncio.sleep(0.2)
            clean = sum(viewer.clean for viewer in viewers) + sum(poller.received > 0 for poller in pollers)
            return seconds, clean, len(viewers) + len(pollers)


async def _peer(seconds: float) -> Peer:
    """The same viewers at the peer: what the slowest got, and whether it stops."""
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
                slowest = await _slowest(viewers[:VIEWERS], seconds)
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
    return Peer(f"{PEER_NAME}: {slowest:.2f} per s", f"{PEER_NAME}, {VIEWERS} viewers, {STALLED} stalled: {ended}")


def _url_of(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    return next(word for line in process.stderr for word in line.split() if word.startswith("http://"))


async def _measure(*, quick: bool) -> list[Figure]:
    crowd = await _crowd(5 if quick else 15)
    with _watching() as daemon:
        flowing = await _freed(daemon, 10 if quick else 40)
        await asyncio.to_thread(daemon.post, "/api/v1/cameras/room/pause")
        paused = await _freed(daemon, 5 if quick else 20)
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
            detail="end of the chunked body, or answer of the poll",
        ),
    ]


def measure(*, quick: bool) -> list[Figure]:
    """Measure streams."""
    return asyncio.run(_measure(quick=quick))
