"""A model that sees one thing in every picture, and a camera that it watches."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np

from healthd.cameras.source import CameraSource, Predict, Read
from healthd.frames import Image
from healthd.models.manager import ModelManager
from healthd.models.model import Detection, InferenceParams, Model, ModelFamily, ModelSpec, Prediction


class Eyes(Model):
    labels: ClassVar[dict[int, str]] = {0: "thing"}
    task = "detect"

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        height, width = image.shape[:2]
        seen = Detection((0, 0, width / 2, height / 2), 0.9, 0, "thing")
        return Prediction("acme", 0.1, (seen,), {"task": self.task, "width": width, "height": height})


class Family(ModelFamily):
    contract = 1

    def serves(self, model_id: str) -> bool:
        return model_id == "acme"

    def load(self, spec: ModelSpec) -> Model:
        return Eyes()


class Watched(CameraSource):
    contract = 1

    @contextmanager
    def camera(self) -> Iterator[Read]:
        def read() -> Image:
            time.sleep(0.1)
            return np.random.default_rng().integers(0, 255, (48, 64, 3), np.uint8)

        yield read

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:
        with models.use("acme-eyes", "acme") as model:
            yield lambda image: model.predict(image, InferenceParams())
