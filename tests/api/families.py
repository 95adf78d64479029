"""A family of models that do what a test tells them, by their names; one of them sees no boxes at all."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from healthd.errors import ModelError, ParameterError, SettingsError
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

Predict = Callable[[Image, InferenceParams], Prediction]


class SizedOptions(ModelOptions):
    imgsz: int | None = None


class Told(Model):
    """A model made of one function."""

    def __init__(self, task: str, labels: Mapping[int, str], predict: Predict) -> None:
        self.task = task
        self.labels = labels
        self._predict = predict

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        return self._predict(image, params)


class ToldFamily(ModelFamily):
    """`boxes`, `points`, `caption`, `slow`, `gated`, `raises`, `exits`, `odd`, `garbage`, `never`."""

    options_model: ClassVar[type[ModelOptions]] = SizedOptions

    def __init__(self) -> None:
        self.seen: list[InferenceParams] = []
        self.images: list[Image] = []
        self.loads: list[ModelSpec] = []
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.running = self.most = 0
        self._lock = threading.Lock()

    def serves(self, model_id: str) -> bool:
        return Path(model_id).suffix == ".told"

    def options_for(self, params: InferenceParams) -> ModelOptions:
        if params.imgsz is not None and params.imgsz % 32:
            raise ParameterError(f"imgsz: {params.imgsz} is no multiple of 32")
        return SizedOptions(imgsz=params.imgsz)

    def load(self, spec: ModelSpec) -> Model:
        self.loads.append(spec)
        name = Path(spec.model_id).stem
        if name == "garbage":
            raise SettingsError("garbage.told is no model: its first bytes are wrong")
        if name == "never":
            raise OSError("the disk is on fire")
        task, labels, predict = self._parts(name)

        def counted(image: Image, params: InferenceParams) -> Prediction:
            with self._lock:
                self.running += 1
                self.most = max(self.most, self.running)
            try:
                self.seen.append(params)
                self.images.append(image)
                self.started.release()
                return predict(image, params)
            finally:
                with self._lock:
                    self.running -= 1

        return Told(task, labels, counted)

    def _parts(self, name: str) -> tuple[str, dict[int, str], Predict]:
        if name == "caption":
            return "caption", {}, _caption
        if name == "points":
            return "pose", {0: "person"}, _points
        predict = {
            "slow": self._slow,
            "gated": self._gated,
            "raises": _raises,
            "exits": _exits,
            "odd": _odd,
        }.get(name, _boxes)
        return "detect", {0: "person", 1: "cat"}, predict

    def _slow(self, image: Image, params: InferenceParams) -> Prediction:
        time.sleep(0.02)
        return _boxes(image, params)

    def _gated(self, image: Image, params: InferenceParams) -> Prediction:
        self.gate.wait(20)
        return _boxes(image, params)


def _said(image: Image, results: tuple[Detection, ...], **metadata: Any) -> Prediction:
    return Prediction("what the family calls it", 1.5, results, metadata)


def _boxes(image: Image, params: InferenceParams) -> Prediction:
    height, width = image.shape[:2]
    seen = (
        Detection((1.0, 2.0, width - 1.0, height - 2.0), 0.9, 0, "person"),
        Detection((0.0, 0.0, width / 2, height / 2), 0.3, 1, "cat"),
    )
    return _said(image, tuple(one for one in seen if one.confidence >= params.confidence)[: params.max_det])


def _points(image: Image, params: InferenceParams) -> Prediction:
    (first, *_) = _boxes(image, params).results
    points = tuple(Keypoint(2.0 * number, 3.0, 0.9) for number in range(17))
    return _said(image, (Detection(first.box_xyxy, first.confidence, 0, "person", points),), keypoints=17)


def _caption(image: Image, params: InferenceParams) -> Prediction:
    return _said(image, (), caption="a person beside a rack, and a cat", asked=params.question)


def _raises(image: Image, params: InferenceParams) -> Prediction:
    if image.shape[0] == 1:
        raise ModelError("a picture of one row")
    if image.shape[0] == 2:
        raise ParameterError("text_queries: this model takes none")
    raise ZeroDivisionError("rtsp://viewer:hunter2hunter2@cam.lan")


def _exits(image: Image, params: InferenceParams) -> Prediction:
    raise SystemExit(3)


def _odd(image: Image, params: InferenceParams) -> Prediction:
    return _said(image, (), model=object())


def models_folder(folder: Path, *names: str) -> dict[str, Any]:
    """Put empty files of these models into a folder; return the section `[models]` that finds them."""
    for name in names:
        path = folder / f"{name}.told"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"told")
    return {"directory": str(folder), "default": f"{names[0]}.told"}
