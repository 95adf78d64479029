"""What cameras cost while nothing happens, and how a model that is too slow shares itself out."""

import asyncio
import contextlib
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import psutil

from benchmarks.assets import ASSETS, STREET, pose_network
from benchmarks.figures import Figure, Plot
from benchmarks.plugin.healthd_bench import room_picture
from benchmarks.process import Daemon
from benchmarks.room import cpu_seconds
from healthd.cameras.jpeg import JpegEncoder
from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import CameraSource, Predict, Read
from healthd.frames import Image
from healthd.metrics import Metrics
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelSpec, Prediction
from healthd.settings import CameraSettings

FPS, SECONDS = 15, 12
CLIP = ASSETS / "clips" / STREET
NUMBERS = (1, 2, 4, 8, 16)
SETTLE_SECONDS, WITHOUT_MODEL_SECONDS = 6.0, 2.0
"""The first: longer than `motion_hold_seconds`, the load of a model and the first looks together."""
SLOW_SECONDS = 0.1


def _scene() -> tuple[Image, str]:
    """Return a 720p picture, people and all where there is a real one, and what it is."""
    capture = cv2.VideoCapture(str(CLIP)) if CLIP.is_file() else None
    ok, image = capture.read() if capture else (False, None)
    return (image, "a street with people who stand still") if ok else (room_picture(0), "an empty room")  # type: ignore[return-value]


