"""Non-maximum suppression keeps exactly what torchvision keeps, in the same order."""

import numpy as np
import pytest

from healthd_yolo.nms import suppress, suppress_per_class


def boxes_of(seed: int, count: int, spread: float = 600.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, spread, (count, 2))
    size = rng.uniform(0, 150, (count, 2))
    boxes = np.concatenate((corner, corner + size), axis=1).astype(np.float32)
    return boxes, rng.uniform(0, 1, count).astype(np.float32)


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.45, 0.7, 1.0])
@pytest.mark.parametrize("count", [1, 2, 17, 300, 3000])
@pytest.mark.parametrize("seed", range(4))
def test_survivors_are_those_of_torchvision(seed: int, count: int, iou: float) -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    boxes, scores = boxes_of(seed, count)
    expected = ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou).numpy()
    assert np.array_equal(suppress(boxes, scores, iou=iou, limit=count), expected)
    assert np.array_equal(suppress(boxes, scores, iou=iou, limit=5), expected[:5])


@pytest.mark.parametrize("count", [100, 20], ids=["one after the other", "all at once"])
def test_equal_scores_twins_and_boxes_without_area_are_treated_as_torchvision_treats_them(count: int) -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(9)
    boxes = np.repeat(boxes_of(1, count, spread=80)[0], 3, axis=0)
    boxes[::7, 2:] = boxes[::7, :2]
    scores = rng.integers(0, 5, len(boxes)).astype(np.float32) / 5
    expected = ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.45).numpy()
    with np.errstate(all="raise"):
        assert np.array_equal(suppress(boxes, scores, iou=0.45, limit=1000), expected)


def test_boxes_of_different_classes_do_not_fall_to_each_other() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], dtype=np.float32)
    scores = np.array([0.9, 0.8, 0.7], dtype=np.float32)
    kept = suppress_per_class(boxes, scores, np.array([0, 79, 0]), iou=0.45, limit=10)
    assert kept.tolist() == [0, 1]


def test_nothing_in_nothing_out() -> None:
    empty = np.empty((0, 4), dtype=np.float32)
    assert suppress(empty, np.empty(0, dtype=np.float32), iou=0.45, limit=10).tolist() == []
