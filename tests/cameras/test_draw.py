"""Drawing: boxes and skeletons stand where the prediction says, at any size, whatever a network computes."""

import math

import numpy as np
import pytest

from healthd.cameras.draw import KEYPOINT_CONFIDENCE, draw_prediction
from healthd.frames import Image
from healthd.models.model import Detection, Keypoint
from tests.fakes import prediction

BLACK = (120, 160, 3)


def drawn(*results: Detection, size: tuple[int, int, int] = BLACK, scale: float = 1.0) -> Image:
    image = np.zeros(size, np.uint8)
    draw_prediction(image, prediction(image, results=results), scale=scale)
    return image


def touched(image: Image) -> np.ndarray:
    return image.any(axis=2)


def box(*corners: float, keypoints: tuple[Keypoint, ...] | None = None, class_id: int = 0) -> Detection:
    return Detection(corners, 0.5, class_id, "person", keypoints)  # type: ignore[arg-type]


def test_a_box_is_drawn_on_its_edges_and_not_inside() -> None:
    seen = touched(drawn(box(30, 60, 130, 110)))
    for x, y in ((30, 90), (130, 90), (80, 60), (80, 110)):
        assert seen[y, x], (x, y)
    assert not seen[70:105, 40:120].any()
    assert not seen[:, 140:].any()


def test_a_box_follows_the_size_of_the_picture_it_is_drawn_on() -> None:
    seen = touched(drawn(box(60, 120, 260, 220), scale=0.5))
    assert seen[90, 30]
    assert seen[110, 80]
    assert not seen[115:, :].any()


def test_the_name_stands_above_the_box_and_stays_inside_the_picture() -> None:
    below = touched(drawn(box(30, 60, 130, 110)))
    assert below[45:60, 32:60].any()
    at_the_top = touched(drawn(box(30, 0, 130, 110)))
    assert at_the_top[2:12, 32:60].any()


def test_classes_have_different_colours() -> None:
    assert (drawn(box(30, 60, 130, 110))[110, 80] != drawn(box(30, 60, 130, 110, class_id=1))[110, 80]).any()
    drawn(box(30, 60, 130, 110, class_id=10_000), box(1, 1, 5, 5, class_id=-1))


def body(confidence: float = 0.9, **other: float) -> tuple[Keypoint, ...]:
    """A body of COCO on a circle, so that no two points share a place."""
    turns = [(index, 2 * math.pi * index / 17) for index in range(17)]
    return tuple(
        Keypoint(80 + 50 * math.cos(turn), 60 + 50 * math.sin(turn), other.get(f"p{index}", confidence))
        for index, turn in turns
    )


def test_a_body_is_drawn_with_points_and_limbs() -> None:
    points = body()
    seen = touched(drawn(box(0, 0, 0, 0, keypoints=points)))
    for point in points:
        assert seen[round(point.y), round(point.x)]
    left_shoulder, left_elbow = points[5], points[7]
    assert seen[round((left_shoulder.y + left_elbow.y) / 2), round((left_shoulder.x + left_elbow.x) / 2)]


def test_a_point_that_is_not_seen_is_not_drawn_nor_the_limbs_that_end_in_it() -> None:
    def arm(elbow_confidence: float) -> np.ndarray:
        points = body(0.0, p5=0.9, p7=elbow_confidence, p9=0.9)
        return touched(drawn(box(0, 0, 0, 0, keypoints=points)))

    shoulder, elbow, wrist = (body()[index] for index in (5, 7, 9))
    places = [
        (round(elbow.y), round(elbow.x)),
        (round((elbow.y + wrist.y) / 2), round((elbow.x + wrist.x) / 2)),
        (round((elbow.y + shoulder.y) / 2), round((elbow.x + shoulder.x) / 2)),
    ]
    whole, without = arm(KEYPOINT_CONFIDENCE), arm(KEYPOINT_CONFIDENCE - 0.01)
    assert [bool(whole[place]) for place in places] == [True, True, True]
    assert [bool(without[place]) for place in places] == [False, False, False]
    assert without[round(shoulder.y), round(shoulder.x)]


def test_other_bodies_than_coco_get_points_without_limbs() -> None:
    seen = touched(drawn(box(0, 0, 0, 0, keypoints=(Keypoint(40, 60, 1), Keypoint(120, 60, 1)))))
    assert seen[60, 40]
    assert seen[60, 120]
    assert not seen[60, 50:110].any()


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "odd",
    [
        box(NAN, 1, 2, 3),
        box(1, 2, INF, 3),
        box(-1e12, -1e12, 1e12, 1e12),
        box(100, 100, 10, 10),
        box(5, 5, 5, 5),
        box(1, 1, 9, 9, keypoints=(Keypoint(NAN, 1, 1),) * 17),
        box(1, 1, 9, 9, keypoints=(Keypoint(1e12, -1e12, 1),) * 17),
        box(1, 1, 9, 9, keypoints=(Keypoint(1, 1, NAN),)),
        box(1, 1, 9, 9, keypoints=()),
        Detection((1, 1, 9, 9), NAN, 0, "é\n\0" * 200),
    ],
)
def test_whatever_a_network_computes_the_rest_is_drawn(odd: Detection) -> None:
    seen = touched(drawn(odd, box(30, 60, 130, 110)))
    assert seen[110, 80]


@pytest.mark.parametrize("size", [(1, 1, 3), (2, 3000, 3), (3000, 2, 3)])
def test_a_picture_of_any_shape_can_be_drawn_on(size: tuple[int, int, int]) -> None:
    drawn(box(0, 0, 1, 1, keypoints=body()), size=size)
