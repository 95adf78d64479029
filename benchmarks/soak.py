"""Half an hour of a bad day: cameras, viewers and requests that come and go, a fault each minute; what stays flat.

Eight real cameras (RTSP) on two models, sixty tiles that poll, twenty streams that come and go, pictures that are sent
in, jobs and log-ins; every few seconds a camera loses its connection, is killed and comes back, or is restarted, and
each minute something worse happens (`soak_load.py`). Then: memory, threads, descriptors, processes and the 99th
percentile of what a snapshot waits (`soak_probe.py`) do not grow from minute 3 on (`soak_growth.py`); what the load
asks for has come; every camera is live again; every frame is accounted for; SIGTERM ends it with exit 0. Memory is the
proportional share (PSS) of the daemon and of the processes it has started. `make soak MINUTES=60` for another span than
30.
"""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil

from benchmarks.assets import demo, exported, pose_network, street
from benchmarks.cameras import FPS, Cameras, cameras
from benchmarks.figures import Figure, NotMeasuredError, Plot, not_measured
from benchmarks.infer import _picture
from benchmarks.process import Daemon
from benchmarks.soak_growth import BLOCK_MINUTES, FEWEST_BLOCKS, blocks, growth, multiplied
from benchmarks.soak_load import CAMERAS, FAULTS, KEY, STREAMS, TILES, TIMERS, Driver, Load
from benchmarks.soak_probe import Probe

PREDICT_FPS = 1
"""Half of two cores is left over by that: with less, whatever else the machine does decides what 1 of 100 waits."""
SAMPLE_SECONDS = 5.0
FIRST_MINUTES = 3.0
"""They do not count: what is loaded and kept for the first time is so in them."""
LONGEST_UNSEEN_SECONDS = 60.0
MEMORY_PERCENT, WAIT_PERCENT, LATER_AT_MOST, MORE_AT_MOST = 10.0, 100.0, 2.0, 1
"""What half an hour can decide: the error of memory alone is some 6 %, and waits must not have doubled for certain."""
LEAST_PERCENT = {
    "snapshots, of the camera that was seen least": 50.0,
    "streams of which something came": 60.0,
    "frames of streams": 20.0,
    "answered requests with a picture": 10.0,
    "jobs done": 20.0,
    "log-ins": 60.0,
}
"""Of what the load asks for where nobody ever waits and no camera is ever lost.

Of frames the newest is enough, and where a machine is too slow cameras go before requests and jobs, which are told so.
"""
OVER = ("log-in", "model", "job", "log")


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
    waits: list[tuple[float, float]] = field(default_factory=list)
    """Minute and milliseconds of each snapshot of somebody who has nothing else to do (`soak_probe.py`)."""
    stolen_seconds: float | None = None
    """For so long the host of a virtual machine gave its cores to others, all together; None where nobody tells."""
    reconnects: int = 0
    stop_seconds: float = 0.0
    unaccounted: int = 0
    """Frames that were read and are neither predicted, nor dropped for a reason, nor in hand."""
    networks: str = ""

    lost: dict[str, str] = field(default_factory=dict)
    """What did not work some time after the last trouble, cameras and `infer`, and why."""
    recovery_seconds: float = 0.0

    def series(self, name: str) -> list[tuple[float, float]]:
        """Return minute and value of one of a sample's fields."""
        return [(one.minute, getattr(one, name)) for one in self.samples]

    def complete(self, name: str) -> list[tuple[float, float]]:
        """Return the same of the samples in which no camera is away: one that is has no process and what that holds."""
        first = [one.processes for one in self.samples if FIRST_MINUTES <= one.minute < FIRST_MINUTES + BLOCK_MINUTES]
        usual = np.percentile(first, 75, method="lower") if first else 0
        return [(one.minute, getattr(one, name)) for one in self.samples if one.processes >= usual]

    def unseen_seconds(self, minutes: float) -> float:
        """Return the longest time without a sample, from the first minute to the last."""
        times = [0.0, *(one.minute for one in self.samples), minutes]
        return 60 * max(b - a for a, b in itertools.pairwise(times))


