"""What happens on the thread of a reader for each image: wait for it, and look whether anything moves in it."""

import time
from collections.abc import Callable
from typing import NamedTuple, TypeGuard

import numpy as np

from healthd.cameras.motion import MotionDetector
from healthd.frames import CapturedImage, Image

LOOK_SECONDS = 0.045
"""Motion is looked for no more often than this: in each picture of a camera of 20 fps, in every second of a faster."""


class Pulled(NamedTuple):
    """What one read gave."""

    output: object
    """What the plugin delivered."""
    motion: float | None = None
    """Share of the picture that moves; None where nobody looked."""


class Puller:
    """Reads the images of one session. It belongs to the session's thread."""

    def __init__(self, read: Callable[[], object], *, detector: MotionDetector | None, by_position: bool) -> None:
        self._read = read
        self._detector = detector
        self._by_position = by_position
        self._looked_at = float("-inf")

    def pull(self) -> Pulled:
        """Wait for the next image."""
        output = self._read()
        return Pulled(output, self._motion(output))

    def _motion(self, output: object) -> float | None:
        """Return how much of the image moves, where somebody wants to know and it is an image."""
        captured = output if isinstance(output, CapturedImage) else None
        image = captured.image if captured else output
        if self._detector is None or not _is_image(image):
            return None
        at = time.monotonic()
        if self._by_position and captured is not None and captured.position_seconds is not None:
            at = captured.position_seconds
        elif at - self._looked_at < LOOK_SECONDS:
            return None
        self._looked_at = at
        return self._detector.look(image, at)


def _is_image(image: object) -> TypeGuard[Image]:
    return (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size > 0
    )
