"""The letterbox is that of ultralytics, pixel by pixel, there and back."""

import importlib
from typing import Any

import numpy as np
import pytest

from healthd_yolo.letterbox import Letterbox, whole_strides

SIZES = [
    (720, 1280), (1080, 810), (1080, 1920), (562, 1000), (720, 406), (640, 640), (480, 640), (1, 1), (1, 3000),
    (3000, 1), (7, 5), (641, 639), (333, 1777), (4320, 7680),
]  # fmt: skip


def noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(size[0] * 10007 + size[1]).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("stride", [None, 32], ids=["square", "rectangle"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_input_is_the_one_that_ultralytics_makes(vendor: Any, size: tuple[int, int], stride: int | None) -> None:
    image = noise(size)
    letterbox = Letterbox.fit(size, (640, 640), stride=stride)
    canvas = letterbox.blank()
    letterbox.draw(image, canvas)

    reference = importlib.import_module("ultralytics.data.augment").LetterBox
    expected = reference((640, 640), auto=stride is not None, stride=32)(image=image)
    assert canvas.shape == (1, *expected.shape)
    assert np.array_equal(canvas[0], expected)


@pytest.mark.parametrize("target", [(640, 640), (384, 640), (320, 256)])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_boxes_and_points_come_back_where_ultralytics_puts_them(
    vendor: Any, size: tuple[int, int], target: tuple[int, int]
) -> None:
    ops = importlib.import_module("ultralytics.utils.ops")
    letterbox = Letterbox.fit(size, target)
    boxes = np.random.default_rng(3).uniform(-50, 700, (40, 4)).astype(np.float32)
    expected = ops.scale_boxes(letterbox.input, boxes.copy(), size)
    assert np.allclose(letterbox.boxes_to_image(boxes), expected, rtol=1e-6, atol=1e-3)

    points = boxes.reshape(-1, 2)
    assert np.allclose(
        letterbox.points_to_image(points), ops.scale_coords(letterbox.input, points.copy(), size), rtol=1e-6, atol=1e-3
    )


def test_a_canvas_is_used_again_without_traces_of_the_frame_before() -> None:
    letterbox = Letterbox.fit((720, 1280), (640, 640))
    canvas, fresh = letterbox.blank(), letterbox.blank()
    letterbox.draw(noise((720, 1280)), canvas)
    letterbox.draw(np.full((720, 1280, 3), 7, dtype=np.uint8), canvas)
    letterbox.draw(np.full((720, 1280, 3), 7, dtype=np.uint8), fresh)
    assert np.array_equal(canvas, fresh)


@pytest.mark.parametrize(("pixels", "expected"), [(640, 640), (641, 672), (1, 32), (0, 32), (1920, 1920)])
def test_sides_are_rounded_up_to_whole_strides(pixels: int, expected: int) -> None:
    assert whole_strides(pixels, 32) == expected
