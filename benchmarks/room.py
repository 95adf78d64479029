"""A daemon that watches one room, and what it takes of the machine."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.process import Daemon
from benchmarks.viewers import Viewer

ROOM = "/api/v1/cameras/room"
STREAM, SNAPSHOT, EVENTS = f"{ROOM}/stream", f"{ROOM}/snapshot", "/api/v1/events/stream"
FPS = 15


@contextlib.contextmanager
def watching() -> Iterator[Daemon]:
    """Run a daemon with default settings and one 720p camera that is live."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text('[server]\nport = 0\n[cameras.room]\nplugin = "bench-room"\n', encoding="utf-8")
        with Daemon("run", "--config", str(config)) as daemon:
            daemon.wait_for(lambda: daemon.get(SNAPSHOT)[0] == 200)
            yield daemon


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process so far."""
    times = process.cpu_times()
    return times.user + times.system


async def cpu_share(process: psutil.Process, seconds: float) -> float:
    """Return the share of one core that a process takes, over so many seconds from now."""
    before, begun = cpu_seconds(process), time.perf_counter()
    await asyncio.sleep(seconds)
    return (cpu_seconds(process) - before) / (time.perf_counter() - begun)


async def metric(daemon: Daemon, name: str) -> float:
    """Return the sum of all samples whose line begins like this."""
    _, text = await asyncio.to_thread(daemon.get, "/metrics")
    return sum(float(line.rpartition(" ")[2]) for line in text.decode().splitlines() if line.startswith(name))


async def seen(viewers: list[Viewer]) -> None:
    """Wait until each of them has got something."""
    await asyncio.wait_for(asyncio.gather(*(viewer.first.wait() for viewer in viewers)), 60)


async def slowest_fps(viewers: list[Viewer], seconds: float) -> float:
    """Return the frames per second of the one that got the fewest, over so many seconds from now."""
    before, begun = [viewer.frames for viewer in viewers], time.perf_counter()
    await asyncio.sleep(seconds)
    lasted = time.perf_counter() - begun
    return min((viewer.frames - start) / lasted for viewer, start in zip(viewers, before, strict=True))
