"""Decoding agrees with ultralytics on made-up outputs, and does not fall for numbers that are none."""

import importlib
from typing import Any

import numpy as np
import pytest

from healthd.errors import ModelError
from healthd.models.model import InferenceParams
from healthd_yolo.decode import Layout, Rows, decode, decode_anchors, decode_one_to_one, decode_rows
from healthd_yolo.metadata import network_info


def anchors_output(seed: int, *, classes: int, extras: int, anchors: int = 2100) -> np.ndarray:
    """An output (4 + classes + extras, anchors) like that of a busy scene: few good scores, many overlaps."""
    rng = np.random.default_rng(seed)
    centre, size = rng.uniform(0, 320, (2, anchors)), rng.uniform(4, 120, (2, anchors))
    scores = rng.beta(0.4, 6, (classes, anchors))
    return np.concatenate((centre, size, scores, rng.uniform(0, 320, (extras, anchors)))).astype(np.float32)


def table(rows: Rows) -> np.ndarray:
    return np.concatenate((rows.boxes, rows.scores[:, None], rows.class_ids[:, None], rows.extras), axis=1)


@pytest.mark.parametrize("keep", [None, frozenset({0, 2})], ids=["all", "some"])
@pytest.mark.parametrize(("classes", "extras"), [(1, 51), (80, 0), (3, 8), (2, 51)])
@pytest.mark.parametrize("confidence", [0.001, 0.25, 0.6])
def test_heads_with_suppression_decode_as_in_ultralytics(
    vendor: Any, classes: int, extras: int, confidence: float, keep: frozenset[int] | None
) -> None:
    torch = importlib.import_module("torch")
    importlib.import_module("torchvision")  # ultralytics then uses its suppression
    non_max_suppression = importlib.import_module("ultralytics.utils.nms").non_max_suppression

    output = anchors_output(classes, classes=classes, extras=extras)
    params = InferenceParams(confidence=confidence, iou=0.5, max_det=100)
    expected = non_max_suppression(
        torch.from_numpy(output.copy())[None],
        confidence,
        0.5,
        classes=None if keep is None else sorted(keep),
        max_det=100,
        nc=classes,
    )[0].numpy()
    rows = decode_anchors(output, classes=classes, params=params, keep=keep)
    assert np.array_equal(table(rows), expected)


@pytest.mark.parametrize(("classes", "extras"), [(1, 51), (80, 0), (3, 8)])
@pytest.mark.parametrize("confidence", [0.05, 0.25])
def test_end_to_end_heads_decode_as_in_ultralytics(vendor: Any, classes: int, extras: int, confidence: float) -> None:
    torch = importlib.import_module("torch")
    non_max_suppression = importlib.import_module("ultralytics.utils.nms").non_max_suppression
    output = anchors_output(classes, classes=classes, extras=extras)
    head = importlib.import_module("ultralytics.nn.modules.head").Detect(nc=classes, ch=(16, 16, 16))
    decided = head.postprocess(torch.from_numpy(output.T.copy())[None])
    expected = non_max_suppression(decided, confidence, 0.7, max_det=200, nc=classes, end2end=True)[0].numpy()

    params = InferenceParams(confidence=confidence, max_det=200)
    assert np.array_equal(
        table(decode_one_to_one(output, classes=classes, params=params, keep=None)), expected.astype(np.float32)
    )
    assert np.array_equal(table(decode_rows(decided[0].numpy(), params=params, keep=None)), expected)


def test_rows_keep_only_the_classes_asked_for_and_the_best_of_them() -> None:
    output = np.array([[0, 0, 9, 9, 0.9, 1], [0, 0, 9, 9, 0.8, 0], [1, 1, 9, 9, 0.7, 0], [0] * 6], dtype=np.float32)
    rows = decode_rows(output, params=InferenceParams(confidence=0.0, max_det=1), keep=frozenset({0}))
    assert rows.scores.tolist() == pytest.approx([0.8])


def test_rows_that_are_no_numbers_are_left_out_and_counted() -> None:
    output = anchors_output(5, classes=2, extras=6, anchors=50)
    output[4:6] = 0.0
    output[4, :4] = [0.9, 0.8, np.nan, 0.7]
    output[0, 1] = np.inf
    output[7, 3] = np.nan
    rows = decode_anchors(output, classes=2, params=InferenceParams(iou=1.0), keep=None)
    assert rows.scores.tolist() == pytest.approx([0.9])
    assert rows.discarded == 3
    rows = decode_one_to_one(output, classes=2, params=InferenceParams(), keep=None)
    assert rows.scores.tolist() == pytest.approx([0.9])
    assert rows.discarded == 3


@pytest.mark.parametrize("head", [decode_anchors, decode_one_to_one])
def test_a_network_that_returns_no_number_at_all_is_an_error_and_not_an_empty_room(head: Any) -> None:
    output = np.full((6, 30), np.nan, dtype=np.float32)
    with pytest.raises(ModelError, match="no number"):
        head(output, classes=2, params=InferenceParams(), keep=None)


def test_rows_of_nothing_but_nan_are_an_error_too() -> None:
    with pytest.raises(ModelError, match="no number"):
        decode_rows(np.full((300, 6), np.nan, dtype=np.float32), params=InferenceParams(), keep=None)


def test_nothing_above_the_threshold_is_no_detection() -> None:
    output = anchors_output(1, classes=2, extras=4, anchors=40)
    for decoded in (decode_anchors, decode_one_to_one):
        rows = decoded(output, classes=2, params=InferenceParams(confidence=1.0), keep=None)
        assert table(rows).shape == (0, 10)


@pytest.mark.parametrize(
    ("layout", "shape", "wanted"),
    [
        ("anchors", (1, 7, 30), "[1, 6, anchors]"),
        ("anchors", (6, 30), "[1, 6, anchors]"),
        ("anchors", (0, 6, 30), "[1, 6, anchors]"),
        ("one_to_one", (2, 6, 30), "[1, 6, anchors]"),
        ("rows", (1, 300, 7), "[1, detections, 6]"),
        ("rows", (), "[1, detections, 6]"),
    ],
)
def test_an_output_of_another_shape_is_an_error_that_says_what_was_expected(
    layout: Layout, shape: tuple[int, ...], wanted: str
) -> None:
    info = network_info({"task": "detect", "names": "{0: 'cat', 1: 'dog'}"}, "net.onnx")
    with pytest.raises(ModelError) as refused:
        decode(np.zeros(shape, dtype=np.float32), layout, info, params=InferenceParams(), keep=None)
    assert str(refused.value) == f"the network gave an output of shape {list(shape)} where {wanted} was expected"
