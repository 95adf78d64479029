"""What both engines share: the check of the image that comes in, the records that go out."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from healthd.errors import ModelError
from healthd.models.model import Detection, Keypoint
from healthd_yolo.decode import Rows
from healthd_yolo.labels import class_name
from healthd_yolo.letterbox import Letterbox


def check_image(image: object) -> tuple[int, int]:
    """Return height and width of an image.

    Raises:
        ModelError: it is not uint8 of shape (height, width, 3) with at least one pixel.
    """
    if not isinstance(image, np.ndarray):
        raise ModelError(f"not an image: {type(image).__name__}, where uint8 (height, width, 3) is needed")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ModelError(f"not an image: {image.dtype} {image.shape}, where uint8 (height, width, 3) is needed")
    return int(image.shape[0]), int(image.shape[1])


def detections(
    rows: Rows, *, labels: Mapping[int, str], letterbox: Letterbox, keypoint_shape: tuple[int, int] | None
) -> tuple[Detection, ...]:
    """Turn rows in input pixels into detections in image pixels, confidences into 0 to 1 whatever the network says."""
    boxes = letterbox.boxes_to_image(rows.boxes)
    points: NDArray[np.float32] | None = None
    if keypoint_shape is not None:
        points = rows.extras.reshape(-1, *keypoint_shape).copy()
        points[..., :2] = letterbox.points_to_image(points[..., :2])
        points[..., 2:] = points[..., 2:].clip(0, 1)
    return records(boxes, rows.scores.clip(0, 1), rows.class_ids, points, labels=labels)


def records(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.intp],
    points: NDArray[np.float32] | None,
    *,
    labels: Mapping[int, str],
) -> tuple[Detection, ...]:
    """Make the records of n detections.

    Args:
        boxes: (n, 4) left, top, right, bottom in image pixels.
        scores: (n,) from 0 to 1.
        class_ids: (n,)
        points: (n, points, 2 or 3) x, y and confidence; without a confidence a point counts as seen.
        labels: names by class id.
    """
    bodies = [None] * len(boxes) if points is None else [_keypoints(body) for body in points.tolist()]
    return tuple(
        Detection(
            box_xyxy=(box[0], box[1], box[2], box[3]),
            confidence=score,
            class_id=class_id,
            class_name=class_name(labels, class_id),
            keypoints=body,
        )
        for box, score, class_id, body in zip(boxes.tolist(), scores.tolist(), class_ids.tolist(), bodies, strict=True)
    )


def _keypoints(body: list[list[float]]) -> tuple[Keypoint, ...]:
    if len(body[0]) > 2:
        return tuple(
            [Keypoint(point[0], point[1], point[2]) for point in body]
        )  # by position, from a list: a third faster
    return tuple([Keypoint(point[0], point[1], 1.0) for point in body])
