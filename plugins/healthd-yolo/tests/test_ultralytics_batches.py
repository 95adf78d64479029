"""Engine `ultralytics` on several pictures at once says of each what ultralytics says of it alone."""

import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from healthd.errors import ModelError, ParameterError, SettingsError
from healthd.frames import Image
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Model, ModelSpec, Prediction
from healthd_yolo.family import YoloFamily
from healthd_yolo.ultralytics_device import batch_size, require_cuda

pytestmark = [pytest.mark.assets, pytest.mark.filterwarnings("ignore::UserWarning")]
Load = Callable[..., Model]


@pytest.fixture(scope="module")
def pose(weights: Path, load: Load, vendor: Any) -> Model:
    return load(weights / "yolo11n-pose.pt", batch=4, imgsz=320, precision="half")


@pytest.fixture(scope="module")
def mixed(pictures: dict[str, Image], clip_frames: list[Image]) -> list[Image]:
    """Four pictures for two shapes of input, one shape of them from two sizes of picture."""
    frame = clip_frames[0]
    return [frame, pictures["bus"], np.ascontiguousarray(frame[::2, ::2]), pictures["zidane"]]


def numbers(prediction: Prediction | Exception) -> np.ndarray:
    """All that it says, as rows."""
    assert isinstance(prediction, Prediction), prediction
    rows = [
        [*found.box_xyxy, found.confidence, found.class_id]
        + [number for point in found.keypoints or () for number in (point.x, point.y, point.confidence)]
        for found in prediction.results
    ]
    return np.array(rows, np.float32)


def test_our_way_in_changes_not_a_bit(pose: Model, weights: Path, vendor: Any, mixed: list[Image]) -> None:
    if pose.predict(mixed[0], InferenceParams()).metadata["device"] != "cpu":
        pytest.skip("in half precision, on a GPU, the two differ")
    theirs = vendor.YOLO(str(weights / "yolo11n-pose.pt"))
    for image in [*mixed, *mixed[:2]]:  # their shapes take turns in one buffer
        said = theirs.predict(image, imgsz=320, conf=0.25, iou=0.45, verbose=False)[0]
        rows = np.concatenate([said.boxes.data.numpy(), said.keypoints.data.numpy().reshape(len(said.boxes), -1)], 1)
        ours = numbers(pose.predict(image, InferenceParams()))
        assert len(rows)
        np.testing.assert_array_equal(ours, rows)


def test_a_batch_says_of_each_picture_what_is_said_of_it_alone(pose: Model, mixed: list[Image]) -> None:
    wishes = [InferenceParams(), InferenceParams(max_det=2), InferenceParams(confidence=0.6), InferenceParams(iou=0.9)]
    alone = [pose.predict(image, wish) for image, wish in zip(mixed, wishes, strict=True)]
    together = pose.predict_batch(mixed, wishes)
    assert len({len(one.results) for one in alone}) > 1, "the wishes make a difference"
    for single, one in zip(alone, together, strict=True):
        np.testing.assert_allclose(numbers(one), numbers(single), rtol=1e-4, atol=0.02)
        assert isinstance(one, Prediction)
        assert one.metadata == single.metadata
        assert one.metadata["precision"] == ("f32" if one.metadata["device"] == "cpu" else "f16")


def test_what_is_wrong_with_one_picture_is_said_of_it_alone(pose: Model, mixed: list[Image]) -> None:
    wrong = np.zeros((4, 4), np.uint8)
    wishes = [InferenceParams(), InferenceParams(), InferenceParams(classes=("dragon",))]
    good, no_image, no_class = pose.predict_batch([mixed[0], wrong, mixed[0]], wishes)
    assert len(numbers(good))
    assert isinstance(no_image, ModelError)
    assert isinstance(no_class, SettingsError)


def test_cameras_that_share_the_model_are_computed_together(pose: Model, mixed: list[Image], tmp_path: Path) -> None:
    class Loaded(YoloFamily):
        def load(self, spec: ModelSpec) -> Model:
            return pose

    said: list[list[Prediction]] = [[], [], []]
    with ModelManager({"yolo": Loaded()}, directory=tmp_path).use("yolo", "yolo11n-pose.pt") as shared:

        def camera(number: int) -> None:
            for _ in range(3):
                said[number].append(shared.predict(mixed[number], InferenceParams()))

        threads = [threading.Thread(target=camera, args=(number,), daemon=True) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        for image, answers in zip(mixed, said, strict=False):
            alone = numbers(shared.predict(image, InferenceParams()))
            for one in answers:
                np.testing.assert_allclose(numbers(one), alone, rtol=1e-4, atol=0.02)
    assert max(one.metadata.get("batch", 1) for answers in said for one in answers) > 1


def test_an_export_for_two_pictures_is_given_two(
    export: Callable[..., Path], load: Load, vendor: Any, mixed: list[Image]
) -> None:
    pytest.importorskip("onnxruntime")
    model = load(export("yolo11n", batch=2, imgsz=320), engine="ultralytics", batch=8)
    assert model.batch_size == 2
    wishes = [InferenceParams()] * 2
    alone = [model.predict(image, wish) for image, wish in zip(mixed[:2], wishes, strict=True)]
    for single, one in zip(alone, model.predict_batch(mixed[:2], wishes), strict=True):
        assert len(single.results)
        np.testing.assert_allclose(numbers(one), numbers(single), rtol=1e-4, atol=0.02)


@pytest.mark.parametrize(
    ("format", "device", "dynamic", "made_for", "asked", "most"),
    [
        ("pt", "cpu", False, 1, None, 1),
        ("pt", "cpu", False, 1, 4, 4),
        ("pt", "cuda", False, 1, None, 8),
        ("pt", "cuda", False, 1, 2, 2),
        ("engine", "cuda", True, 16, None, 16),
        ("engine", "cuda", True, 16, 32, 16),
        ("engine", "cuda", False, 1, 8, 1),
        ("onnx", "cuda", True, 1, 8, 8),
        ("onnx", "cpu", True, 1, None, 1),
    ],
)
def test_how_many_at_once(
    format: str,  # noqa: A002  their word
    device: str,
    dynamic: bool,  # noqa: FBT001
    made_for: int,
    asked: int | None,
    most: int,
) -> None:
    network = SimpleNamespace(format=format, device=SimpleNamespace(type=device), dynamic=dynamic, batch=made_for)
    assert batch_size(asked, network) == most


def test_the_engine_openvino_takes_no_batches(weights: Path, load: Load) -> None:
    with pytest.raises(ParameterError, match="one picture at a time"):
        load(weights / "yolo11n.onnx", batch=4)


def test_a_gpu_that_is_not_there_is_refused_with_a_remedy(
    vendor: Any, load: Load, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = importlib.import_module("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ParameterError, match="`cuda:0`, and torch sees no CUDA here: install the NVIDIA driver"):
        load(weights / "yolo11n-pose.pt", device="cuda:0")
    engine = tmp_path / "x.engine"
    engine.touch()
    with pytest.raises(ParameterError, match=r"x\.engine is to run on `cuda:0`"):
        load(engine)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ParameterError, match="built without CUDA"):
        require_cuda("0", engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ParameterError, match="no `cuda:2` here, only cuda:0 to cuda:1"):
        require_cuda("cuda:2", engine)
    for there in ("cuda:1", "cuda", "cpu", None):
        require_cuda(there, engine)


def test_a_half_precision_that_is_not_computed_is_not_promised(weights: Path, load: Load, vendor: Any) -> None:
    if importlib.import_module("torch").cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ParameterError, match="torch has no f16 on cpu"):
        load(weights / "yolo11n-pose.pt", precision="f16")
