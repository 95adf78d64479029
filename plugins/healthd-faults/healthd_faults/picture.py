"""Pictures that are drawn here: small, cheap, and each with its number, for people and for programs."""

import cv2
import numpy as np

from healthd.frames import Image

_BITS = 32
_DARK, _BRIGHT = 20, 235
_SQUARE = 8
"""The moving square's side is this part of the picture's height."""


def numbered_picture(number: int, *, width: int, height: int) -> Image:
    """Draw a picture: its number in figures, in bits along the upper edge, and a square that moves with it."""
    picture = np.full((height, width, 3), 90, np.uint8)
    cells = [_BRIGHT if number >> bit & 1 else _DARK for bit in range(_BITS)]
    picture[: height // 8] = np.repeat(np.array(cells, np.uint8), -(-width // _BITS))[:width, None]
    left, top, right, bottom = square_of(number, width=width, height=height)
    picture[top:bottom, left:right] = (0, 165, 255)
    corner = (width // 16, height * 5 // 8)
    cv2.putText(picture, str(number), corner, cv2.FONT_HERSHEY_SIMPLEX, height / 120, (255, 255, 255), 2)
    return picture


def square_of(number: int, *, width: int, height: int) -> tuple[int, int, int, int]:
    """Return where the square of a picture is: left, top, right, bottom."""
    side = height // _SQUARE
    left = round(number * 4 % 256 / 256 * (width - side))
    top = height - 2 * side
    return left, top, left + side, top + side


def number_of(picture: Image) -> int:
    """Read the number of a picture from its bits."""
    height, width = picture.shape[:2]
    cell = -(-width // _BITS)
    row = picture[height // 16, :, 0]
    return sum(1 << bit for bit in range(_BITS) if row[min(width - 1, bit * cell + cell // 2)] > 128)
