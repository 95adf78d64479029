"""Memory of four cameras on one model, and how soon the first prediction is there, beside one camera on ultralytics.

Both play the same film of 720p with the same weights. Memory is resident memory (RSS) of the whole process; PSS, in
which pages that other processes have too count in part, stands beside it.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.assets import POSE, checkpoint, exported, street
from benchmarks.figures import Figure
from benchmarks.process import Daemon

PEER = Path(__file__).parent / "peers" / "ultralytics_loop.py"
CAMERAS = 4


@contextmanager
def _healthd(folder: Path, cameras: int, cache: str) -> Iterator[tuple[Daemon, float]]:
    """Run cameras on one model; give the seconds from the start of the process to the first prediction."""
    lines = [
        "[server]",
        "port = 0",
        "[models]",
        f'directory = "{exported().parent}"',
        f'cache_directory = "{folder / cache}"',
    ]
    for number in range(cameras):
        lines += [f"[cameras.c{number}]", 'plugin = "yolo-pose"', f'url = "{street()}"']
        lines += [f"[cameras.c{number}.options]", f'model = "{exported().name}"', "realtime = true", "loop = true"]
    config = folder / "config.toml"
    config.write_text("\n".join(lines), encoding="utf-8")
    with Daemon("run", "--config", str(config)) as daemon:
        took = daemon.wait_for(lambda: daemon.get("/api/v1/cameras/c0/prediction")[0] == 200, 120)
        yield daemon, took


@contextmanager
def _ultralytics() -> Iterator[tuple["subprocess.Popen[str]", float]]:
    begun = time.perf_counter()
    command = [sys.executable, str(PEER), str(checkpoint()), str(street())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process, time.perf_counter() - begun
        finally:
            process.kill()


def _memory(pid: int, settle_seconds: float) -> tuple[float, float]:
    """Return RSS and PSS of a process and its children, in MB, after a while."""
    time.sleep(settle_seconds)
    process = psutil.Process(pid)
    every = [one.memory_full_info() for one in (process, *process.children(recursive=True))]
    return sum(one.rss for one in every) / 1e6, sum(one.pss for one in every) / 1e6


def measure(*, quick: bool) -> list[Figure]:
    """Measure memory and the first prediction."""
    runs, settle = (1, 3.0) if quick else (5, 20.0)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        very_first = []
        for run in range(1 if quick else 3):
            with _healthd(folder, 1, f"cache-{run}") as (_, took):
                very_first.append(took)
        for _ in range(runs):
            with _healthd(folder, 1, "cache-0") as (_, took):
                ours.append(took)
            with _ultralytics() as (_, took):
                theirs.append(took)
        with _healthd(folder, CAMERAS, "cache-0") as (daemon, _):
            rss, pss = _memory(daemon.process.pid, settle)
        with _ultralytics() as (process, _):
            peer_rss, peer_pss = _memory(process.pid, settle)
    warm, peer, cold = (statistics.median(each) for each in (ours, theirs, very_first))
    told = f"ultralytics, import, load and first `predict()`: {peer:.2f} s"
    return [
        Figure(
            f"resident memory, {CAMERAS} cameras of 720p on one model, beside one camera on ultralytics",
            rss / peer_rss,
            "",
            ("<=", 0.45),
            f"ultralytics: {peer_rss:.0f} MB RSS, {peer_pss:.0f} MB PSS",
            f"healthd: {rss:.0f} MB RSS, {pss:.0f} MB PSS ({pss / peer_pss:.2f} of it);"
            f" {POSE}, {settle:g} s after the first prediction",
        ),
        Figure(
            "start of the process to the first prediction, beside ultralytics",
            warm / peer,
            "",
            ("<=", 0.4),
            told,
            f"healthd: {warm:.2f} s, the model compiled before; {POSE}, median of {runs} in turn",
        ),
        Figure(
            "the same, the very first start: nothing compiled yet",
            cold / peer,
            "",
            peer=told,
            detail=f"healthd: {cold:.2f} s, median of {len(very_first)}",
        ),
    ]
