"""Fakes with the signature of what they stand for: cameras, models and clocks that do what a test tells them."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from healthd.cameras.jpeg import JpegEncoder
from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import CameraSource, Predict, PredictOptions, Read, SourceOptions
from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.errors import EndOfStream, SettingsError
from healthd.frames import Image
from healthd.metrics import Metrics
from healthd.models.manager import ModelManager
from healthd.models.model import Detection, InferenceParams, Model, ModelFamily, ModelSpec, Prediction
from healthd.settings import CameraSettings


def picture(number: int = 0, *, size: tuple[int, int] = (48, 64)) -> Image:
    """An image that differs from every other number's."""
    image = np.zeros((*size, 3), np.uint8)
    image[:] = (number % 251, number // 251 % 251, 128)
    return image


def prediction(image: Image, *, results: tuple[Detection, ...] = ()) -> Prediction:
    """Return what a model may say of an image: nothing, unless told."""
    return Prediction("fake", 1.0, results, {"task": "detect", "width": image.shape[1], "height": image.shape[0]})


class FakeSource(CameraSource):
    """A camera and a model made of plain functions; counts how often each was opened and closed."""

    contract = 1
    options_model: ClassVar[type[SourceOptions]] = PredictOptions

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
        """`read`, `predict`: what the callables do; `on_open`, `on_load`: called first, may raise or wait."""
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
        """As it was told."""
        return self._recording

    def next_image(self) -> Image:
        """Wait for the next image, which differs from the last."""
        time.sleep(1 / self._fps)
        self._number += 1
        return picture(self._number)

    @contextmanager
    def camera(self) -> Iterator[Read]:
        """Open and close, and count it."""
        self._on_open()
        self.opened += 1
        try:
            yield self._read  # type: ignore[misc]
        finally:
            self.closed += 1

    def model(self, models: ModelManager) -> AbstractContextManager[Predict] | None:  # noqa: ARG002  the contract's
        """Return the model, if it was told what to predict."""
        return None if self._predict is None else self._model()

    @contextmanager
    def _model(self) -> Iterator[Predict]:
        self._on_load()
        self.loaded += 1
        try:
            yield self._predict  # type: ignore[misc]
        finally:
            self.unloaded += 1


def listed(images: Iterable[object]) -> Callable[[], object]:
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


class FakeModel(Model):
    """A model that finds what is bright; made of nothing, so that it is loaded at once. Counts its calls."""

    task = "detect"
    labels: Mapping[int, str] = MappingProxyType({0: "light"})

    def __init__(self, model_id: str) -> None:
        self.calls = 0
        self.closed = False
        self._model_id = model_id

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Return the box around all pixels brighter than 200, and how bright they are."""
        self.calls += 1
        rows, columns = np.nonzero(image.max(axis=2) > _BRIGHT)
        if not rows.size:
            return prediction(image)
        confidence = float(image[rows, columns].max(axis=1).mean()) / 255
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        box = (float(left), float(top), float(right), float(bottom))
        found = (Detection(box, confidence, 0, "light"),) if confidence >= params.confidence else ()
        return Prediction(
            self._model_id, 0.1, found, {"task": self.task, "width": image.shape[1], "height": image.shape[0]}
        )

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


_BRIGHT = 200


class FakeFamily(ModelFamily):
    """Loads a `FakeModel` for every name that ends in `.fake`, with or without a file; remembers what it loaded."""

    contract = 1

    def __init__(self) -> None:
        self.loaded: list[FakeModel] = []

    def serves(self, model_id: str) -> bool:
        """Whether the name ends in `.fake`."""
        return model_id.endswith(".fake")

    def load(self, spec: ModelSpec) -> FakeModel:
        """Load a model; of a name that begins with `gone` there is none."""
        if Path(spec.model_id).name.startswith("gone"):
            raise SettingsError(f"there is no {spec.model_id}")
        self.loaded.append(FakeModel(spec.model_id))
        return self.loaded[-1]


class FakeClock:
    """A clock that goes on as usual, and jumps ahead where a test says so."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self.clock = Clock(
            monotonic=lambda: time.monotonic() + self._ahead,
            now=lambda: datetime.now(UTC) + timedelta(seconds=self._ahead),
        )
        """What healthd is given."""

    def advance(self, seconds: float) -> None:
        """Let so much time pass, at once."""
        self._ahead += seconds


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
