"""Models that go wrong when they are told to: the first word of the file `CHAOS_FAULT` says how, at each prediction."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from healthd.errors import ModelError
from healthd.frames import Image
from healthd.models.model import Detection, InferenceParams, Model, Prediction

BROKEN, SLOW = "broken", "slow"
SLOW_SECONDS = 0.05
LEAK_BYTES = 8_000_000
MANY = 10_000
HANG_SECONDS = 3600.0


class Broken(Model):
    """Does what it is told: `once`, `raise`, `nan`, `many`, `hang` or `leak`; else nothing is wrong."""

    task = "detect"
    labels: Mapping[int, str] = {0: "thing"}

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._leaked: list[np.ndarray] = []

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Answer one box, or do something else."""
        del params
        fault = _told()
        if fault == "once":
            Path(os.environ["CHAOS_FAULT"]).write_text("", encoding="ascii")
        if fault in {"once", "raise"}:
            raise ModelError("it does not want to")
        if fault == "hang":
            time.sleep(HANG_SECONDS)
        if fault == "leak":
            self._leaked.append(np.ones(LEAK_BYTES, np.uint8))
        box = (1.0, 2.0, 30.0, 40.0) if fault != "nan" else (float("nan"), 2.0, 30.0, float("inf"))
        count = MANY if fault == "many" else 1
        results = tuple(Detection(box, 0.9 - index / 2 / MANY, 0, "thing") for index in range(count))
        height, width = image.shape[:2]
        return Prediction(self._model_id, 0.0, results, {"task": self.task, "width": width, "height": height})


class Slow(Broken):
    """Takes its time, and answers one box."""

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Wait, and answer."""
        del params
        time.sleep(SLOW_SECONDS)
        height, width = image.shape[:2]
        metadata = {"task": self.task, "width": width, "height": height}
        return Prediction(self._model_id, 0.0, (), metadata)


def _told() -> str:
    """Return what is to go wrong."""
    words = Path(os.environ["CHAOS_FAULT"]).read_text(encoding="ascii").split()
    return words[0] if words else ""
