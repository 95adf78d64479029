"""Whatever numbers a network gives, what comes out is boxes of finite numbers, few enough, or an error of ours."""

import json
import math
import os
import warnings
from dataclasses import asdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from healthd.errors import ModelError, SettingsError
from healthd.models.model import InferenceParams
from healthd_yolo.decode import decode_anchors, decode_one_to_one, decode_rows
from healthd_yolo.envelope import detections
from healthd_yolo.letterbox import Letterbox
from healthd_yolo.metadata import network_info

EXAMPLES = max(300, int(os.environ.get("HEALTHD_FUZZ_EXAMPLES", "0")))
SIZES = st.integers(1, 4096)
THRESHOLDS = st.sampled_from([0.0, 0.25, 1.0])


@st.composite
def outputs(draw: st.DrawFn) -> tuple[NDArray[np.float32], int, int]:
    """Return numbers of any kind, the number of classes and that of keypoints."""
    classes, points, anchors = draw(st.integers(1, 5)), draw(st.integers(0, 3)), draw(st.integers(0, 40))
    numbers = st.one_of(st.floats(width=32), st.sampled_from([0.0, 0.5, 1.0, 3e38, -3e38, math.inf, math.nan]))
    shape = (4 + classes + 3 * points, anchors)
    return draw(hnp.arrays(np.float32, shape, elements=numbers, fill=st.sampled_from([0.0, 0.9]))), classes, points


@settings(max_examples=EXAMPLES, deadline=None)
@given(outputs(), st.sampled_from(["anchors", "one_to_one", "rows"]), SIZES, SIZES, THRESHOLDS, st.integers(1, 20))
def test_no_output_makes_a_box_that_is_none(
    numbers: tuple[NDArray[np.float32], int, int], layout: str, width: int, height: int, confidence: float, most: int
) -> None:
    output, classes, points = numbers
    params = InferenceParams(confidence=confidence, max_det=most)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            if layout == "anchors":
                rows = decode_anchors(output, classes=classes, params=params, keep=None)
            elif layout == "one_to_one":
                rows = decode_one_to_one(output, classes=classes, params=params, keep=None)
            else:
                rows = decode_rows(
                    np.ascontiguousarray(output[[*range(5), 4, *range(4 + classes, len(output))]].T),
                    params=params,
                    keep=None,
                )
        except ModelError:
            return
        shape = (points, 3) if points else None
        found = detections(
            rows, labels={0: "person"}, letterbox=Letterbox.fit((height, width), (640, 640)), keypoint_shape=shape
        )
    assert len(found) <= most
    assert [one.confidence for one in found] == sorted((one.confidence for one in found), reverse=True)
    for one in found:
        left, top, right, bottom = one.box_xyxy
        assert 0 <= left <= width, one
        assert 0 <= right <= width, one
        assert 0 <= top <= height, one
        assert 0 <= bottom <= height, one
        assert 0 <= one.confidence <= 1, one
        assert all(0 <= point.confidence <= 1 for point in one.keypoints or ()), one
        assert one.class_id >= 0
    json.dumps([asdict(one) for one in found], allow_nan=False)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers() | st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
KEYS = ("task", "names", "stride", "imgsz", "kpt_shape", "channels", "end2end", "args", "batch")


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(KEYS), ANYTHING | st.sampled_from(["pose", "detect", "{0: 'person'}", "[640, 640]"])
    )
)
def test_no_metadata_breaks_more_than_its_own_network(raw: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            info = network_info({"task": "pose", "names": "{0: 'person'}", "kpt_shape": "[17, 3]", **raw}, "net.onnx")
        except SettingsError:
            return
    assert info.channels > 4
    assert info.stride >= 1
    assert all(isinstance(name, str) for name in info.labels.values())
