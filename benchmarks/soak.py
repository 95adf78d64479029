"""Half an hour of a bad day: cameras, viewers and requests that come and go, a fault each minute; what stays flat.

Eight real cameras (RTSP) on two models, sixty tiles that poll, twenty streams that come and go, pictures that are sent
in, jobs and log-ins; every few seconds a camera loses its connection, is killed and comes back, or is restarted, and
each minute something worse happens (`soak_load.py`). Then: memory, threads, descriptors, processes and the 99th
percentile of what tiles wait do not grow from minute 3 on; every frame is accounted for; SIGTERM ends it with exit 0.
Memory is the proportional share (PSS) of the daemon and of the processes it has started. `make soak MINUTES=10` for
another span than 30.
"""

import asyncio
import json
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil

from benchmarks.assets import demo, exported, pose_network, street
from benchmarks.cameras import FPS, Cameras, cameras
from benchmarks.figures import Figure, NotMeasuredError, Plot
from benchmarks.infer import _picture
from benchmarks.process import Daemon
from benchmarks.soak_load import CAMERAS, KEY, STREAMS, TILES, TIMERS, Driver, Load

PREDICT_FPS = 2
SAMPLE_SECONDS = 5.0
FIRST_MINUTES, WINDOW_MINUTES = 3.0, 3.0
"""What is in hand at a moment makes one minute differ from the next by some percent; the median of three does less."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemon and its processes take at one moment."""

    minute: float
    memory_mb: float
    threads: int
    descriptors: int
    processes: int


@dataclass(slots=True)
class Day:
    """What happened."""

    load: Load
    samples: list[Sample] = field(default_factory=list)
    reconnects: int = 0
    stop_seconds: float = 0.0
    unaccounted: int = 0
    """Frames that were read and are neither predicted, nor dropped for a reason, nor in hand."""
    networks: str = ""

    def between(self, first: float, last: float) -> Sample:
        """Return the median of the samples of a span, in minutes."""
        span = [sample for sample in self.samples if first <= sample.minute <= last]
        middles = (statistics.median(getattr(one, name) for one in span) for name in Sample.__slots__)
        minute, memory_mb, threads, descriptors, processes = middles
        return Sample(minute, memory_mb, round(threads), round(descriptors), round(processes))


def _sample(daemon: psutil.Process, minute: float) -> Sample:
    memory, threads, descriptors, processes = 0.0, 0, 0, 0
    for one in (daemon, *daemon.children(recursive=True)):
        try:
            with one.oneshot():
                memory += one.memory_full_info().pss / 1e6
                threads += one.num_threads()
                descriptors += one.num_fds()
                processes += 1
        except psutil.NoSuchProcess:
            continue
    return Sample(minute, memory, threads, descriptors, processes)


async def _sampling(daemon: Daemon, day: Day, driver: Driver) -> None:
    process = psutil.Process(daemon.process.pid)
    while True:
        day.samples.append(await asyncio.to_thread(_sample, process, driver.minute))
        await asyncio.sleep(SAMPLE_SECONDS)


async def _day(daemon: Daemon, driver: Driver, minutes: float) -> Day:
    day = Day(driver.load)
    sampling = asyncio.create_task(_sampling(daemon, day, driver))
    await driver.run(minutes)
    sampling.cancel()
    return day


def _unaccounted(metrics: str) -> int:
    """Return how many frames of all cameras are in no account; the metrics are of one moment."""
    sums: dict[str, float] = defaultdict(float)
    for line in metrics.splitlines():
        name = line.partition("{")[0].removeprefix("healthd_camera_frames_")
        if line.startswith("healthd_camera_frames_"):
            sums[name] += float(line.rpartition(" ")[2])
    return round(sums["read_total"] - sums["predicted_total"] - sums["dropped_total"] - sums["in_hand"])


def _networks() -> tuple[Path, Path, Path]:
    """Return a network for poses, one that detects, and a spare one; the demo's where there are no assets."""
    try:
        detect = exported("yolo11n")
    except NotMeasuredError:
        detect = demo("rack-detect.onnx")
    pose, spare = pose_network(), demo("gym-pose.onnx")
    return pose, detect, spare if spare != pose else demo("rack-detect.onnx")


def _config(folder: Path, served: Cameras, networks: Sequence[Path]) -> Path:
    models = folder / "models"
    models.mkdir()
    for network in networks:
        if not (models / network.name).exists():
            (models / network.name).symlink_to(network)
    lines = [TIMERS, "server.port = 0", f'models.directory = "{models}"', f'jobs.directory = "{folder / "jobs"}"']
    for number, url in enumerate(served.urls):
        plugin, network = (("yolo-pose", networks[0]), ("yolo-detect", networks[1]))[number % 2]
        lines += [f"[cameras.c{number}]", f'plugin = "{plugin}"', f'url = "{url}"', f"predict_fps = {PREDICT_FPS}"]
        lines += ["reconnect_max_seconds = 2", f'options.model = "{network.name}"']
    config = folder / "config.toml"
    config.write_text("\n".join(lines), encoding="utf-8")
    return config


