"""A camera of stamped noise at an exact rate."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from healthd_faulty.stamps import Stamp, now_ms, stamped_picture
from pydantic import Field

from healthd.cameras.source import CameraSource, Predict, PredictOptions, Read
from healthd.frames import Image
from healthd.models.manager import ModelManager
from healthd.models.model import Detection, Keypoint, Prediction


class NoisyOptions(PredictOptions):
    """How much and how often."""

    fps: float = Field(15, gt=0)
    width: int = Field(480, ge=320)
    height: int = Field(270, ge=72)
    model: bool = False


class NoisyCamera(CameraSource):
    """The stamp stands in the upper left corner; all the rest is noise, which no encoder makes small."""

    contract = 1
    options_model = NoisyOptions
    options: NoisyOptions
    _number = 0

    @contextmanager
    def camera(self) -> Iterator[Read]:
        random = np.random.default_rng(1)
        grounds = [random.integers(0, 255, (self.options.height, self.options.width, 3), np.uint8) for _ in range(8)]
        due = time.monotonic()

        def read() -> Image:
            nonlocal due
            due = max(due + 1 / self.options.fps, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))
            self._number += 1
            image = grounds[self._number % 8].copy()
            image[:72, :320] = stamped_picture(Stamp(self._number, now_ms()))[:72]
            return image

        yield read

    def model(self, models: ModelManager):
        return self._see() if self.options.model else None

    @contextmanager
    def _see(self) -> Iterator[Predict]:
        def predict(image: Image) -> Prediction:
            height, width = image.shape[:2]
            points = tuple(Keypoint(30.0 + 4 * n, 100.0, 0.9) for n in range(17))
            body = Detection((20.0, 90.0, width - 20.0, height - 10.0), 0.9, 0, "person", points)
            return Prediction("seeing", 0.1, (body,), {"task": "pose", "width": width, "height": height})

        yield predict
