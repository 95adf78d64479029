"""Pictures that tell their own number, and when they were made."""

import time
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 320, 192
_BITS, _CELL_WIDTH, _CELL_HEIGHT = 32, 10, 24
_DARK, _BRIGHT = 20, 235


class Stamp(NamedTuple):
    """What a picture tells of itself."""

    number: int
    """Counts the pictures of one camera."""
    made_ms: int
    """When it was made, in milliseconds of the monotonic clock, which all processes of a machine share."""


def now_ms() -> int:
    """Return the monotonic clock in milliseconds, as it stands in a picture."""
    return (time.monotonic_ns() // 1_000_000) % 2**_BITS


def stamped_picture(stamp: Stamp, *, height: int = HEIGHT) -> np.ndarray:
    """Draw three rows of black and white cells: the number, the time, and both mixed, so that a smear is noticed."""
    picture = np.full((height, WIDTH, 3), 90, np.uint8)
    for row, value in enumerate((stamp.number, stamp.made_ms, stamp.number ^ stamp.made_ms)):
        bits = np.array([_BRIGHT if value >> bit & 1 else _DARK for bit in range(_BITS)], np.uint8)
        top = row * _CELL_HEIGHT
        picture[top : top + _CELL_HEIGHT] = np.repeat(bits, _CELL_WIDTH)[None, :, None]
    return picture


def stamp_of(picture: np.ndarray) -> Stamp | None:
    """Read the stamp back; None where the picture is smeared or carries none."""
    if picture.shape[0] < 3 * _CELL_HEIGHT or picture.shape[1] < WIDTH:
        return None
    values = []
    for row in range(3):
        middle = picture[row * _CELL_HEIGHT + 6 : (row + 1) * _CELL_HEIGHT - 6, : _BITS * _CELL_WIDTH]
        cells = middle.mean(axis=(0, 2)).reshape(_BITS, _CELL_WIDTH)[:, 3:7].mean(axis=1)
        values.append(sum(1 << bit for bit, cell in enumerate(cells) if cell > (_DARK + _BRIGHT) / 2))
    number, made_ms, mixed = values
    return Stamp(number, made_ms) if number ^ made_ms == mixed else None
