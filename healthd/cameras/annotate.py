"""Pictures that were sent in, drawn for people who would rather look than read."""

import cv2

from healthd.cameras.draw import draw_caption, draw_prediction
from healthd.cameras.jpeg import encode_image
from healthd.frames import Image
from healthd.models.model import Prediction

LONGEST_SIDE = 16_000
"""Pixels; a JPEG ends at 65,535, and OpenCV draws up to 32,767."""
CAPTIONS = ("caption", "answer", "text")
"""Where a family that sees no boxes says what it sees, in its metadata."""


def annotated_jpeg(image: Image, prediction: Prediction, *, quality: int) -> bytes:
    """Return a picture as JPEG with its prediction drawn: boxes and skeletons, or the sentence that was said of it.

    Blocking, some milliseconds. What is longer than `LONGEST_SIDE` is made smaller.
    """
    height, width = image.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        drawn: Image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    else:
        drawn = image.copy()
    draw_prediction(drawn, prediction, scale=scale)
    caption = next((said for key in CAPTIONS if isinstance(said := prediction.metadata.get(key), str)), None)
    if caption:
        draw_caption(drawn, caption)
    return encode_image(drawn, quality)
