"""A precision is what was asked for, or what pays; what cannot be had is refused with what can."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from healthd.errors import ParameterError
from healthd.models.model import InferenceParams, Model
from healthd_yolo import openvino_precision
from healthd_yolo.family import YoloFamily
from healthd_yolo.model_options import YoloModelOptions
from healthd_yolo.openvino_precision import faster, hints
from healthd_yolo.options import YoloOptions

Load = Callable[..., Model]


def test_a_camera_and_a_request_that_say_nothing_share_one_model() -> None:
    assert YoloOptions(model="a.onnx").model_options() == YoloFamily().options_for(InferenceParams())


@pytest.mark.parametrize(("half", "precision"), [(True, "half"), (False, "f32"), (None, "auto")])
def test_half_is_another_word_for_the_fast_half_precision(*, half: bool | None, precision: str) -> None:
    options = YoloFamily().options_for(InferenceParams(half=half))
    assert isinstance(options, YoloModelOptions)
    assert options.precision == precision
    assert YoloOptions(model="a.onnx", half=half).model_options().precision == precision


def test_two_words_for_the_precision_are_one_too_many() -> None:
    with pytest.raises(ValidationError, match="leave one of the two out"):
        YoloOptions(model="a.onnx", half=True, precision="f32")


@pytest.mark.parametrize(
    ("able", "wanted", "expected"),
    [
        (("FP32", "BF16"), "auto", ("f32", "bf16")),
        (("FP32", "FP16", "BF16"), "auto", ("f32", "bf16")),
        (("FP32", "FP16"), "auto", ("f32", "f16")),
        (("FP32",), "auto", ("f32",)),
        (("FP32",), "half", ("f32",)),
        (("FP32", "BF16"), "half", ("bf16",)),
        (("FP32", "BF16"), "bf16", ("bf16",)),
        (("FP32", "BF16"), "f32", ("f32",)),
    ],
)
def test_there_is_a_choice_only_where_nobody_has_chosen(
    able: tuple[str, ...], wanted: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_precision, "capabilities", lambda _: able)
    assert hints(wanted, "CPU", quantized=False) == expected


@pytest.mark.parametrize(("wanted", "message"), [("f16", "only f32, bf16"), ("int8", "was not quantized")])
def test_a_precision_that_is_not_there_is_refused(wanted: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_precision, "capabilities", lambda _: ("FP32", "BF16"))
    with pytest.raises(ParameterError, match=message):
        hints(wanted, "CPU", quantized=False)


@pytest.mark.parametrize(("slow", "fast", "pays"), [(3.0, 1.0, True), (1.0, 1.0, False), (1.0, 3.0, False)])
def test_half_precision_is_taken_where_it_is_faster(
    *, slow: float, fast: float, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(openvino_precision, "perf_counter", lambda: now[0])

    def run(seconds: float) -> Callable[[], np.ndarray]:
        def infer() -> np.ndarray:
            now[0] += seconds
            return np.zeros(3)

        return infer

    assert faster(run(slow), run(fast)) is pays


def test_half_precision_that_overflows_is_not_taken() -> None:
    assert faster(lambda: np.zeros(3), lambda: np.full(3, np.nan)) is False


@pytest.mark.assets
def test_int8_is_for_quantized_networks_and_said_of_them(weights: Path, load: Load) -> None:
    with pytest.raises(ParameterError, match="was not quantized"):
        load(weights / "yolo11n.onnx", precision="int8")
    for precision in ("int8", "auto"):
        model = load(weights / "yolov8n-pose_int8_openvino_model", precision=precision)
        image = np.zeros((72, 128, 3), np.uint8)
        assert model.predict(image, InferenceParams()).metadata["precision"] == "int8"


@pytest.mark.assets
@pytest.mark.usefixtures("vendor")
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_other_engine_says_which_precisions_it_has_not(precision: str, weights: Path, load: Load) -> None:
    with pytest.raises(ParameterError, match="take `f32` or `f16`"):
        load(weights / "yolo11n-pose.pt", engine="ultralytics", precision=precision)
