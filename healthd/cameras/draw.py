"""Draws predictions on the image they were made from, and the picture that says that there is none."""

import textwrap

import cv2
import numpy as np

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


def draw_prediction(image: Image, prediction: Prediction, *, scale: float = 1.0) -> None:
    """Draw on `image`, in place; `scale` is its size relative to the image that was predicted on."""
    line = max(1, round(min(image.shape[:2]) / 240))
    for detection in prediction.results:
        colour = _PALETTE[detection.class_id % len(_PALETTE)]
        _draw_box(image, detection, colour, line=line, scale=scale)
        if detection.keypoints:
            _draw_keypoints(image, detection.keypoints, colour, line=line, scale=scale)


def _draw_box(image: Image, detection: Detection, colour: tuple[int, int, int], *, line: int, scale: float) -> None:
    left, top, right, bottom = (round(value * scale) for value in detection.box_xyxy)
    cv2.rectangle(image, (left, top), (right, bottom), colour, line)
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
        (round(point.x * scale), round(point.y * scale)) if point.confidence >= KEYPOINT_CONFIDENCE else None
        for point in keypoints
    ]
    for start, end in COCO_SKELETON if len(points) == 17 else ():
        first, second = points[start], points[end]
        if first is not None and second is not None:
            cv2.line(image, first, second, colour, line, cv2.LINE_AA)
    for place in points:
        if place is not None:
            cv2.circle(image, place, line + 1, (255, 255, 255), cv2.FILLED, cv2.LINE_AA)


def no_signal_image(name: str, state: str, reason: str | None, *, width: int) -> Image:
    """Return a neutral picture, 16:9, that says in words that a camera is not live."""
    height = max(9, width * 9 // 16)
    image = np.full((height, width, 3), 56, np.uint8)
    lines = [(name, 1.6, (235, 235, 235)), (state.upper(), 1.3, (90, 180, 255))]
    lines += [(line, 0.7, (190, 190, 190)) for line in textwrap.wrap(_plain(reason or ""), 48)[:3]]
    row = height * 0.36
    for text, size, colour in lines:
        scale = size * width / 900
        thickness = max(1, round(2 * scale))
        (text_width, text_height), _ = cv2.getTextSize(_plain(text), cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        place = (max(2, (width - text_width) // 2), round(row))
        cv2.putText(image, _plain(text), place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)
        row += text_height * 2.0
    return image


def _plain(text: str) -> str:
    """OpenCV's letters are ASCII."""
    return text.encode("ascii", "replace").decode()
