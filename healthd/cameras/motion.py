"""How much of a camera's picture changes, seen on a small grey one. Pure logic; half a millisecond per picture.

What moves differs from the background, which is a running mean of the last seconds. What concerns the whole picture is
no motion: an exposure or a lamp that is dimmed changes all cells by one gain and one offset, which are fitted and taken
out, and the noise of the night raises the threshold. Compression and mains flicker stay below it.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from healthd.frames import Image

LONG_SIDE = 160
"""Cells along the longer side of the small picture: of a 720p picture each cell is 8 by 8 pixels."""
BACKGROUND_SECONDS = 2.0
"""Time constant of the background: what stands still for a few times as long is background itself."""

_CELLS = NDArray[np.float32]
_NOISE_FACTOR = 6.0
_MOST_NOISE = 3.0
"""By so much at most noise raises the threshold; a picture that moves as a whole must not count as noise."""
_SAMPLE = 4
"""Gain, offset and noise are taken from one cell in 4 by 4."""
_DARKEST, _BRIGHTEST = 6, 249
"""Beyond these a cell is clipped and tells nothing of the gain."""
_FEWEST_CELLS = 50
_LEAST_VARIANCE = 25.0
_KERNEL = np.ones((3, 3), np.uint8)


class MotionDetector:
    """Compares the pictures of one session with the background before them. One thread at a time.

    `threshold`: by how many grey levels of 255 a cell must differ to count.
    """

    def __init__(self, *, threshold: float) -> None:
        self._threshold = threshold
        self._background: _CELLS | None = None
        self._looked_at = 0.0

    def look(self, image: Image, at: float) -> float:
        """Return the share of the picture (0 to 1) that the largest connected change takes.

        `at`: seconds, never going back. The first picture, and the first of another size, is all change.
        """
        cells = small_grey(image)
        background = self._background
        if background is None or background.shape != cells.shape:
            self._background, self._looked_at = cells, at
            return 1.0
        background = _in_the_light_of(cells, background)
        change: _CELLS = np.abs(cells - background)
        noise = 1.4826 * float(np.median(change[::_SAMPLE, ::_SAMPLE]))
        limit = min(max(self._threshold, _NOISE_FACTOR * noise), _MOST_NOISE * self._threshold)
        weight = 1.0 - math.exp(-max(0.0, at - self._looked_at) / BACKGROUND_SECONDS)
        cv2.accumulateWeighted(cells, background, weight)
        self._background, self._looked_at = background, at
        return _largest_share(change > limit)


def small_grey(image: Image) -> _CELLS:
    """Return the picture in grey, `LONG_SIDE` cells long; each is the mean of several pixels, so that noise is less."""
    height, width = image.shape[:2]
    scale = LONG_SIDE / max(height, width)
    across, down = max(8, round(width * scale)), max(8, round(height * scale))
    twice = cv2.resize(image, (2 * across, 2 * down), interpolation=cv2.INTER_LINEAR)
    grey = cv2.resize(cv2.cvtColor(twice, cv2.COLOR_BGR2GRAY), (across, down), interpolation=cv2.INTER_AREA)
    return grey.astype(np.float32)


def _in_the_light_of(cells: _CELLS, background: _CELLS) -> _CELLS:
    """Return the background as it would look in the light of the new picture."""
    gain, offset = _light(cells[::_SAMPLE, ::_SAMPLE], background[::_SAMPLE, ::_SAMPLE])
    lit: _CELLS = np.clip(gain * background + offset, 0, 255)
    # clipped, it hid how bright or dark it was: what comes out of it is no change
    hidden = ((background > _BRIGHTEST) & (cells > lit)) | ((background < _DARKEST) & (cells < lit))
    np.copyto(lit, cells, where=hidden)
    return lit


def _light(cells: _CELLS, background: _CELLS) -> tuple[float, float]:
    """Return the gain and offset between two pictures, fitted on those cells that differ least."""
    low, high = np.minimum(cells, background), np.maximum(cells, background)
    clear = (low > _DARKEST) & (high < _BRIGHTEST)
    new, old = cells[clear], background[clear]
    if new.size < _FEWEST_CELLS:
        return 1.0, 0.0
    gain, offset = 1.0, float(np.median(new - old))
    for _ in range(2):
        left = np.abs(new - (gain * old + offset))
        near = left < max(3.0, 2 * float(np.median(left)))
        some_new, some_old = new[near], old[near]
        new_mean, old_mean = float(some_new.mean()), float(some_old.mean())
        variance = float(((some_old - old_mean) ** 2).mean())
        if variance > _LEAST_VARIANCE:
            together = float(((some_old - old_mean) * (some_new - new_mean)).mean())
            gain = min(max(together / variance, 0.5), 2.0)
        offset = new_mean - gain * old_mean
    return gain, offset


def _largest_share(changed: NDArray[np.bool_]) -> float:
    if not changed.any():
        return 0.0
    closed = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, _KERNEL)
    _, _, facts, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    return float(facts[1:, cv2.CC_STAT_AREA].max()) / changed.size
