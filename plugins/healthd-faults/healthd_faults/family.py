"""The model family `faults`: one model, which sees the square in the pictures of `faults`, except when asked not to."""

import math
import random
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from healthd.errors import ModelError
from healthd.frames import Image
from healthd.models.model import (
    Detection,
    InferenceParams,
    Keypoint,
    Model,
    ModelFamily,
    ModelOptions,
    ModelSpec,
    Prediction,
)
from healthd_faults.deeds import Hoard, crash, fail, hang
from healthd_faults.options import ModelFault
from healthd_faults.picture import number_of, square_of
from healthd_faults.schedule import Moment

MODEL_ID = "faults"
MANY = 10_000


class FaultsModelOptions(ModelOptions):
    """What the model does wrong, and when. Cameras with equal ones share one model, its count and its clock."""

    faults: tuple[ModelFault, ...] = Field((), description="What it does wrong, and when.")
    seed: int = Field(0, description="Of what happens by `probability`.")


class FaultsFamily(ModelFamily):
    """Serves one model, `faults`. What it does wrong is said by a camera alone: no request can ask for it."""

    contract: ClassVar[int] = 1
    options_model: ClassVar[type[ModelOptions]] = FaultsModelOptions

    def serves(self, model_id: str) -> bool:
        """Whether it is the one model."""
        return model_id == MODEL_ID

    def load(self, spec: ModelSpec) -> Model:
        """Make the model; it has no file.

        Raises:
            ModelError: on request; and so does anything else.
        """
        options = spec.options if isinstance(spec.options, FaultsModelOptions) else FaultsModelOptions()
        return FaultsModel(options)


class FaultsModel(Model):
    """Finds the square by the number that the picture carries."""

    task = "count"
    labels: Mapping[int, str] = {0: "square"}

    def __init__(self, options: FaultsModelOptions) -> None:
        self._options = options
        self._begun = time.monotonic()
        self._frames = 0
        self._hoard = Hoard()
        self._misbehave("load", 1)

    def predict(self, image: Image, params: InferenceParams) -> Prediction:  # noqa: ARG002  it is always sure
        """Say where the square is, or do what was asked for."""
        self._frames += 1
        answer = _prediction(image, _seen(image))
        for kind in self._misbehave("predict", self._frames):
            answer = _wrong(kind, image)
        return answer

    def close(self) -> None:
        """Give nothing back: there is nothing."""
        self._misbehave("close", 1)

    def _misbehave(self, at: Literal["load", "predict", "close"], number: int) -> list[str]:
        """Do what a fault does instead of an answer; return the kinds of those that are one."""
        answers: list[str] = []
        seconds = time.monotonic() - self._begun
        for index, fault in enumerate(self._options.faults):
            left = fault.left_seconds(Moment(seconds, number, f"{self._options.seed}:{index}"))
            if fault.at != at or left is None:
                continue
            match fault.kind:
                case "hang":
                    hang(fault.seconds or left, spin=fault.spin)
                case "slow":
                    hang(fault.seconds or 1.0)
                case "fail":
                    raise ModelError("no answer, as it was asked for")
                case "error":
                    fail(fault.error)
                case "leak":
                    self._hoard.leak(fault.leak, size_bytes=fault.size_bytes, most=fault.most)
                case "crash":
                    crash(fault.crash)
                case kind:
                    answers.append(kind)
        return answers


def _seen(image: Image) -> tuple[Detection, ...]:
    height, width = image.shape[:2]
    left, top, right, bottom = square_of(number_of(image), width=width, height=height)
    return (Detection((float(left), float(top), float(right), float(bottom)), 0.9, 0, "square"),)


def _prediction(image: Image, results: tuple[Detection, ...]) -> Prediction:
    height, width = image.shape[:2]
    told = {"task": "count", "width": width, "height": height, "number": number_of(image)}
    return Prediction(MODEL_ID, 0.1, results, told)


def _wrong(kind: str, image: Image) -> Any:
    """Return what is no answer, or none that could be true."""
    nan = math.nan
    if kind == "type":
        return {"boxes": []}
    if kind == "nan":
        points = (Keypoint(nan, nan, nan),) * 17
        return _prediction(image, (Detection((nan, nan, nan, nan), nan, 0, "square", points),))
    if kind == "many":
        chance = random.Random(0)  # noqa: S311  no secret
        height, width = image.shape[:2]
        corners = [(chance.uniform(0, width - 8), chance.uniform(0, height - 8)) for _ in range(MANY)]
        return _prediction(
            image, tuple(Detection((x, y, x + 8, y + 8), chance.random(), 0, "square") for x, y in corners)
        )
    return _prediction(image, (Detection((1e9, -1e9, -5.0, math.inf), 7.0, -1, "\x00 square\n"),))