def _sample(daemon: psutil.Process, minute: float) -> Sample:
    """Look at the daemon and its processes; one that ends meanwhile is left out, unless it is the daemon."""
    seen = [_look(daemon)]
    for one in daemon.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            seen.append(_look(one))
    memory, threads, descriptors = (sum(values) for values in zip(*seen, strict=True))
    return Sample(minute, memory, int(threads), int(descriptors), len(seen))


def _look(one: psutil.Process) -> tuple[float, int, int]:
    with one.oneshot():
        return one.memory_full_info().pss / 1e6, one.num_threads(), one.num_fds()


async def _sampling(daemon: Daemon, day: Day, driver: Driver) -> None:
    process = psutil.Process(daemon.process.pid)
    while True:
        day.samples.append(await asyncio.to_thread(_sample, process, driver.minute))
        await asyncio.sleep(SAMPLE_SECONDS)


def _stolen() -> float | None:
    """Return for how many seconds others had the cores of this virtual machine; None where the system does not tell."""
    return getattr(psutil.cpu_times(), "steal", None)


def _times(three: tuple[float, float, float]) -> str:
    return "{:.2f} times ({:.2f} to {:.2f})".format(*three)


async def _day(daemon: Daemon, driver: Driver, minutes: float) -> Day:
    """Let the load go by, with a look at the daemon every few seconds; a look that fails ends the day."""
    day, before = Day(driver.load), _stolen()
    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(_sampling(daemon, day, driver))
        await driver.run(minutes)
        sampling.cancel()
    stolen = _stolen()
    day.stolen_seconds = stolen - before if stolen is not None and before is not None else None
    begun = time.perf_counter()
    day.lost = await driver.recovered()
    day.recovery_seconds = time.perf_counter() - begun
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
            shutil.copy(network, models)  # a link that leads out of the folder is no model
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
            driver = Driver(daemon, served, log, _picture(street()), networks[2].name, config)
            begun = time.monotonic() - driver.minute * 60
            with Probe(daemon.url, cameras=CAMERAS, key=KEY, folder=Path(place)) as probe:
                day = asyncio.run(_day(daemon, driver, minutes))
            day.waits = [(minute, wait) for minute, wait in probe.waits(begun) if minute < minutes]
            day.reconnects = sum(camera["reconnects"] for camera in json.loads(daemon.get("/api/v1/cameras")[1]))
            day.unaccounted = _unaccounted(daemon.get("/metrics")[1].decode())
            day.stop_seconds = daemon.stop()
    day.networks = " and ".join(network.stem for network in networks[:2])
    return day


def measure(*, quick: bool) -> list[Figure]:
    """Measure what grows over `MINUTES` (30), or over one minute when in a hurry, then without goals for it."""
    minutes = 1.0 if quick else float(os.environ.get("MINUTES", "30"))
    return figures(soak(minutes), minutes)


def _p99(waits: Sequence[float]) -> float:
    return float(np.percentile(waits, 99))


