"""Glass to prediction: from the capture of a frame to its published prediction, beside the inference alone."""

import json
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.assets import pose_network, street
from benchmarks.cameras import FPS, cameras
from benchmarks.figures import Figure
from benchmarks.process import Daemon

MORE_MS = 5.0
SETTLE_SECONDS = 3.0


def _events(daemon: Daemon, seconds: float) -> list[tuple[float, float]]:
    """Return the age of each prediction when it was published, and how long its inference took, in ms."""
    seen: list[tuple[float, float]] = []
    until = time.monotonic() + seconds
    with urllib.request.urlopen(f"{daemon.url}/api/v1/events/stream?camera=c0", timeout=10) as answer:
        for line in answer:
            if time.monotonic() > until:
                break
            if line.startswith(b"data:") and b"inference_time_ms" in line:
                said = json.loads(line[5:])
                seen.append((said["age_ms"], said["inference_time_ms"]))
    return seen


def measure(*, quick: bool) -> list[Figure]:
    """Measure one camera, on a machine that has nothing else to do."""
    network, seconds = pose_network(), 4.0 if quick else 20.0
    with tempfile.TemporaryDirectory() as folder, cameras(1, street("h264")) as served:
        config = Path(folder) / "config.toml"
        lines = ["[server]", "port = 0", "[models]", f'directory = "{network.parent}"']
        lines += ["[cameras.c0]", 'plugin = "yolo-pose"', f'url = "{served.urls[0]}"']
        lines += ["[cameras.c0.options]", f'model = "{network.name}"']
        config.write_text("\n".join(lines), encoding="utf-8")
        with Daemon("run", "--config", str(config)) as daemon:
            daemon.wait_for(lambda: daemon.get("/api/v1/cameras/c0/prediction")[0] == 200, 60)
            time.sleep(SETTLE_SECONDS)
            seen = _events(daemon, seconds)
    ages, inferences = ([one[which] for one in seen] for which in (0, 1))
    p50, inference = statistics.median(ages), statistics.median(inferences)
    more = statistics.median(age - alone for age, alone in seen)
    return [
        Figure(
            "glass to prediction: frame captured to prediction published, p50, less the inference alone",
            p50 - inference,
            "ms",
            ("<=", MORE_MS),
            f"inference alone, letterbox and boxes included: p50 {inference:.1f} ms",
            f"p50 {p50:.1f} ms, p95 {statistics.quantiles(ages, n=20)[-1]:.1f} ms; of the differences {more:.1f} ms;"
            f" RTSP, 720p, {FPS} fps, {network.stem}, {len(seen)} predictions, an event stream listens",
        )
    ]
