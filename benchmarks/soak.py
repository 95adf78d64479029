"""Half an hour of an ordinary bad day: eight cameras and their viewers come and go, one model stays, and the memory.

The cameras are real ones (RTSP); every few seconds one loses its connections, is killed and comes back on its port, or
is restarted through the API. A dozen streams of all kinds are open at any time, each for some seconds, and are left by
goodbye or by reset; tiles ask for snapshots each second. `make soak MINUTES=10` for another span than 30.
"""

import asyncio
import contextlib
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.assets import pose_network, street
from benchmarks.cameras import FPS, Cameras, cameras
from benchmarks.figures import Figure, Plot
from benchmarks.process import Daemon
from benchmarks.viewers import look

CAMERAS, STREAMS, TILES, PREDICT_FPS = 8, 12, 8, 2
SAMPLE_SECONDS, TROUBLE_SECONDS, AWAY_SECONDS = 5.0, 6.0, 3.0
FIRST_MINUTES, WINDOW_MINUTES = 3.0, 3.0
"""What is in hand at a moment makes one minute differ from the next by some percent; the median of three does less."""
SEED = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemon takes at one moment."""

    minute: float
    rss_mb: float
    threads: int
    descriptors: int


@dataclass(slots=True)
class Day:
    """What happened."""

    samples: list[Sample] = field(default_factory=list)
    troubles: int = 0
    streams: int = 0
    snapshots: int = 0
    reconnects: int = 0
    network: str = ""

    def between(self, first: float, last: float) -> Sample:
        """Return the median of the samples of a span, in minutes."""
        span = [sample for sample in self.samples if first <= sample.minute <= last]
        middles = (statistics.median(getattr(one, name) for one in span) for name in Sample.__slots__)
        minute, rss_mb, threads, descriptors = middles
        return Sample(minute, rss_mb, round(threads), round(descriptors))


async def _sampling(daemon: Daemon, day: Day) -> None:
    process, begun = psutil.Process(daemon.process.pid), time.perf_counter()
    while True:
        minute = (time.perf_counter() - begun) / 60
        rss = process.memory_info().rss / 1e6
        day.samples.append(Sample(minute, rss, process.num_threads(), process.num_fds()))
        await asyncio.sleep(SAMPLE_SECONDS)


async def _trouble(daemon: Daemon, served: Cameras, day: Day, chance: random.Random) -> None:
    while True:
        which, kind = chance.randrange(CAMERAS), chance.choice(("drop", "kill", "restart"))
        day.troubles += 1
        if kind == "restart":
            await asyncio.to_thread(daemon.post, f"/api/v1/cameras/c{which}/restart")
        elif kind == "drop":
            served.tell(f"drop {which}")
        else:
            served.tell(f"stop {which}")
            await asyncio.sleep(AWAY_SECONDS)
            served.tell(f"start {which}")
        await asyncio.sleep(TROUBLE_SECONDS)


async def _stream(daemon: Daemon, day: Day, chance: random.Random) -> None:
    """Open one stream after another, each for some seconds."""
    kinds = ("stream", "stream?overlay=true", "stream?width=640", "stream?q=50&fps=5", "stream?width=320&overlay=true")
    while True:
        path = f"/api/v1/cameras/c{chance.randrange(CAMERAS)}/{chance.choice(kinds)}"
        if chance.random() < 0.1:
            path = "/api/v1/events/stream"
        viewer = await look(daemon.url, path)
        day.streams += 1
        try:
            await asyncio.sleep(chance.uniform(2, 20))
        finally:
            viewer.reset() if chance.random() < 0.5 else viewer.transport.close()


async def _tile(daemon: Daemon, day: Day, chance: random.Random) -> None:
    """Ask for a snapshot each second, each time on a connection of its own."""
    kinds = ("snapshot", "snapshot?width=640", "snapshot?overlay=true", "snapshot?q=60")
    while True:
        viewer = await look(daemon.url, f"/api/v1/cameras/c{chance.randrange(CAMERAS)}/{chance.choice(kinds)}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(viewer.first.wait(), 5)
            day.snapshots += 1
        viewer.transport.close()
        await asyncio.sleep(1.0)


async def _day(daemon: Daemon, served: Cameras, minutes: float) -> Day:
    day = Day()

    def chance(who: int) -> random.Random:
        return random.Random(SEED * 1000 + who)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(minutes * 60), asyncio.TaskGroup() as group:
            group.create_task(_sampling(daemon, day))
            group.create_task(_trouble(daemon, served, day, chance(0)))
            for who in range(STREAMS):
                group.create_task(_stream(daemon, day, chance(100 + who)))
            for who in range(TILES):
                group.create_task(_tile(daemon, day, chance(200 + who)))
    return day


def soak(minutes: float) -> Day:
    """Run such a day; return what happened."""
    network = pose_network()
    with tempfile.TemporaryDirectory() as folder, cameras(CAMERAS, street("h264")) as served:
        lines = ["[server]", "port = 0", "[models]", f'directory = "{network.parent}"']
        for number, url in enumerate(served.urls):
            lines += [f"[cameras.c{number}]", 'plugin = "yolo-pose"', f'url = "{url}"', f"predict_fps = {PREDICT_FPS}"]
            lines += ["reconnect_max_seconds = 2", f"[cameras.c{number}.options]", f'model = "{network.name}"']
        config = Path(folder) / "config.toml"
        config.write_text("\n".join(lines), encoding="utf-8")
        with Daemon("run", "--config", str(config)) as daemon:
            daemon.wait_for(lambda: daemon.get("/api/v1/cameras/c0/prediction")[0] == 200, 120)
            day = asyncio.run(_day(daemon, served, minutes))
            told = json.loads(daemon.get("/api/v1/cameras")[1])
            daemon.stop()
    day.network, day.reconnects = network.stem, sum(camera["reconnects"] for camera in told)
    return day


def growth(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return by how many percent a line through samples of time and size rises from end to end, and twice its error.

    What is in hand at a moment moves single samples by some percent, and so any two of them say little. The error is
    that of least squares; samples that follow each other are alike, which makes the true one somewhat larger.
    """
    times, sizes = np.array(samples).T
    slope, start = np.polyfit(times, sizes, 1)
    rest = sizes - (slope * times + start)
    error = np.sqrt(rest.var(ddof=2) / ((times - times.mean()) ** 2).sum())
    percent = 100 * (times[-1] - times[0]) / (slope * times[0] + start)
    return float(slope * percent), float(2 * error * percent)


