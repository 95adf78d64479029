"""Wall pages that poll while the processor predicts: how late snapshots are, beside the same with prediction off.

Sixty viewers ask for the picture of each of four cameras once a second, spread over the second, every second one of
them for a smaller one. They are a process of their own (`python -m benchmarks.polling URL SECONDS`), which shares the
cores with the daemon.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.assets import pose_network
from benchmarks.figures import Figure
from benchmarks.idle import CLIP, FPS, film_still
from benchmarks.process import Daemon
from benchmarks.room import cpu_seconds

VIEWERS, CAMERAS = 60, 4
WARM_UP_SECONDS = 3.0
WIDTH = 960
"""As the wall asks for it."""


class Tile(asyncio.Protocol):
    """One picture of one page: asks once a second, and notes how long the whole answer took."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._asked_at = 0.0
        self._missing = 0
        self._head = b""
        self._refused = False
        self.took: list[float] = []
        """A refusal counts as a second: that is when the page asks again."""
        self.refused = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, due: float) -> None:
        """Ask at a time of the loop that has come; what comes late because this process was late counts as late."""
        if self._asked_at:
            raise RuntimeError("no answer within a second")
        self._asked_at = due
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count down to the last byte."""
        if not self._missing:
            self._head += data
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._refused = b" 200 " not in head[:20]
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self._missing, data, self._head = int(length[15:]), rest, b""
        self._missing -= len(data)
        if self._missing == 0:
            self.refused += self._refused
            self.took.append(1.0 if self._refused else asyncio.get_running_loop().time() - self._asked_at)
            self._asked_at = 0.0


async def poll(url: str, seconds: int) -> dict[str, object]:
    """Return how long each answer took, in seconds, and how many were refused."""
    loop, parts = asyncio.get_running_loop(), urlsplit(url)
    tiles = []
    for viewer in range(VIEWERS):
        query = f"?width={WIDTH}" if viewer % 2 else ""
        for camera in range(CAMERAS):
            request = f"GET /api/v1/cameras/c{camera}/snapshot{query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
            _, tile = await loop.create_connection(lambda request=request: Tile(request), parts.hostname, parts.port)
            tiles.append(tile)
    begun = loop.time() + 0.1
    for turn in range(seconds * len(tiles)):
        due = begun + turn / len(tiles)
        await asyncio.sleep(due - loop.time())
        tiles[turn % len(tiles)].ask(due)
    await asyncio.sleep(1)
    return {"took": [seconds for tile in tiles for seconds in tile.took], "refused": sum(t.refused for t in tiles)}


@contextmanager
def _watching(film: Path, weights: Path | None) -> Iterator[Daemon]:
    """Run a daemon with the cameras, live; with weights each of them is predicted, as often as the processor can."""
    text = ["[server]\nport = 0\n"]
    for number in range(CAMERAS):
        plugin = "bench-film" if weights is None else "yolo-pose"
        text.append(f'[cameras.c{number}]\nplugin = "{plugin}"\nurl = "{film}"\n[cameras.c{number}.options]\n')
        text.append("realtime = true\nloop = true\n" + (f'model = "{weights}"\n' if weights else ""))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text("".join(text), encoding="utf-8")
        with Daemon("run", "--config", str(config)) as daemon:
            daemon.wait_for(lambda: all(daemon.camera(f"c{number}")["state"] == "live" for number in range(CAMERAS)))
            if weights:
                daemon.wait_for(lambda: all(_predicted(daemon, number) > 0 for number in range(CAMERAS)), 120)
            yield daemon


def _predicted(daemon: Daemon, number: int) -> int:
    return int(daemon.camera(f"c{number}")["frames"]["predicted"])  # type: ignore[index]


@dataclass(frozen=True, slots=True)
class _Run:
    took: list[float]
    """Seconds to the last byte of each answer."""
    refused: int
    predictions: float
    """A second."""
    cores: float
    """That the daemon took."""

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.took, n=100)[98]


def _polled(film: Path, weights: Path | None, seconds: int) -> _Run:
    with _watching(film, weights) as daemon:
        process = psutil.Process(daemon.process.pid)
        time.sleep(WARM_UP_SECONDS)
        before, cpu, begun = _all_predicted(daemon), cpu_seconds(process), time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.polling", daemon.url, str(seconds)]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        lasted = time.perf_counter() - begun
        rate = (_all_predicted(daemon) - before) / lasted
        return _Run(told["took"], told["refused"], rate, (cpu_seconds(process) - cpu) / lasted)


def _all_predicted(daemon: Daemon) -> int:
    return sum(_predicted(daemon, number) for number in range(CAMERAS))


def measure(*, quick: bool) -> list[Figure]:
    """Measure how late snapshots are while both cores predict, and without."""
    weights = pose_network()
    rounds, seconds = (1, 6) if quick else (3, 12)
    with tempfile.TemporaryDirectory() as folder:
        film = CLIP
        if not film.is_file():
            film = Path(folder) / "film.mp4"
            film_still(film)
        runs = [(_polled(film, None, seconds), _polled(film, weights, seconds)) for _ in range(rounds)]
    calm, busy = (min((run[which] for run in runs), key=lambda run: run.p99) for which in (0, 1))
    told = [
        f"p99 {1e3 * run.p99:.1f} ms, p50 {1e3 * statistics.median(run.took):.1f} ms, {run.refused} refused, "
        f"{run.cores:.2f} cores"
        for run in (calm, busy)
    ]
    return [
        Figure(
            f"{VIEWERS} viewers poll {CAMERAS} cameras each second while both cores predict: p99 of snapshots",
            busy.p99 / calm.p99,
            "times that without predictions",
            ("<=", 2.0),
            f"without predictions: {told[0]}",
            f"{told[1]}, {busy.predictions:.0f} predictions per s; 720p, {FPS} fps, {weights.name}, every second "
            f"picture {WIDTH} wide; the best of {rounds} runs of {seconds} s each",
        )
    ]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(poll(sys.argv[1], int(sys.argv[2])))))
