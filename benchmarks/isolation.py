"""What a camera costs that has a process of its own: its memory, and its processor time beside the same in a thread.

Memory is what the process shares with no other (`Private_Clean` + `Private_Dirty` of `/proc/PID/smaps_rollup`), as the
daemon tells it of each camera. One who polls has a snapshot of every camera once a second, so that pictures are
converted and encoded.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.assets import MOST_REFERENCES, street, street_1080p
from benchmarks.cameras import FPS, cameras
from benchmarks.figures import Figure, NotMeasuredError
from benchmarks.process import Daemon

CAMERAS = 4
GOAL = ("<=", 30.0)
"""MB of its own for each camera."""
SETTLE_SECONDS, SECONDS, TURNS, LOOKS = 20.0, 20.0, 2, 8
"""The first: longer than the 15 s between two looks of the daemon at the memory of its processes."""


@dataclass(frozen=True, slots=True)
class _House:
    """A daemon whose cameras are live."""

    daemon: Daemon
    names: Sequence[str]

    def poll(self, seconds: float) -> None:
        """Have a snapshot of each camera once a second, for so long."""
        begun = time.perf_counter()
        for number in range(max(1, round(seconds))):
            for name in self.names:
                self.daemon.get(f"/api/v1/cameras/{name}/snapshot")
            time.sleep(max(0.0, begun + number + 1 - time.perf_counter()))

    def memory(self) -> list[float]:
        """Return the memory that each camera's process has of its own, in MB; polls until it was looked at."""
        self.poll(SETTLE_SECONDS)
        for _ in range(LOOKS):
            told = [self.daemon.camera(name)["process"] for name in self.names]
            held = [process["memory_bytes"] for process in told if isinstance(process, dict)]
            if len(held) == len(self.names) and None not in held:
                return [bytes_ / 1e6 for bytes_ in held]
            self.poll(SETTLE_SECONDS / LOOKS)  # opened anew meanwhile, and not looked at yet
        raise NotMeasuredError("without processes for cameras, or without /proc/PID/smaps_rollup")

    def processor(self) -> float:
        """Return the processor time so far of the daemon and all its processes, in seconds."""
        daemon = psutil.Process(self.daemon.process.pid)
        times = [one.cpu_times() for one in (daemon, *daemon.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    def frames(self) -> int:
        """Return how many frames have been read so far, of all cameras."""
        every = [self.daemon.camera(name)["frames"] for name in self.names]
        return sum(int(counts["read"]) for counts in every if isinstance(counts, dict))


@contextmanager
def _house(clip: Path, isolation: str) -> Iterator[_House]:
    """Run real cameras and a daemon that watches them, without a model."""
    names = [f"c{number}" for number in range(CAMERAS)]
    with cameras(CAMERAS, clip) as served, tempfile.TemporaryDirectory() as folder:
        lines = ["[server]", "port = 0"]
        for name, url in zip(names, served.urls, strict=True):
            lines += [f"[cameras.{name}]", 'plugin = "bench-film"', f'url = "{url}"', f'isolation = "{isolation}"']
        config = Path(folder) / "config.toml"
        config.write_text("\n".join(lines), encoding="utf-8")
        with Daemon("run", "--config", str(config)) as daemon:
            daemon.wait_for(lambda: all(daemon.camera(name)["state"] == "live" for name in names), 60)
            yield _House(daemon, names)


def _memory(what: str, clip: Path) -> Figure:
    with _house(clip, "process") as house:
        held = house.memory()
    return Figure(
        f"memory of a camera's process alone, {what}",
        max(held),
        "MB",
        GOAL,
        detail=f"worst of {CAMERAS}, median {statistics.median(held):.1f} MB; RTSP, H.264, {FPS} fps, polled, after "
        f"{SETTLE_SECONDS:g} s",
    )


def _processor(clip: Path, seconds: float, turns: int) -> Figure:
    """Measure in turns (A B A B): what else runs on the machine meets both."""
    per_frame: dict[str, list[float]] = {"process": [], "thread": []}
    for _ in range(turns):
        for isolation, each in per_frame.items():
            with _house(clip, isolation) as house:
                house.poll(3)
                frames, spent = house.frames(), house.processor()
                house.poll(seconds)
                each.append(1000 * (house.processor() - spent) / (house.frames() - frames))
    apart, beside = (statistics.median(each) for each in per_frame.values())
    return Figure(
        'processor time per frame, `isolation = "process"`, beside `"thread"`',
        apart / beside,
        "times",
        peer=f"thread: {beside:.2f} ms",
        detail=f"process: {apart:.2f} ms; {CAMERAS} cameras, RTSP, 720p, {FPS} fps, no model, polled, all processes of "
        f"the daemon, median of {turns} in turn, {seconds:g} s each",
    )


def measure(*, quick: bool) -> list[Figure]:
    """Measure memory of three kinds of camera, and processor time."""
    small, seconds, turns = street("h264"), 5.0 if quick else SECONDS, 1 if quick else TURNS
    figures = [_memory("720p", small)]
    if not quick:
        most = f"1080p, {MOST_REFERENCES} pictures to refer to"
        figures.append(_memory("1080p", street_1080p(1)))
        figures.append(_memory(most, street_1080p(MOST_REFERENCES)))
    return [*figures, _processor(small, seconds, turns)]
