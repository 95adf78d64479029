"""The two camera sources: a real clip, a real model, and sharing of that model."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from healthd.errors import SettingsError
from healthd.frames import CapturedImage, Image
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelSpec, Prediction
from healthd.redact import SourceUrl
from healthd_yolo.family import YoloFamily
from healthd_yolo.model_options import YoloModelOptions
from healthd_yolo.options import YoloOptions
from healthd_yolo.sources import YoloDetect, YoloPose


class FakeModel(Model):
    """Says what it was asked, and counts its warm-ups."""

    labels: Mapping[int, str] = MappingProxyType({0: "person", 1: "bus"})

    def __init__(self, task: str) -> None:
        self.task = task
        self.asked: list[InferenceParams] = []
        self.warm_ups = 0

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        self.asked.append(params)
        return Prediction("fake", 1.0, ())

    def warm_up(self) -> None:
        self.warm_ups += 1


class FakeFamily(ModelFamily):
    """Loads fakes of one task and remembers what it loaded."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.loaded: list[tuple[ModelSpec, FakeModel]] = []

    def serves(self, model_id: str) -> bool:
        return True

    def load(self, spec: ModelSpec) -> Model:
        model = FakeModel(self.task)
        self.loaded.append((spec, model))
        return model


IMAGE = np.zeros((8, 8, 3), dtype=np.uint8)


def pose_source(**options: Any) -> YoloPose:
    return YoloPose("gym", options=YoloOptions(**{"model": "a.onnx", **options}))


def test_every_option_is_described_and_the_model_is_required() -> None:
    for model in (YoloOptions, YoloModelOptions):
        schema = model.model_json_schema()
        assert [name for name, field in schema["properties"].items() if not field.get("description")] == []
    with pytest.raises(ValidationError, match="model"):
        YoloOptions()  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="modell"):
        YoloOptions(model="a.onnx", modell="b")  # type: ignore[call-arg]


def test_a_source_without_a_url_says_what_it_needs() -> None:
    source = pose_source()
    assert source.recording is False
    assert source.model_id == "a.onnx"
    with pytest.raises(SettingsError, match="url: a yolo camera needs one"), source.camera():
        pass


def test_a_video_file_is_a_recording_unless_it_plays_in_real_time(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.touch()
    for realtime in (False, True):
        options = YoloOptions(model="a.onnx", realtime=realtime)
        assert YoloPose("gym", url=SourceUrl(str(clip)), options=options).recording is not realtime


def test_the_model_is_warm_before_the_first_prediction_and_thresholds_change_while_it_runs(tmp_path: Path) -> None:
    family = FakeFamily("pose")
    source = pose_source(confidence=0.4, classes=("bus",))
    with source.model(ModelManager({"yolo": family}, directory=tmp_path)) as predict:
        ((_, model),) = family.loaded
        assert model.warm_ups == 1
        predict(IMAGE)
        source.params = InferenceParams(confidence=0.9)
        predict(IMAGE)
    assert [params.confidence for params in model.asked] == [0.4, 0.9]
    assert model.asked[0].classes == ("bus",)


def test_a_model_of_another_task_is_refused_with_the_plugin_that_wants_it(tmp_path: Path) -> None:
    models = ModelManager({"yolo": FakeFamily("detect")}, directory=tmp_path)
    wanted = "`detect` model and plugin yolo-pose needs a `pose` model"
    with pytest.raises(SettingsError, match=wanted), pose_source().model(models):
        pass
    with YoloDetect("hall", options=YoloOptions(model="a.onnx")).model(models) as predict:
        assert predict(IMAGE).results == ()


def test_an_unknown_class_is_refused_before_the_first_frame(tmp_path: Path) -> None:
    models = ModelManager({"yolo": FakeFamily("pose")}, directory=tmp_path)
    with pytest.raises(SettingsError, match="did you mean `person`"), pose_source(classes=("persn",)).model(models):
        pass


@pytest.mark.parametrize(
    ("first", "second", "loads"),
    [
        ({}, {"confidence": 0.9, "transport": "udp"}, 1),
        ({}, {"engine": "openvino"}, 1),
        ({}, {"engine": "ultralytics"}, 2),
        ({}, {"imgsz": 320}, 2),
        ({"model": "a.pt"}, {"model": "a.pt", "engine": "ultralytics"}, 1),
    ],
)
def test_cameras_that_want_the_same_share_one_model(
    first: dict[str, Any], second: dict[str, Any], loads: int, tmp_path: Path
) -> None:
    family = FakeFamily("pose")
    models = ModelManager({"yolo": family}, directory=tmp_path)
    with pose_source(**first).model(models), pose_source(**second).model(models):
        assert len(models.loaded()) == loads
    assert len(family.loaded) == loads


@pytest.mark.assets
def test_a_clip_and_a_model_make_predictions(assets: Path, tmp_path: Path) -> None:
    options = YoloOptions(model="yolov8n-pose.onnx", confidence=0.3)
    url = SourceUrl(str(assets / "clips" / "squat_side_3.mp4"))
    models = ModelManager({"yolo": YoloFamily()}, directory=assets / "weights")
    source = YoloPose("gym", url=url, options=options)
    with source.camera() as read, source.model(models) as predict:
        captured = read()
        assert isinstance(captured, CapturedImage)
        prediction = predict(captured.image)
        (loaded,) = models.loaded()
    assert [found.class_name for found in prediction.results] == ["person"]
    assert (prediction.model_id, loaded.task, loaded.predictions) == ("yolov8n-pose.onnx", "pose", 1)