def measure(*, quick: bool) -> list[Figure]:
    """Measure what memory does over `MINUTES` (30), or over one minute when in a hurry, then without a goal."""
    minutes = 1.0 if quick else float(os.environ.get("MINUTES", "30"))
    long = minutes >= FIRST_MINUTES + 2 * WINDOW_MINUTES
    first, window = (FIRST_MINUTES, WINDOW_MINUTES) if long else (minutes / 4, minutes / 4)
    day = soak(minutes)
    before, after = day.between(first, first + window), day.between(day.samples[-1].minute - window, minutes)
    percent, uncertain = growth([(one.minute, one.rss_mb) for one in day.samples if one.minute >= first])
    plot = Plot(
        "soak",
        f"Resident memory over {minutes:g} minutes of {CAMERAS} cameras with reconnects and viewers who come and go",
        "minutes",
        "MB",
        lines={"healthd": [(round(sample.minute, 3), round(sample.rss_mb, 1)) for sample in day.samples]},
    )
    return [
        Figure(
            f"growth of memory, {CAMERAS} cameras with reconnects and viewers who come and go,"
            f" from minute {first:g} to minute {minutes:g}",
            percent,
            "%",
            ("<=", 2.0) if long else None,
            f"minute {first:g} on: {before.rss_mb:.1f} MB, {before.threads} threads, {before.descriptors} descriptors",
            f"at the end: {after.rss_mb:.1f} MB, {after.threads} threads, {after.descriptors} descriptors; median of"
            f" {window:g} min each; the growth is that of a straight line through all samples, ± {uncertain:.1f};"
            f" {day.troubles} troubles, {day.reconnects} reconnects, {day.streams} streams,"
            f" {day.snapshots} snapshots; RTSP, 720p, {FPS} fps, {PREDICT_FPS} predictions per s each, {day.network}",
            plot=plot,
        )
    ]
