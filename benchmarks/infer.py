"""Inference over HTTP: how many pictures a second, and how long one takes, beside the service of the usual tutorial.

Both get the same picture in the same form over the same kind of connection, from clients that do as little as they
can, in another process on the same cores, and are measured in turn, never at once. Both serve the same network: the
tutorial the `.pt`, on torch in f32; healthd what `yolo export format=onnx dynamic=True` makes of that very file, on
OpenVINO, once in f32, as `?half=false` asks, and once in half precision, as `?half=true` asks. Both compute 384 x 640
for this picture. The ratio is that of the two services as they stand, engines included.
"""

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from benchmarks.assets import STREET, asset, checkpoint, exported, need
from benchmarks.figures import Figure
from benchmarks.process import Daemon
from benchmarks.streams import _url_of

CLIENTS = (1, 4, 16)
NETWORK = "yolo11n"
WAYS = {"f32": "?half=false", "half": "?half=true"}
PEER = Path(__file__).parent / "peers" / "fastapi_detect.py"
PEER_NAME = "FastAPI + ultralytics"
QUEUE_TIMEOUT_SECONDS = 5.0


@dataclass(slots=True)
class Load:
    """What so many clients got of one service."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    refused: int = 0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Milliseconds within which so many of a hundred were answered."""
        if len(self.latencies) < 2:
            return float("nan")
        return statistics.quantiles(self.latencies, n=100)[int(share) - 1] * 1000

    def told(self) -> str:
        """Say it in words."""
        refused = f", {self.refused} refused" if self.refused else ""
        return f"{self.rate:.1f} per s, p50 {self.percentile(50):.0f} ms, p99 {self.percentile(99):.0f} ms{refused}"


def _request(path: str, host: str, picture: bytes) -> bytes:
    name = b'--x\r\nContent-Disposition: form-data; name="%b"'
    head = name % b'file"; filename="picture.jpg' + b"\r\nContent-Type: image/jpeg\r\n\r\n"
    body = head + picture + b"\r\n--x--\r\n"
    lines = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return lines.encode() + body


async def _client(url: str, request: bytes, load: Load, until: float, begin: float) -> None:
    """Ask again and again on one connection; count what is answered after `begin`."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        while (asked := time.perf_counter()) < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(int(length.split(b":")[1]))
            answered = time.perf_counter()
            if not begin <= answered <= until:
                continue
            if b" 200 " in head[:20]:
                load.latencies.append(answered - asked)
            elif b" 503 " in head[:20]:
                load.refused += 1
            else:
                raise RuntimeError(f"{head[:40]!r} {body[:200]!r}")
    finally:
        writer.close()


async def _load(url: str, request: bytes, clients: int, seconds: float) -> Load:
    load, begin = Load(seconds), time.perf_counter() + 1.0
    await asyncio.gather(*(_client(url, request, load, begin + seconds, begin) for _ in range(clients)))
    return load


def _seen(url: str, request: bytes) -> dict[str, object]:
    """Ask once; return the answer."""

    async def ask() -> bytes:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.split(b":")[1]))
        writer.close()
        return body

    return dict(json.loads(asyncio.run(ask())))


@contextlib.contextmanager
def _healthd(weights: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        lines = ["[server]", "port = 0", "[models]", f'directory = "{weights}"', f'default = "{NETWORK}.onnx"']
        lines += [f'preload = ["{NETWORK}.onnx"]', f"queue_timeout_seconds = {QUEUE_TIMEOUT_SECONDS}"]
        config.write_text("\n".join(lines), encoding="utf-8")
        with Daemon("run", "--config", str(config)) as daemon:
            daemon.wait_for(lambda: daemon.get("/readyz")[0] == 200)
            yield daemon.url


@contextlib.contextmanager
def _tutorial(weights: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(PEER), str(weights / f"{NETWORK}.pt")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        yield _url_of(process)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _measured(
    url: str, path: str, picture: bytes, seconds: float, crowds: tuple[int, ...]
) -> tuple[dict[int, Load], int]:
    """Measure with each number of clients; return that, and how many objects were seen in the picture."""
    request = _request(path, urlsplit(url).netloc, picture)
    for _ in range(3):
        answer = _seen(url, request)
    seen = answer.get("results", answer.get("detections"))
    assert isinstance(seen, list)
    return {clients: asyncio.run(_load(url, request, clients, seconds)) for clients in crowds}, len(seen)


def _picture(clip: Path) -> bytes:
    ok, frame = cv2.VideoCapture(str(clip)).read()
    if not ok:
        raise RuntimeError(f"{clip.name} cannot be read")
    return cv2.imencode(".jpg", np.asarray(frame), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def measure(*, quick: bool) -> list[Figure]:
    """Measure inference over HTTP."""
    need("fastapi", "ultralytics", "python_multipart", "onnx")
    weights, clip = checkpoint(NETWORK).parent, asset("clips", STREET)
    picture, seconds, crowds = (_picture(clip), 2.0, (4,)) if quick else (_picture(clip), 12.0, CLIENTS)
    with _healthd(exported(NETWORK).parent) as url:
        ours = {how: _measured(url, f"/api/v1/infer{query}", picture, seconds, crowds) for how, query in WAYS.items()}
    with _tutorial(weights) as url:
        peer = _measured(url, "/detect", picture, seconds, crowds)
    return [figure for how, (loads, seen) in ours.items() for figure in _figures(how, loads, seen, peer)]


def _figures(how: str, ours: dict[int, Load], seen: int, peer: tuple[dict[int, Load], int]) -> Iterator[Figure]:
    for clients, load in ours.items():
        what = f"/infer, {NETWORK}, 720p JPEG, {clients} client{'s'[: clients > 1]}, {how}"
        beside = f"{PEER_NAME}: {peer[0][clients].told()}"
        yield Figure(f"{what}: answers", load.rate, "per s", None, beside, load.told())
        goal = (">=", 2.5) if clients == 4 else None
        both = f"objects seen: {seen}, by the peer {peer[1]}"
        ratio = load.rate / peer[0][clients].rate
        yield Figure(f"{what}: beside the peer", ratio, "times its rate", goal, beside, both)
    if (crowd := ours.get(16)) is None:
        return
    told = f"the goal is the deadline of the queue; {crowd.refused} refused"
    yield Figure(
        f"/infer, 16 clients, {how}: p99", crowd.percentile(99), "ms", ("<=", QUEUE_TIMEOUT_SECONDS * 1000), "", told
    )
