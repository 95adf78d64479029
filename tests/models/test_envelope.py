"""What a model says is looked at where it enters healthd: rubbish is an error with a reason, never JSON."""

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest

from healthd.errors import ModelError
from healthd.models.envelope import checked
from healthd.models.model import Detection, Keypoint, Prediction

BOX = Detection((1.0, 2.0, 3.0, 4.0), 0.5, 0, "person", (Keypoint(1.0, 2.0, 0.9),))
GOOD = Prediction("m", 1.0, (BOX,), {"task": "pose", "width": 64, "height": 48})


def test_what_is_as_the_contract_has_it_goes_on_unchanged() -> None:
    assert checked(GOOD, "m") == GOOD
    whole = replace(GOOD, results=[replace(BOX, box_xyxy=[1, 2, 3, 4], keypoints=None)])  # type: ignore[list-item, arg-type]
    assert checked(whole, "m").results == tuple(whole.results)


@pytest.mark.parametrize(
    "broken",
    [
        replace(BOX, box_xyxy=(1.0, math.nan, 3.0, 4.0)),
        replace(BOX, box_xyxy=(1.0, 2.0, math.inf, -math.inf)),
        replace(BOX, confidence=math.nan),
        replace(BOX, keypoints=(Keypoint(0.0, -math.inf, 0.5),)),
    ],
)
def test_numbers_that_are_not_finite_are_an_error_that_names_the_result(broken: Detection) -> None:
    with pytest.raises(ModelError, match=r"yolo\.onnx: result 1 is not finite"):
        checked(replace(GOOD, results=(BOX, broken)), "yolo.onnx")
    with pytest.raises(ModelError, match="inference_time_ms is not finite"):
        checked(replace(GOOD, inference_time_ms=math.nan), "m")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"boxes": []}, "returned dict, not a Prediction"),
        (None, "returned NoneType"),
        (replace(GOOD, model_id=3), "model_id is int"),
        (replace(GOOD, results=7), "results is int"),
        (replace(GOOD, results=("person",)), "result 0 is str, not a Detection"),
        (replace(GOOD, results=(replace(BOX, box_xyxy=(1.0, 2.0)),)), "not enough values"),
        (replace(GOOD, results=(replace(BOX, box_xyxy="abcd"),)), "result 0"),
        (replace(GOOD, results=(replace(BOX, confidence=np.float32(0.5)),)), "holds float"),
        (replace(GOOD, results=(replace(BOX, confidence=Decimal(1)),)), "result 0"),
        (replace(GOOD, results=(replace(BOX, class_id=None),)), "result 0"),
        (replace(GOOD, results=(replace(BOX, class_name=1),)), "class_name is int"),
        (replace(GOOD, results=(replace(BOX, keypoints=((1, 2),)),)), "result 0"),
        (replace(GOOD, metadata=["task"]), "metadata is list"),
        (replace(GOOD, metadata={"array": np.zeros(3)}), "cannot be written as JSON"),
    ],
)
def test_what_breaks_the_contract_is_a_bug_that_is_named(broken: Any, says: str) -> None:
    with pytest.raises(TypeError, match=f"m.*{says}"):
        checked(broken, "m")


def test_of_ten_thousand_boxes_the_most_confident_stay_and_the_rest_is_counted() -> None:
    boxes = tuple(replace(BOX, confidence=number / 10_000) for number in range(10_000))
    said = checked(replace(GOOD, results=boxes), "m", most=300)
    assert [one.confidence for one in said.results] == [number / 10_000 for number in range(9_999, 9_699, -1)]
    assert said.metadata["left_out"] == 9_700


def test_metadata_is_bounded_and_holds_no_number_that_json_has_not() -> None:
    said = checked(replace(GOOD, metadata={"task": "x", "score": math.nan, "size": (1, 2)}), "m")
    assert said.metadata == {"task": "x", "score": None, "size": [1, 2]}
    assert b"NaN" not in msgspec.json.encode(said)
    with pytest.raises(ModelError, match=r"metadata has \d+ bytes as JSON, at most 65536"):
        checked(replace(GOOD, metadata={"answer": "x" * 100_000}), "m")
    with pytest.raises(ModelError, match="class_name has 5000 characters"):
        checked(replace(GOOD, results=(replace(BOX, class_name="x" * 5000),)), "m")
