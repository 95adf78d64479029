"""Small families of models, each of which breaks one rule of the contract; and one that keeps them all."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from healthd.errors import ModelError, SettingsError
from healthd.frames import Image
from healthd.models.model import Detection, InferenceParams, Model, ModelFamily, ModelOptions, ModelSpec, Prediction
from healthd.testing.fakes import FakeModel


class GoodModel(FakeModel):
    concurrency = 2
    batch_size = 4


class GoodOptions(ModelOptions):
    scale: int = Field(1, description="How much.")


class Good(ModelFamily):
    """Serves files whose content is `good`."""

    contract = 1
    options_model: ClassVar[type[ModelOptions]] = GoodOptions
    model: ClassVar[type[FakeModel]] = GoodModel

    def serves(self, model_id: str) -> bool:
        return model_id.endswith(".good")

    def load(self, spec: ModelSpec) -> Model:
        if spec.path is None or spec.path.read_bytes() != b"good":
            raise SettingsError(f"{spec.model_id} is no model")
        return self.made(spec)

    def made(self, spec: ModelSpec) -> Model:
        return self.model(spec.model_id)


def of(model: type[FakeModel]) -> type[Good]:
    """Return a family that is good but for its model."""
    return type(model.__name__, (Good,), {"model": model})


class UnhashableOptions(Good):
    class options_model(ModelOptions):  # noqa: D106, N801
        names: list[str] = Field(default_factory=list, description="Some names.")


class StartsAThread(Good):
    def __init__(self) -> None:
        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()


class Dawdles(Good):
    def __init__(self) -> None:
        time.sleep(0.6)


class RaisesOnNames(Good):
    def serves(self, model_id: str) -> bool:
        return model_id.split(".")[1] == "good"


class ServesNothing(Good):
    def serves(self, model_id: str) -> bool:
        return model_id == "good"


class LoadsNoModel(Good):
    def made(self, spec: ModelSpec) -> Any:
        return object()


class NoTask(GoodModel):
    task = ""


class NumpyLabels(GoodModel):
    labels: Mapping[int, Any] = MappingProxyType({0: np.float32(1)})


class LoadsAnything(Good):
    def load(self, spec: ModelSpec) -> Model:
        return self.made(spec)


class RawLoadError(Good):
    def load(self, spec: ModelSpec) -> Model:
        if spec.path is None:
            raise FileNotFoundError(spec.model_id)
        return super().load(spec)


class OneSize(GoodModel):
    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        if image.shape[0] > 1000:
            raise ValueError("operands could not be broadcast together")
        return super().predict(image, params)


class WritesToImages(GoodModel):
    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        image[:] = 255 - image
        return super().predict(image, params)


class Changed(GoodModel):
    def change(self, said: Prediction) -> Any:
        return said

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        said: Prediction = self.change(super().predict(image, params))
        return said


class Dicts(Changed):
    def change(self, said: Prediction) -> Any:
        return {"boxes": []}


class NumpyMetadata(Changed):
    def change(self, said: Prediction) -> Any:
        return replace(said, metadata={**said.metadata, "scores": np.zeros(3)})


class NumpyBoxes(Changed):
    def change(self, said: Prediction) -> Any:
        return replace(said, results=tuple(replace(one, confidence=np.float32(one.confidence)) for one in said.results))


class WrongNames(Changed):
    def change(self, said: Prediction) -> Any:
        return replace(said, results=tuple(replace(one, class_name="lamp") for one in said.results))


class Unsorted(Changed):
    def change(self, said: Prediction) -> Any:
        results = (*said.results, *(replace(one, confidence=one.confidence / 2) for one in said.results))
        return replace(said, results=results[::-1])


class ChokesOnTiny(GoodModel):
    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        if min(image.shape[:2]) < 8:
            raise ZeroDivisionError("division by zero")
        return super().predict(image, params)


class BrokenByTiny(GoodModel):
    broken = False

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        self.broken = self.broken or min(image.shape[:2]) < 8
        if self.broken:
            raise ModelError("too small")
        return super().predict(image, params)


class Unasked(GoodModel):
    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        box = Detection((0.0, 0.0, 1.0, 1.0), 0.3, 0, "light")
        said = super().predict(image, InferenceParams(confidence=0))
        return replace(said, results=(*said.results, box))


class NetworkPixels(Changed):
    """Its boxes are those of an input of 64x64."""

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        said = super().predict(image, params)
        by = min(1.0, 64 / max(image.shape[:2]))
        results = tuple(replace(one, box_xyxy=tuple(side * by for side in one.box_xyxy)) for one in said.results)  # type: ignore[arg-type]
        return replace(said, results=results)


class NotThreadSafe(GoodModel):
    """Keeps the picture in `self` between two steps."""

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        self.image = image
        time.sleep(0.02)
        return super().predict(self.image, params)


class OneThreadOnly(GoodModel):
    concurrency = 1
    owner = 0

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        self.owner = self.owner or threading.get_ident()
        if threading.get_ident() != self.owner:
            raise RuntimeError("created in another thread")
        return super().predict(image, params)


class ShuffledBatches(GoodModel):
    def predict_batch(self, images: Sequence[Image], params: Sequence[InferenceParams]) -> Sequence[Any]:
        return list(super().predict_batch(images, params))[::-1]


class ShortBatches(GoodModel):
    def predict_batch(self, images: Sequence[Image], params: Sequence[InferenceParams]) -> Sequence[Any]:
        return list(super().predict_batch(images, params))[1:]


class KeepsMemory(GoodModel):
    kept: ClassVar[list[bytearray]] = []

    def __init__(self, model_id: str) -> None:
        super().__init__(model_id)
        self.kept.append(bytearray(os.urandom(1) * (16 << 20)))


class KeepsThreads(GoodModel):
    def __init__(self, model_id: str) -> None:
        super().__init__(model_id)
        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()


class Talks(GoodModel):
    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        os.write(1, b"0: 640x480 1 light, 3.2ms\n")
        return super().predict(image, params)
