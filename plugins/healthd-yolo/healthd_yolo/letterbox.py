"""The way from an image to the input of a network and back: scale, centre, pad with grey.

The arithmetic, roundings included, is that of ultralytics 8.4 (`LetterBox`, `scale_boxes`, `scale_coords`): a pixel's
difference at the input moves confidences by hundredths.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from healthd.frames import Image

PAD_VALUE = 114
"""Grey of the padding, as in training."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How one size of image is laid into one size of network input. Sizes are (height, width) in pixels."""

    image: Size
    content: Size
    """Size of the scaled image inside the input."""
    input: Size
    """Size of the whole input, padding included."""
    top: int
    left: int

    @classmethod
    def fit(cls, image: Size, target: Size, *, stride: int | None = None) -> "Letterbox":
        """Lay an image into `target`; with `stride`, into the smallest rectangle of whole strides that holds it."""
        gain = min(target[0] / image[0], target[1] / image[1])
        content = (max(round(image[0] * gain), 1), max(round(image[1] * gain), 1))
        pad_y, pad_x = target[0] - content[0], target[1] - content[1]
        if stride is not None:
            pad_y, pad_x = pad_y % stride, pad_x % stride
        return cls(
            image=image,
            content=content,
            input=(content[0] + pad_y, content[1] + pad_x),
            top=round(pad_y / 2 - 0.1),
            left=round(pad_x / 2 - 0.1),
        )

    def blank(self) -> NDArray[np.uint8]:
        """Make an input of nothing but padding, shape (1, height, width, 3); `draw` needs no other."""
        return np.full((1, *self.input, 3), PAD_VALUE, dtype=np.uint8)

    def draw(self, image: Image, canvas: NDArray[np.uint8]) -> None:
        """Scale the image into its place on a canvas made by `blank`; the padding stays as it is."""
        height, width = self.content
        place = canvas[0, self.top : self.top + height, self.left : self.left + width]
        if self.content == self.image:
            place[...] = image
        else:
            cv2.resize(image, (width, height), dst=place, interpolation=cv2.INTER_LINEAR)

    def boxes_to_image(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn boxes (n, 4) left, top, right, bottom from input to image pixels, clipped to the image."""
        return self.points_to_image(boxes.reshape(-1, 2, 2)).reshape(-1, 4)

    def points_to_image(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn points (..., 2) x, y from input to image pixels, clipped to the image."""
        gain = np.array([self.content[1] / self.image[1], self.content[0] / self.image[0]], dtype=np.float32)
        pad = np.array([self.left, self.top], dtype=np.float32)
        limit = np.array([self.image[1], self.image[0]], dtype=np.float32)
        scaled: NDArray[np.float32] = np.clip((points - pad) / gain, np.float32(0), limit)
        return scaled


def whole_strides(pixels: int, stride: int) -> int:
    """Round a side of the input up to a multiple of the stride, at least one."""
    return max(math.ceil(pixels / stride), 1) * stride
