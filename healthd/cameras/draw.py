"""Draws a prediction on the image it was made from: boxes, skeletons, names and confidences."""

import math

import cv2

from healthd.frames import Image
from healthd.models.model import Detection, Keypoint, Prediction

KEYPOINT_CONFIDENCE = 0.5
"""Points below this are not drawn, nor the limbs that end in them."""

COCO_SKELETON = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10),
    (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
"""Limbs between the 17 keypoints of COCO (https://cocodataset.org/#keypoints-2020), by index from 0."""

_PALETTE = (
    (80, 175, 76), (0, 152, 255), (243, 150, 33), (176, 39, 156),
    (54, 67, 244), (212, 188, 0), (59, 235, 255), (180, 105, 255),
)  # fmt: skip


_FAR = 30_000
"""Pixels; a place farther out is drawn there, because OpenCV counts in 16 bits when it draws."""


def draw_prediction(image: Image, prediction: Prediction, *, scale: float = 1.0) -> None:
    """Draw on `image`, in place; `scale` is its size relative to the image that was predicted on."""
    line = max(1, round(min(image.shape[:2]) / 240))
    for detection in prediction.results:
        colour = _PALETTE[detection.class_id % len(_PALETTE)]
        _draw_box(image, detection, colour, line=line, scale=scale)
        if detection.keypoints:
            _draw_keypoints(image, detection.keypoints, colour, line=line, scale=scale)


def draw_caption(image: Image, text: str) -> None:
    """Draw a line of text at the bottom of `image`, in place, cut to its width; what OpenCV cannot write is `?`."""
    height, width = image.shape[:2]
    size = max(0.35, min(height, width) / 900)
    line = " ".join(text.split()).encode("ascii", "replace").decode()
    while line and cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0] > width:
        line = line[: -1 - len(line) // 20]
    (_, tall), baseline = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    top = max(0, height - tall - 2 * baseline)
    cv2.rectangle(image, (0, top), (width, height), (0, 0, 0), cv2.FILLED)
    corner = (0, height - baseline)
    cv2.putText(image, line, corner, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)


def _draw_box(image: Image, detection: Detection, colour: tuple[int, int, int], *, line: int, scale: float) -> None:
    x1, y1, x2, y2 = detection.box_xyxy
    first, second = _place(x1, y1, scale=scale), _place(x2, y2, scale=scale)
    if first is None or second is None:
        return
    left, top = first
    cv2.rectangle(image, first, second, colour, line)
    text = f"{detection.class_name} {detection.confidence:.2f}"
    size = max(0.35, min(image.shape[:2]) / 900)
    (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    ground = max(height + baseline, top)
    cv2.rectangle(image, (left, ground - height - baseline), (left + width, ground), colour, cv2.FILLED)
    corner = (left, ground - baseline // 2 - 1)
    cv2.putText(image, text, corner, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)


def _draw_keypoints(
    image: Image, keypoints: tuple[Keypoint, ...], colour: tuple[int, int, int], *, line: int, scale: float
) -> None:
    points = [
        _place(point.x, point.y, scale=scale) if point.confidence >= KEYPOINT_CONFIDENCE else None
        for point in keypoints
    ]
    for start, end in COCO_SKELETON if len(points) == 17 else ():
        first, second = points[start], points[end]
        if first is not None and second is not None:
            cv2.line(image, first, second, colour, line, cv2.LINE_AA)
    for place in points:
        if place is not None:
            cv2.circle(image, place, line + 1, (255, 255, 255), cv2.FILLED, cv2.LINE_AA)


def _place(x: float, y: float, *, scale: float) -> tuple[int, int] | None:
    """Return the pixel of a place; None when it has none, because a network computed no number."""
    if not (math.isfinite(x) and math.isfinite(y)):
        return None
    across, down = (round(min(_FAR, max(-_FAR, value * scale))) for value in (x, y))
    return across, down
