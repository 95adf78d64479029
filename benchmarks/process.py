"""The daemon as a process: how soon it shows a picture, how much memory it takes, how fast it stops."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

import psutil

from benchmarks.figures import Figure

PLUGIN = Path(__file__).parent / "plugin"
DRAIN_SECONDS = 1.0


class Daemon:
    """A running daemon on a free port of loopback. Ends with the block."""

    def __init__(self, *arguments: str, key: str | None = None, log: IO[bytes] | None = None) -> None:
        """`key`: sent with every request; `log`: where its standard error goes, absent: nowhere."""
        self._headers = {"X-Api-Key": key} if key else {}
        path = os.pathsep.join(filter(None, [str(PLUGIN), os.environ.get("PYTHONPATH")]))
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "healthd", *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=log or subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = next(word for word in self.process.stdout.readline().split() if word.startswith("http://"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a GET."""
        try:
            with urllib.request.urlopen(self._request(path), timeout=15) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read()

    def post(self, path: str) -> int:
        """Return the status of a POST without a body."""
        with urllib.request.urlopen(self._request(path, "POST"), timeout=5) as answer:
            return int(answer.status)

    def _request(self, path: str, method: str = "GET") -> urllib.request.Request:
        return urllib.request.Request(self.url + path, method=method, headers=self._headers)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> float:
        """Wait until something holds; return the seconds since the process was started."""
        while not condition():
            if time.perf_counter() > self.begun + seconds:
                raise TimeoutError(f"not within {seconds} s")
            time.sleep(0.01)
        return time.perf_counter() - self.begun

    def stop(self) -> float:
        """Send SIGTERM; return the seconds until the process was gone."""
        begun = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        seconds = time.perf_counter() - begun
        if code != 0:
            raise RuntimeError(f"exit code {code}")
        return seconds

    def shows(self, name: str) -> bool:
        """Whether a camera's snapshot can be had, with the prediction drawn on it."""
        return self.get(f"/api/v1/cameras/{name}/snapshot?overlay=true")[0] == 200

    def camera(self, name: str) -> dict[str, object]:
        """Return what the API says of a camera."""
        return dict(json.loads(self.get(f"/api/v1/cameras/{name}")[1]))


def _demo(*, quick: bool) -> list[Figure]:
    first, stops, memory = [], [], 0.0
    for _ in range(1 if quick else 5):
        with Daemon("demo", "--port", "0") as daemon:
            first.append(daemon.wait_for(lambda: daemon.shows("gym") and daemon.shows("rack")))
            time.sleep(2 if quick else 8)
            memory = max(memory, psutil.Process(daemon.process.pid).memory_info().rss / 1e6)
            stops.append(daemon.stop())
    return [
        Figure(
            "demo: start of the process to the first snapshot of both cameras, boxes drawn",
            statistics.median(first),
            "s",
            ("<=", 3.0),
            detail=f"median of {len(first)}; worst {max(first):.2f} s",
        ),
        Figure("demo: resident memory, two cameras and two models", memory, "MB", ("<=", 350), detail="worst seen"),
        Figure("demo: SIGTERM to exit", statistics.median(stops), "s", detail=f"median of {len(stops)}"),
    ]


def _stop(*, hung: bool, runs: int) -> list[float]:
    cameras = ["steady"] * 3 + ["hung" if hung else "steady"]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        lines = ["[server]", "port = 0", "[shutdown]", f"drain_seconds = {DRAIN_SECONDS}"]
        for number, kind in enumerate(cameras):
            lines += [f"[cameras.c{number}]", f'plugin = "bench-{kind}"', "stall_timeout_seconds = 60"]
        config.write_text("\n".join(lines), encoding="utf-8")
        seconds = []
        for _ in range(runs):
            with Daemon("run", "--config", str(config)) as daemon:
                reached = 15 if hung else 5
                daemon.wait_for(lambda: int(daemon.camera("c3")["frame_id"] or 0) >= reached)  # noqa: B023
                seconds.append(daemon.stop())
        return seconds


def measure(*, quick: bool) -> list[Figure]:
    """Measure start, memory and stop."""
    runs = 2 if quick else 7
    healthy, hung = _stop(hung=False, runs=runs), _stop(hung=True, runs=max(2, runs // 2))
    return [
        *_demo(quick=quick),
        Figure(
            "SIGTERM to exit, 4 healthy cameras",
            max(healthy),
            "s",
            ("<=", 0.5),
            detail=f"worst of {runs}; median {statistics.median(healthy):.2f} s",
        ),
        Figure(
            f"SIGTERM to exit, one of 4 hangs in read(), drain_seconds = {DRAIN_SECONDS:g}",
            max(hung),
            "s",
            ("<=", DRAIN_SECONDS + 0.5),
            detail=f"worst of {len(hung)}",
        ),
    ]
