"""Reader and predictor side by side, beside the same camera and model one after the other."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from healthd.cameras.jpeg import JpegEncoder
from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import CameraSource, Predict, Read
from healthd.metrics import Metrics
from healthd.models.manager import ModelManager
from healthd.models.model import Prediction
from healthd.settings import CameraSettings


class PacedCamera:
    """A 720p camera that keeps its rate by the wall clock and, like a real one, drops what nobody fetched."""

    def __init__(self, fps: float) -> None:
        self.interval = 1 / fps
        self._begun = time.perf_counter()
        self._last = 0
        self.delivered: dict[int, float] = {}

    def read(self) -> np.ndarray:
        """Wait for the next picture; its number stands in its first pixels."""
        number = max(self._last + 1, int((time.perf_counter() - self._begun) / self.interval))
        time.sleep(max(0.0, self._begun + number * self.interval - time.perf_counter()))
        self._last = number
        image = np.zeros((720, 1280, 3), np.uint8)
        image[0, :4, 0] = np.frombuffer(number.to_bytes(4, "big"), np.uint8)
        self.delivered[number] = time.perf_counter()
        return image


class SlowModel:
    """Takes its time for each picture, as a network on another core does; notes how old each was when it began."""

    def __init__(self, camera: PacedCamera, seconds: float) -> None:
        self.camera = camera
        self.seconds = seconds
        self.start_ages: list[float] = []

    def predict(self, image: np.ndarray) -> Prediction:
        """Sleep, then say nothing."""
        number = int.from_bytes(image[0, :4, 0].tobytes(), "big")
        self.start_ages.append(time.perf_counter() - self.camera.delivered[number])
        time.sleep(self.seconds)
        return Prediction("slow", self.seconds * 1000, (), {"task": "detect"})


class BenchSource(CameraSource):
    """The paced camera with the slow model."""

    def attach(self, camera: PacedCamera, model: SlowModel) -> "BenchSource":
        """Say which camera and model it stands for."""
        self._camera, self._model = camera, model
        return self

    @contextmanager
    def camera(self) -> Iterator[Read]:
        """Give the camera."""
        yield self._camera.read

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:  # type: ignore[override]
        """Give the model."""
        del models
        yield self._model.predict


@dataclass(frozen=True, slots=True)
class Rates:
    """Frames and predictions per second."""

    viewer_fps: float
    predictions: float
    start_age_p99: float


async def side_by_side(fps: float, model_seconds: float, seconds: float) -> Rates:
    """Run healthd's runner; a viewer takes every frame that is published."""
    camera = PacedCamera(fps)
    model = SlowModel(camera, model_seconds)
    runner = CameraRunner(
        "bench",
        settings=CameraSettings(plugin="bench"),
        source=BenchSource("bench").attach(camera, model),
        models=ModelManager({}, directory=Path("models")),
        encoder=JpegEncoder(),
        metrics=Metrics(),
    )
    task = asyncio.create_task(runner.run())
    await runner.wait_newer(0, overlay=False, timeout=5)
    await asyncio.sleep(1.0)
    model.start_ages.clear()
    seen, newest, predicted, begun = 0, runner.newest_frame_id, runner.counts.predicted, time.perf_counter()
    while (now := time.perf_counter()) < begun + seconds:
        if await runner.wait_newer(newest, overlay=False, timeout=1):
            newest = runner.newest_frame_id
            seen += 1
    rates = Rates(
        seen / (now - begun),
        (runner.counts.predicted - predicted) / (now - begun),
        float(np.percentile(model.start_ages, 99)),
    )
    runner.request_stop()
    await task
    return rates


def one_after_the_other(fps: float, model_seconds: float, seconds: float) -> Rates:
    """Read, predict, read, predict: the usual loop."""
    camera = PacedCamera(fps)
    model = SlowModel(camera, model_seconds)
    camera.read()
    count, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + seconds:
        model.predict(camera.read())
        count += 1
    rate = count / (time.perf_counter() - begun)
    return Rates(rate, rate, float(np.percentile(model.start_ages, 99)))


def measure(*, quick: bool) -> list[Figure]:
    """Measure the two cases of the issue."""
    seconds = 3.0 if quick else 20.0
    figures = []
    cases = ((15, 0.1, 14.5, 9.5), (30, 0.2, 29.0, 4.9))
    for fps, model_seconds, viewer_goal, prediction_goal in cases[:1] if quick else cases:
        healthd = asyncio.run(side_by_side(fps, model_seconds, seconds))
        serial = one_after_the_other(fps, model_seconds, seconds)
        case = f"{fps} fps camera + {model_seconds * 1000:.0f} ms model"
        beside = "serial loop: {:.2f}"
        figures += [
            Figure(
                f"{case}: frames seen by a viewer",
                healthd.viewer_fps,
                "per s",
                (">=", viewer_goal),
                f"{beside.format(serial.viewer_fps)} per s ({healthd.viewer_fps / serial.viewer_fps:.2f} x)",
                f"{seconds:g} s, 720p",
            ),
            Figure(
                f"{case}: predictions",
                healthd.predictions,
                "per s",
                (">=", prediction_goal),
                f"{beside.format(serial.predictions)} per s",
                f"the limit is {1 / model_seconds:g}",
            ),
            Figure(
                f"{case}: age of the frame a prediction starts on, p99",
                healthd.start_age_p99 * 1000,
                "ms",
                ("<=", round(1000 / fps, 1)),
                f"serial loop: {serial.start_age_p99 * 1000:.1f} ms",
                "the goal is one frame interval",
            ),
        ]
    return figures