def soak(minutes: float) -> Day:
    """Run such a day; return what happened."""
    networks = _networks()
    with tempfile.TemporaryDirectory() as place, cameras(CAMERAS, street("h264")) as served:
        config, log = _config(Path(place), served, networks), Path(place) / "healthd.log"
        with log.open("ab") as written, Daemon("run", "--config", str(config), key=KEY, log=written) as daemon:
            for name in ("c0", "c1"):
                daemon.wait_for(lambda: daemon.get(f"/api/v1/cameras/{name}/prediction")[0] == 200, 120)  # noqa: B023
            driver = Driver(daemon, served, log, _picture(street()), networks[2].name)
            day = asyncio.run(_day(daemon, driver, minutes))
            day.reconnects = sum(camera["reconnects"] for camera in json.loads(daemon.get("/api/v1/cameras")[1]))
            day.unaccounted = _unaccounted(daemon.get("/metrics")[1].decode())
            day.stop_seconds = daemon.stop()
    day.networks = " and ".join(network.stem for network in networks[:2])
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


def per_minute(waits: Sequence[tuple[float, float]], percent: int = 99) -> list[tuple[float, float]]:
    """Return that percentile of what was waited in each whole minute."""
    minutes: dict[int, list[float]] = defaultdict(list)
    for minute, milliseconds in waits:
        minutes[int(minute)].append(milliseconds)
    return [(minute + 0.5, float(np.percentile(some, percent))) for minute, some in sorted(minutes.items())]


def measure(*, quick: bool) -> list[Figure]:
    """Measure what grows over `MINUTES` (30), or over one minute when in a hurry, then without goals for it."""
    minutes = 1.0 if quick else float(os.environ.get("MINUTES", "30"))
    return figures(soak(minutes), minutes)


def figures(day: Day, minutes: float) -> list[Figure]:
    """Tell about a day of so many minutes."""
    long = minutes >= FIRST_MINUTES + 2 * WINDOW_MINUTES
    first, window = (FIRST_MINUTES, WINDOW_MINUTES) if long else (minutes / 4, minutes / 4)
    before, after = day.between(first, first + window), day.between(day.samples[-1].minute - window, minutes)
    load, samples = day.load, [sample for sample in day.samples if sample.minute >= first]
    waits = per_minute([wait for wait in load.tile_ms if first <= wait[0] < max(int(minutes), 1)])
    faults = ", ".join(f"{number} x {name}" for name, number in sorted(load.faults.items())) or "none"
    unexpected = ", ".join(f"{number} x {what}" for what, number in load.unexpected.most_common()) or "none"

    def rise(what: str, series: Sequence[tuple[float, float]], ends: str, goal: float | None) -> Figure:
        percent, uncertain = growth(series) if len(series) > 2 else (float("nan"), float("nan"))
        line = f"± {uncertain:.1f}, of a straight line from minute {first:g} to minute {minutes:g}"
        return Figure(what, percent, "%", ("<=", goal) if long and goal is not None else None, ends, line)

    def counted(name: str, what: str) -> Figure:
        ends = f"minute {first:g} on: {getattr(before, name)}; at the end: {getattr(after, name)}"
        return rise(f"the same: growth of {what}", [(one.minute, getattr(one, name)) for one in samples], ends, 2.0)

    memory = rise(
        f"growth of memory, {CAMERAS} cameras, {TILES} tiles, {STREAMS} streams, requests, and a fault a minute",
        [(one.minute, one.memory_mb) for one in samples],
        f"minute {first:g} on: {before.memory_mb:.1f} MB; at the end: {after.memory_mb:.1f} MB; of {window:g} min each",
        2.0,
    )
    asked = (
        f"{memory.detail}; PSS of all processes; {load.troubles} troubles, {day.reconnects} reconnects, faults:"
        f" {faults}; {load.streams} streams, {load.snapshots} snapshots, {load.inferences} requests with a picture,"
        f" {load.jobs} jobs, {load.log_ins} log-ins; RTSP, 720p, {FPS} fps, {PREDICT_FPS} predictions per s each,"
        f" {day.networks}"
    )
    plot = Plot(
        "soak",
        f"Memory over {minutes:g} minutes of {CAMERAS} cameras, {TILES} tiles, {STREAMS} streams and faults",
        "minutes",
        "MB",
        lines={"healthd": [(round(one.minute, 3), round(one.memory_mb, 1)) for one in day.samples]},
    )
    middle = statistics.median(wait for _, wait in waits) if waits else float("nan")
    return [
        replace(memory, detail=asked, plot=plot),
        counted("threads", "threads"),
        counted("descriptors", "open descriptors"),
        counted("processes", "processes"),
        rise("the same: growth of what 1 of 100 snapshots waits", waits, f"in the middle: {middle:.0f} ms", None),
        Figure("the same: answers that nobody should get", load.unexpected.total(), "", ("==", 0), detail=unexpected),
        Figure("the same: frames that are in no account at the end", day.unaccounted, "", ("==", 0)),
        Figure("the same: SIGTERM to exit 0, at the end", day.stop_seconds, "s", ("<=", 15.5)),
    ]
