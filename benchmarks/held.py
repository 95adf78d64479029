"""How many cameras are held: 720p, 15 fps, 5 predictions a second of each, not one missed.

The cameras are the same for both: RTSP over TCP from a process of its own on the same machine, which costs both the
same. A number is held when, over some seconds, every camera had at least 4 predictions in each second and 97 % of all
that are due. Whoever fails may try once more. The number is doubled until it is not held, then bisected.

ultralytics gets the better of its two ways, each as its manual has it: `vid_stride=3` (every third frame: 5 per s), and
every frame, as many as it can; and a stream is opened in half a second in place of its usual 5, by the same words to
FFmpeg that healthd uses.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from benchmarks.assets import POSE, checkpoint, exported, street
from benchmarks.cameras import FPS, cameras
from benchmarks.figures import Figure, not_measured
from benchmarks.process import Daemon

PEER = Path(__file__).parent / "peers" / "ultralytics_streams.py"
PREDICT_FPS, LEAST_IN_A_SECOND, SHARE_OF_ALL = 5, 4, 0.97
SETTLE_SECONDS, SECONDS = 4, 8
MOST = 64
GOAL = (">=", 3.0)
WHAT = f"cameras held, 720p, {FPS} fps, {PREDICT_FPS} predictions/s each, none missed, beside the multi-stream loader"

Counts = Callable[[], Sequence[int]]
"""Gives the predictions of each camera so far."""
Run = Callable[[Sequence[str]], AbstractContextManager[Counts]]


def _none_missed(counts: Counts, seconds: int) -> bool:
    """Whether every camera had its predictions in each of so many seconds from now."""
    begun, before = time.perf_counter(), counts()
    first, missed = before, False
    for second in range(1, seconds + 1):
        time.sleep(max(0.0, begun + second - time.perf_counter()))
        now = counts()
        missed |= any(new - old < LEAST_IN_A_SECOND for new, old in zip(now, before, strict=True))
        before = now
    due = (time.perf_counter() - begun) * PREDICT_FPS * SHARE_OF_ALL
    return not missed and all(last - old >= due for last, old in zip(before, first, strict=True))


@contextmanager
def healthd(urls: Sequence[str]) -> Iterator[Counts]:
    """Run the daemon on these cameras; all of them are predicted when the block begins."""
    lines = ["[server]", "port = 0", "[models]", f'directory = "{exported().parent}"']
    for number, url in enumerate(urls):
        lines += [f"[cameras.c{number}]", 'plugin = "yolo-pose"', f'url = "{url}"', f"predict_fps = {PREDICT_FPS}"]
        lines += [f"[cameras.c{number}.options]", f'model = "{exported().name}"']
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text("\n".join(lines), encoding="utf-8")
        with Daemon("run", "--config", str(config)) as daemon:

            def counts() -> Sequence[int]:
                return [camera["frames"]["predicted"] for camera in json.loads(daemon.get("/api/v1/cameras")[1])]

            daemon.wait_for(lambda: min(counts()) > 0, 60)
            yield counts


@contextmanager
def ultralytics(urls: Sequence[str], stride: int, *more: str) -> Iterator[Counts]:
    """Run the loader on these cameras; all of them are predicted when the block begins."""
    quick_open = {"OPENCV_FFMPEG_CAPTURE_OPTIONS": "analyzeduration;500000|rtsp_transport;tcp"}
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder) / "list.streams"
        streams.write_text("\n".join(urls), encoding="utf-8")
        command = [sys.executable, str(PEER), str(checkpoint()), str(streams), str(stride), *more]
        with subprocess.Popen(
            command, env={**os.environ, **quick_open}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            lines = process.stdout
            threading.Thread(
                target=lambda: seen.update(line for line in lines if line.startswith("predicted ")), daemon=True
            ).start()
            try:
                until = time.perf_counter() + 60 + 2 * len(urls)
                while len(seen) < len(urls):
                    if process.poll() is not None or time.perf_counter() > until:
                        raise TimeoutError("the multi-stream loader did not come up")
                    time.sleep(0.05)
                yield lambda: list(seen.copy().values())
            finally:
                process.kill()


def _held(run: Run, number: int, seconds: int) -> bool:
    """Whether so many are held; who does not even come up with them does not hold them."""
    for _ in range(2):
        with suppress(TimeoutError), cameras(number, street("h264")) as served, run(served.urls) as counts:
            time.sleep(SETTLE_SECONDS)
            if _none_missed(counts, seconds):
                return True
    return False


def most(held: Callable[[int], bool], first: int = 1) -> int:
    """Return the largest number that is held: doubled until it is not, then bisected; 0: not even one."""
    low, high = 0, first
    while high <= MOST and held(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if held(middle) else (low, middle)
    return low


def measure(*, quick: bool) -> list[Figure]:
    """Measure both: five minutes and more, half of it when in a hurry."""
    checkpoint(), exported(), street("h264")  # what is missing is said here
    seconds = SECONDS // 2 if quick else SECONDS
    ways: dict[str, Run] = {
        "vid_stride=3": lambda urls: ultralytics(urls, 3),
        "every frame": lambda urls: ultralytics(urls, 1),
        "every frame, told to take all cores": lambda urls: ultralytics(urls, 1, "--all-cores"),
    }
    ours = most(lambda number: _held(healthd, number, seconds), 4)
    theirs = {how: most(lambda number: _held(run, number, seconds), 2) for how, run in ways.items()}  # noqa: B023
    best = max(theirs["vid_stride=3"], theirs["every frame"])
    if not best:
        return [not_measured(WHAT, "the multi-stream loader holds not even one camera here", GOAL)]
    told = ", ".join(f"{number} ({how})" for how, number in theirs.items())
    return [
        Figure(
            WHAT,
            ours / best,
            "times",
            GOAL,
            f"ultralytics: {told}; the better of the first two counts",
            f'healthd: {ours}; RTSP over TCP from the same machine, {POSE}, `precision = "auto"`, {seconds} s each',
        )
    ]
