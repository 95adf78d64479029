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
from healthd_yolo.decode import Layout, decode
from healthd_yolo.envelope import detections
from healthd_yolo.letterbox import Letterbox
from healthd_yolo.metadata import NetworkInfo, network_info

EXAMPLES = max(300, int(os.environ.get("HEALTHD_FUZZ_EXAMPLES", "0")))
SIZES = st.integers(1, 4096)
THRESHOLDS = st.sampled_from([0.0, 0.25, 1.0])


@st.composite
def outputs(draw: st.DrawFn) -> tuple[NDArray[np.float32], Layout, NetworkInfo]:
    """Return numbers of any kind in a shape that fits, or does not, and what the network says of itself."""
    classes, points, most = draw(st.integers(1, 5)), draw(st.integers(0, 3)), draw(st.integers(0, 40))
    layout: Layout = draw(st.sampled_from(["anchors", "one_to_one", "rows"]))
    info = NetworkInfo(
        task="pose" if points else "detect",
        labels={number: f"class {number}" for number in range(classes)},
        stride=32,
        image_size=(640, 640),
        keypoint_shape=(points, 3) if points else None,
        one_to_one=layout == "one_to_one",
        nms_inside=layout == "rows",
    )
    fitting = (1, most, 6 + info.extras) if layout == "rows" else (1, info.channels, most)
    others = st.permutations(fitting).map(tuple) | hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6)
    shape = draw(st.just(fitting) | others)
    numbers = st.one_of(st.floats(width=32), st.sampled_from([0.0, 0.5, 1.0, 3e38, -3e38, math.inf, math.nan]))
    return draw(hnp.arrays(np.float32, shape, elements=numbers, fill=st.sampled_from([0.0, 0.9]))), layout, info


@settings(max_examples=EXAMPLES, deadline=None)
@given(outputs(), SIZES, SIZES, THRESHOLDS, st.integers(1, 20))
def test_no_output_makes_a_box_that_is_none(
    given_output: tuple[NDArray[np.float32], Layout, NetworkInfo], width: int, height: int, confidence: float, most: int
) -> None:
    output, layout, info = given_output
    params = InferenceParams(confidence=confidence, max_det=most)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            rows = decode(output, layout, info, params=params, keep=None)
        except ModelError:
            return
        letterbox = Letterbox.fit((height, width), (640, 640))
        found = detections(rows, labels=info.labels, letterbox=letterbox, keypoint_shape=info.keypoint_shape)
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