def p99_of_waits(waits: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return minute (its middle) and 99th percentile of the waits of each minute; `waits`: minute and milliseconds."""
    inside: dict[int, list[float]] = defaultdict(list)
    for minute, wait in waits:
        inside[int(minute)].append(wait)
    return [(number + 0.5, _p99(some)) for number, some in sorted(inside.items())]


def _longer(day: Day, minutes: float) -> Figure:
    """Tell how much longer 1 of 100 waits at the end than after the first minutes, each minute beside those like it."""
    what = "the same: growth of what 1 of 100 snapshots waits, its error included"
    goal = ("<=", WAIT_PERCENT)
    counted = [(minute, wait) for minute, wait in p99_of_waits(day.waits) if FIRST_MINUTES <= minute < int(minutes)]
    wanted = int(minutes) - int(FIRST_MINUTES)
    if wanted < 3 * FAULTS:
        return Figure(what, float("nan"), "", detail=f"no goal: {wanted} minutes, {3 * FAULTS} are needed")
    grown = multiplied(counted, FAULTS)
    if grown is None or len(counted) < wanted:
        return not_measured(what, f"{len(counted)} minutes of {wanted}", goal)
    percent, least, most = (100 * (one - 1) for one in (grown.times, grown.at_least, grown.at_most))
    stolen = ""
    if day.stolen_seconds is not None:
        stolen = f"; the host gave {day.stolen_seconds:.1f} s of the cores (all together, the whole day) to others"
    ends = (statistics.median(wait for _, wait in some) for some in (counted[:FAULTS], counted[-FAULTS:]))
    detail = (
        f"{percent:+.0f} % ({least:+.0f} to {most:+.0f} %) from minute {FIRST_MINUTES:g} to the end; a line through the"
        f" logarithms of {len(counted)} minutes, with a height for each of {FAULTS} kinds of faults;"
        f" of an hour {_times(grown.per_hour)}{stolen}"
    )
    words = "median of the first {0} minutes: {1:.0f} ms, of the last {0}: {2:.0f} ms"
    return Figure(what, most, "%", goal, words.format(FAULTS, *ends), detail)


def _later(waits: Sequence[tuple[float, float]], minutes: float, *, wanted: int) -> Figure:
    """Tell how much longer 1 of 100 waits in the second half than in the first, faults and freezes included."""
    half = (FIRST_MINUTES + minutes) / 2
    first, second = (
        [wait for minute, wait in waits if begin <= minute < end]
        for begin, end in ((FIRST_MINUTES, half), (half, minutes))
    )
    what = "the same: what 1 of 100 snapshots waits, freezes included: second half beside the first"
    goal = ("<=", LATER_AT_MOST)
    if wanted < FEWEST_BLOCKS:
        return Figure(what, float("nan"), "", detail="no goal: too short")
    if not first or not second:
        return not_measured(what, "no snapshots in one of them", goal)
    halves = f"first half: {_p99(first):.0f} ms, second half: {_p99(second):.0f} ms"
    longest = f"longest of all: {max(*first, *second) / 1000:.1f} s"
    return Figure(what, _p99(second) / _p99(first), "times", goal, halves, longest)


def _too_few(what: str, series: Sequence[tuple[float, float]], wanted: int, goal: tuple[str, float]) -> Figure | None:
    """Return the row of what cannot be judged: the day is too short for a goal, or a block is missing."""
    if wanted < FEWEST_BLOCKS:
        detail = f"no goal: {wanted} blocks of {BLOCK_MINUTES:g} min, {FEWEST_BLOCKS} are needed"
        return Figure(what, float("nan"), "", detail=detail)
    if len(series) < wanted:
        return not_measured(what, f"{len(series)} blocks of {wanted}", goal)
    return None


def _rise(what: str, series: Sequence[tuple[float, float]], wanted: int, unit: str, most: float) -> Figure:
    """Tell how much blocks grow at most."""
    goal, grown = ("<=", most), growth(series)
    if grown is None or len(series) < wanted:
        return _too_few(what, series, wanted, goal) or not_measured(what, "no line", goal)
    detail = (
        f"{grown.percent:+.1f} ± {grown.percent_error:.1f} %,"
        f" which is {grown.per_hour:+.1f} ± {grown.per_hour_error:.1f} {unit} per hour;"
        f" a straight line through {len(series)} blocks of {BLOCK_MINUTES:g} min"
    )
    ends = f"first block: {series[0][1]:.1f} {unit}, last: {series[-1][1]:.1f} {unit}"
    return Figure(what, grown.at_most, "%", goal, ends, detail)


def _more(what: str, series: Sequence[tuple[float, float]], wanted: int) -> Figure:
    """Tell how many more there are in the last block than in the first."""
    goal = ("<=", float(MORE_AT_MOST))
    if (few := _too_few(what, series, wanted, goal)) is not None:
        return few
    first, last = series[0][1], series[-1][1]
    ends = f"first block: {first:g}, last: {last:g}"
    grown = growth(series)
    slope = f"; {grown.per_hour:+.1f} ± {grown.per_hour_error:.1f} per hour" if grown is not None else ""
    return Figure(what, last - first, "", goal, ends, f"medians of {BLOCK_MINUTES:g} min each{slope}")


def figures(day: Day, minutes: float) -> list[Figure]:
    """Tell about a day of so many minutes."""
    load, long = day.load, minutes >= FIRST_MINUTES + BLOCK_MINUTES
    wanted = max(0, int((minutes - FIRST_MINUTES) / BLOCK_MINUTES))
    counts = (
        ("threads", day.complete("threads")),
        ("open descriptors", day.complete("descriptors")),
        ("processes", day.series("processes")),
    )
    waits = _longer(day, minutes)
    faults = ", ".join(f"{number} x {name}" for name, number in sorted(load.faults.items())) or "none"
    unexpected = ", ".join(f"{number} x {what}" for what, number in load.unexpected.most_common()) or "none"
    lost = ", ".join(f"{name}: {why}" for name, why in sorted(day.lost.items())) or "all works"
    over = ", ".join(f"{load.over[what]} x {what}" for what in OVER)
    memory = _rise(
        f"growth of memory, its error included, {CAMERAS} cameras, {TILES} tiles, {STREAMS} streams, requests, and a"
        f" fault a minute, from minute {FIRST_MINUTES:g} on",
        blocks(day.series("memory_mb"), FIRST_MINUTES, minutes),
        wanted,
        "MB",
        MEMORY_PERCENT,
    )
    asked = (
        f"{memory.detail}; PSS of all processes; {load.troubles} troubles, {day.reconnects} reconnects, faults:"
        f" {faults}; {load.streams} streams of {load.stream_bytes / 1e6:.0f} MB, {load.snapshots} snapshots,"
        f" {load.without_picture} of a lost camera, {load.inferences} requests with a picture, {load.busy} told to come"
        f" back, {load.jobs} jobs, {load.log_ins} log-ins; RTSP, 720p, {FPS} fps, {PREDICT_FPS} predictions per s each,"
        f" {day.networks}"
    )
    plot = Plot(
        "soak",
        f"Memory over {minutes:g} minutes of {CAMERAS} cameras, {TILES} tiles, {STREAMS} streams and faults",
        "minutes",
        "MB",
        lines={"healthd": [(round(one.minute, 3), round(one.memory_mb, 1)) for one in day.samples]},
    )
    waited = Plot(
        "soak-waits",
        f"99th percentile of what a snapshot waits from when it is due, the same {minutes:g} minutes",
        "minutes",
        "ms",
        lines={"healthd": [(round(minute, 2), round(wait, 1)) for minute, wait in p99_of_waits(day.waits)]},
    )
    return [
        replace(memory, detail=asked, plot=plot),
        *(
            _more(f"the same: more {what} at the end", blocks(samples, FIRST_MINUTES, minutes), wanted)
            for what, samples in counts
        ),
        replace(waits, plot=waited) if day.waits else waits,
        _later(day.waits, minutes, wanted=wanted),
        Figure(
            "the same: longest time without a look at all of that",
            day.unseen_seconds(minutes),
            "s",
            ("<=", LONGEST_UNSEEN_SECONDS),
            detail=f"{len(day.samples)} looks",
        ),
        *(
            Figure(f"the same: {what}, of those that are asked for", share, "%", (">=", least) if long else None)
            for what, share in load.shares(minutes).items()
            for least in [LEAST_PERCENT[what]]
        ),
        Figure(
            "the same: what does not work again after the last trouble",
            len(day.lost),
            "",
            ("==", 0),
            detail=f"{lost}; {day.recovery_seconds:.1f} s after it; of {CAMERAS} cameras and `infer`",
        ),
        Figure(
            "the same: kinds of what has its time (log-ins, unused models, jobs, the log) and went at its end",
            sum(load.over[what] > 0 for what in OVER),
            "",
            ("==", len(OVER)) if long else None,
            detail=f"{over}; those that did not go are answers that nobody should get",
        ),
        Figure("the same: answers that nobody should get", load.unexpected.total(), "", ("==", 0), detail=unexpected),
        Figure("the same: frames that are in no account at the end", day.unaccounted, "", ("==", 0)),
        Figure("the same: SIGTERM to exit 0, at the end", day.stop_seconds, "s", ("<=", 15.5)),
    ]
