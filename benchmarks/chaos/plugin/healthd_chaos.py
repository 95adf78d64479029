"""Cameras and a model that do nothing wrong: what is wrong is wrong with what they are given."""

import os
import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from healthd_chaos_models import BROKEN, SLOW, Broken, Slow
from pydantic import Field

from healthd.cameras.capture import CaptureOptions, is_recording, open_camera
from healthd.cameras.source import CameraSource, Predict, PredictOptions, Read, SourceOptions
from healthd.errors import CameraError
from healthd.frames import Image
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelOptions, ModelSpec, Prediction

HEIGHT, WIDTH = 96, 128
DEVICE_SECONDS = 1.0


class CaptureAndModelOptions(CaptureOptions, PredictOptions):
    """How to open it, and what looks at it."""

    model: str | None = Field(None, description="A model of the family `chaos`; none when absent.")


class Capture(CameraSource):
    """A camera that healthd opens by itself: RTSP, HTTP, a device or a file."""

    contract = 1
    options_model = CaptureAndModelOptions
    options: CaptureAndModelOptions

    @property
    def model_id(self) -> str | None:
        """The model that looks at it."""
        return self.options.model

    @property
    def recording(self) -> bool:
        """Whether it is a file that is read image by image."""
        return self.url is not None and is_recording(self.url, self.options)

    def camera(self) -> AbstractContextManager[Read]:
        """Open it."""
        if self.url is None:
            raise CameraError("no url")
        return open_camera(
            self.url,
            self.options,
            open_timeout_seconds=self.open_timeout_seconds,
            read_timeout_seconds=self.options.read_timeout_seconds or self.stall_timeout_seconds,
        )

    def model(self, models: ModelManager) -> AbstractContextManager[Predict] | None:
        """Share the model."""
        return None if self.options.model is None else self._shared(models, self.options.model)

    @contextmanager
    def _shared(self, models: ModelManager, model_id: str) -> Iterator[Predict]:
        with models.use("chaos", model_id, ModelOptions()) as shared:
            yield lambda image: shared.predict(image, self.params or self.options.params())


class DeviceOptions(SourceOptions):
    """Where the device is."""

    device: Path = Field(description="A FIFO that stands for the device: raw images come out of it.")


class Device(CameraSource):
    """Raw images out of a FIFO, which stands for a device: gone when nobody holds its other end any more."""

    contract = 1
    options_model = DeviceOptions
    options: DeviceOptions

    @contextmanager
    def camera(self) -> Iterator[Read]:
        """Open it as drivers are opened."""
        try:
            descriptor = os.open(self.options.device, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as exc:
            raise CameraError(f"the device cannot be opened: {exc.strerror}") from exc
        try:
            yield lambda: _image(descriptor)
        finally:
            os.close(descriptor)


def _image(descriptor: int) -> Image:
    data = b""
    while len(data) < HEIGHT * WIDTH * 3:
        if not select.select([descriptor], [], [], DEVICE_SECONDS)[0]:
            raise CameraError("the device delivers nothing")
        more = os.read(descriptor, HEIGHT * WIDTH * 3 - len(data))
        if not more:
            raise CameraError("the device is gone")
        data += more
    return np.frombuffer(data, np.uint8).reshape(HEIGHT, WIDTH, 3).copy()


class Counter(Model):
    """Counts the pictures it has seen."""

    task = "count"
    labels: Mapping[int, str] = {}

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._seen = 0

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Say how many there were."""
        del params
        self._seen += 1
        height, width = image.shape[:2]
        metadata = {"task": self.task, "width": width, "height": height, "seen": self._seen}
        return Prediction(self._model_id, 0.0, (), metadata)


MODELS: Mapping[str, type[Model]] = {"counter": Counter, BROKEN: Broken, SLOW: Slow}


class Family(ModelFamily):
    """Serves `counter`, and those of `healthd_chaos_models`."""

    contract = 1

    def serves(self, model_id: str) -> bool:
        """Say whether it is one of ours."""
        return model_id in MODELS

    def load(self, spec: ModelSpec) -> Model:
        """Load nothing."""
        made: Callable[[str], Model] = MODELS[spec.model_id]
        return made(spec.model_id)