def film_still(path: Path) -> str:
    """Film a scene in which nothing moves but the noise of the sensor; return what it is."""
    scene, what = _scene()
    rng = np.random.default_rng(1)
    grains = [rng.normal(0, 1.5, scene.shape).astype(np.float32) for _ in range(5)]
    pictures = (
        np.clip(scene + np.roll(grains[n % 5], (int(rng.integers(700)), int(rng.integers(1200))), (0, 1)), 0, 255)
        for n in range(FPS * SECONDS)
    )
    height, width = scene.shape[:2]
    if shutil.which("ffmpeg") is None:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
        for picture in pictures:
            writer.write(picture.astype(np.uint8))
        writer.release()
        return f"{what}, MPEG-4"
    raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}", "-r", str(FPS), "-i", "-"]
    x264 = ["-c:v", "libx264", "-preset", "veryfast", "-g", "30", "-bf", "0", "-pix_fmt", "yuv420p"]
    command = ["ffmpeg", "-loglevel", "error", "-y", *raw, *x264, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None
        for picture in pictures:
            encoder.stdin.write(picture.astype(np.uint8).tobytes())
        encoder.stdin.close()
    return f"{what}, H.264"


@contextmanager
def house(film: Path, cameras: int, plugin: str, lines: str = "", options: str = "") -> Iterator[Daemon]:
    """Run a daemon with so many cameras that play the film; it is settled when the block begins."""
    text = ["[server]\nport = 0\n"]
    for number in range(cameras):
        text.append(f'[cameras.c{number}]\nplugin = "{plugin}"\nurl = "{film}"\n{lines}\n')
        text.append(f"[cameras.c{number}.options]\nrealtime = true\nloop = true\n{options}\n")
    config = film.parent / "config.toml"
    config.write_text("".join(text), encoding="utf-8")
    with Daemon("run", "--config", str(config)) as daemon:
        daemon.wait_for(lambda: all(daemon.camera(f"c{number}")["state"] == "live" for number in range(cameras)), 60)
        if options:
            daemon.wait_for(lambda: _predicted(daemon) > 0, 120)
        time.sleep(SETTLE_SECONDS if options else WITHOUT_MODEL_SECONDS)
        yield daemon


def _predicted(daemon: Daemon) -> int:
    return int(daemon.camera("c0")["frames"]["predicted"])  # type: ignore[index]


def cpu(daemon: Daemon, seconds: float, *, poll: bool = False) -> float:
    """Return the share of one core that the daemon takes; `poll`: asked for a picture once a second."""
    process = psutil.Process(daemon.process.pid)
    before, begun = cpu_seconds(process), time.perf_counter()
    while (left := begun + seconds - time.perf_counter()) > 0:
        if poll:
            daemon.get("/api/v1/cameras/c0/snapshot")
        time.sleep(min(1.0, left))
    return (cpu_seconds(process) - before) / (time.perf_counter() - begun)


def _rest(film: Path, what: str, seconds: float) -> list[Figure]:
    weights = pose_network()
    options = f'model = "{weights}"'
    took, rates = {}, {}
    for when in ("always", "motion"):
        lines = f'predict_when = "{when}"\nmotion_detections_hold_seconds = 3'  # who stands there is part of the room
        with house(film, 1, "yolo-pose", lines, options) as daemon:
            predicted, begun = _predicted(daemon), time.perf_counter()
            took[when] = cpu(daemon, seconds)
            rates[when] = (_predicted(daemon) - predicted) / (time.perf_counter() - begun)
    return [
        Figure(
            'CPU of an idle scene with `predict_when = "motion"`, beside `always`',
            took["motion"] / took["always"],
            "",
            ("<=", 0.15),
            f"always: {100 * took['always']:.0f} % of one core, {rates['always']:.1f} predictions per s",
            f"motion: {100 * took['motion']:.1f} % of one core, {rates['motion']:.2f} predictions per s; "
            f"720p, {FPS} fps, {what}, {weights.name}, {seconds:g} s each",
        )
    ]


def _unseen(film: Path, seconds: float) -> list[Figure]:
    with house(film, 1, "bench-film") as daemon:
        nobody, polled = cpu(daemon, seconds), cpu(daemon, seconds, poll=True)
    return [
        Figure(
            "CPU of a camera that nobody looks at, beside the same with a snapshot a second",
            nobody / polled,
            "",
            peer=f"polled: {100 * polled:.1f} % of one core",
            detail=f"nobody: {100 * nobody:.1f} % of one core; 720p, {FPS} fps, no model, {seconds:g} s each",
        )
    ]


def _many(film: Path, seconds: float, numbers: tuple[int, ...]) -> list[Figure]:
    each = {}
    for number in numbers:
        with house(film, number, "bench-film") as daemon:
            each[number] = cpu(daemon, seconds) / number
    first, last = numbers[0], numbers[-1]
    steps = ", ".join(f"{number}: {100 * share:.2f} %" for number, share in each.items())
    return [
        Figure(
            f"CPU per camera, {last} cameras without a model, beside {first}",
            each[last] / each[first],
            "",
            ("<=", 1.1),
            f"{first}: {100 * each[first]:.2f} % of one core per camera",
            f"per camera, {steps}; 720p, {FPS} fps, nobody looks, {seconds:g} s each",
            Plot(
                "cameras",
                "CPU per camera by the number of cameras: 720p, no model, nobody looks",
                "cameras",
                "% of one core per camera",
                lines={"healthd": [(number, 100 * share) for number, share in each.items()]},
            ),
        )
    ]


class SlowModel(Model):
    """Sleeps for each picture, as a network on an accelerator does."""

    task = "detect"
    labels: ClassVar[dict[int, str]] = {}

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Sleep, then say nothing."""
        del image, params
        time.sleep(SLOW_SECONDS)
        return Prediction("slow", 1000 * SLOW_SECONDS, ())


class SlowFamily(ModelFamily):
    """The one slow model."""

    contract = 1

    def serves(self, model_id: str) -> bool:
        """Whatever is asked."""
        return bool(model_id)

    def load(self, spec: ModelSpec) -> Model:
        """Load nothing."""
        del spec
        return SlowModel()


class SharingSource(CameraSource):
    """A steady camera that shares the slow model."""

    contract = 1

    @contextmanager
    def camera(self) -> Iterator[Read]:
        """Pace by the wall clock."""
        rest = threading.Event()

        def read() -> Image:
            rest.wait(1 / FPS)
            return np.zeros((72, 128, 3), np.uint8)

        yield read

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:
        """Share it."""
        with models.use("slow", "m") as shared:
            yield lambda image: shared.predict(image, InferenceParams())


async def _shed(seconds: float, cameras: int = 4) -> Figure:
    models = ModelManager({"slow": SlowFamily()}, directory=Path("models"))
    runners = [
        CameraRunner(
            f"c{number}",
            settings=CameraSettings(plugin="bench", frozen_after_seconds=0),
            source=SharingSource(f"c{number}"),
            models=models,
            encoder=JpegEncoder(),
            metrics=Metrics(),
        )
        for number in range(cameras)
    ]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    await asyncio.sleep(2)
    before = [runner.counts.predicted for runner in runners]
    await asyncio.sleep(seconds)
    rates = [(runner.counts.predicted - then) / seconds for runner, then in zip(runners, before, strict=True)]
    for runner in runners:
        runner.request_stop()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
    return Figure(
        f"{cameras} equal cameras on a model that is too slow: difference between the most and the fewest predictions",
        (max(rates) - min(rates)) / max(rates),
        "",
        ("<=", 0.1),
        detail=f"{', '.join(f'{rate:.2f}' for rate in rates)} per s of {1 / SLOW_SECONDS:g} that there are, {FPS} fps "
        f"each; {statistics.fmean(float(r.counts.in_hand) for r in runners):.0f} in hand at the end",
    )


def measure(*, quick: bool) -> list[Figure]:
    """Measure what the issue asks of an idle house, and the sharing."""
    seconds = 3.0 if quick else 30.0
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "still.mp4"
        what = film_still(film)
        figures = [*_rest(film, what, seconds), *_many(film, seconds, (1, 4) if quick else NUMBERS)]
        return figures if quick else [*figures, *_unseen(film, seconds), asyncio.run(_shed(seconds))]
