"""Fakes with the signature of what they stand for: cameras and models that do what a test tells them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from healthd.cameras.jpeg import JpegEncoder
from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import CameraSource, Predict, PredictOptions, Read
from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.errors import EndOfStream
from healthd.frames import Image
from healthd.metrics import Metrics
from healthd.models.manager import ModelManager
from healthd.models.model import Detection, Prediction
from healthd.settings import CameraSettings


def picture(number: int = 0, *, size: tuple[int, int] = (48, 64)) -> Image:
    """An image that differs from every other number's."""
    image = np.zeros((*size, 3), np.uint8)
    image[:] = (number % 251, number // 251 % 251, 128)
    return image


def prediction(image: Image, *, results: tuple[Detection, ...] = ()) -> Prediction:
    return Prediction("fake", 1.0, results, {"task": "detect", "width": image.shape[1], "height": image.shape[0]})


class FakeSource(CameraSource):
    """A camera and a model made of plain functions; counts how often each was opened and closed."""

    options_model = PredictOptions

    def __init__(
        self,
        name: str = "gym",
        *,
        read: Callable[[], object] | None = None,
        predict: Callable[[Image], object] | None = None,
        on_open: Callable[[], None] = lambda: None,
        on_load: Callable[[], None] = lambda: None,
        recording: bool = False,
        fps: float = 200.0,
    ) -> None:
        super().__init__(name)
        self.opened = self.closed = self.loaded = self.unloaded = 0
        self.reading = threading.Event()
        self._fps = fps
        self._read = read or self.next_image
        self._predict = predict
        self._on_open = on_open
        self._on_load = on_load
        self._recording = recording
        self._number = 0

    @property
    def recording(self) -> bool:
        return self._recording

    def next_image(self) -> Image:
        time.sleep(1 / self._fps)
        self._number += 1
        return picture(self._number)

    @contextmanager
    def camera(self) -> Iterator[Read]:
        self._on_open()
        self.opened += 1
        try:
            yield self._read  # type: ignore[misc]
        finally:
            self.closed += 1

    def model(self, models: ModelManager):  # type: ignore[no-untyped-def]
        return None if self._predict is None else self._model()

    @contextmanager
    def _model(self) -> Iterator[Predict]:
        self._on_load()
        self.loaded += 1
        try:
            yield self._predict  # type: ignore[misc]
        finally:
            self.unloaded += 1


def listed(images: list[object]) -> Callable[[], object]:
    """A read function that gives one item after another, raises those that are exceptions, then ends."""
    left = iter(images)

    def read() -> object:
        try:
            item = next(left)
        except StopIteration:
            raise EndOfStream("nothing left") from None
        if isinstance(item, Exception):
            raise item
        return item

    return read


def make_runner(
    source: CameraSource | None,
    *,
    clock: Clock = SYSTEM_CLOCK,
    failure: str | None = None,
    models: ModelManager | None = None,
    **settings: object,
) -> CameraRunner:
    """A runner with short bounds, around a fake source."""
    values = {
        "plugin": "fake",
        "stall_timeout_seconds": 0.3,
        "stale_after_seconds": 5,
        "open_timeout_seconds": 0.5,
        "predict_timeout_seconds": 0.3,
        "reconnect_max_seconds": 0.5,
        **settings,
    }
    return CameraRunner(
        source.name if source else "gym",
        settings=CameraSettings.model_validate(values),
        source=source,
        failure=failure,
        models=models or ModelManager({}, directory=Path("models")),
        encoder=JpegEncoder(),
        metrics=Metrics(),
        clock=clock,
    )
