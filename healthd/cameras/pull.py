"""What happens on the thread of a reader for each image: wait, make its pixels if they are wanted, look for motion."""

from collections.abc import Callable
from typing import NamedTuple, TypeGuard

import numpy as np

from healthd.cameras.attention import Attention
from healthd.cameras.demand import Demand
from healthd.cameras.source import TwoStepRead
from healthd.clock import Clock
from healthd.errors import BrokenPicture
from healthd.frames import CapturedImage, Image, JpegImage

LOOK_SECONDS = 0.045
"""Motion is looked for no more often than this: in each picture of a camera of 20 fps, in every second of a faster."""

_HALF_LIFE = 0.2
_EVERY_SECOND = 1.5
"""Of frames whose pixels must be made for it, every second one: who comes in is seen in the first or second."""


class Pulled(NamedTuple):
    """What one read gave."""

    at: float
    """When it returned, in seconds of the monotonic clock: what is done with the image afterwards makes it older."""
    output: object = None
    """What the plugin delivered."""
    motion: float | None = None
    """Share of the picture that moves; None where nobody looked."""
    unseen: bool = False
    """An image came that nobody wanted: there is no output."""


class Puller:
    """Reads the images of one session. It belongs to the session's thread."""

    def __init__(
        self, read: Callable[[], object], *, demand: Demand, attention: Attention, recording: bool, clock: Clock
    ) -> None:
        self._read = read
        self._demand = demand
        self._attention = attention
        self._detector = attention.detector()
        self._recording = recording
        self._clock = clock
        self._grabbed_at: float | None = None
        self._interval = 0.0
        self._looked_at = float("-inf")
        self._first = True

    def pull(self) -> Pulled:
        """Wait for the next image; make its pixels if somebody wants them."""
        read = self._read
        if not isinstance(read, TwoStepRead):
            output = read()
        elif not read.grab():
            return Pulled(self._clock.monotonic())
        elif not self._is_wanted():
            return Pulled(self._clock.monotonic(), unseen=True)
        else:
            output = read.retrieve()
        self._first = self._first and output is None
        at = self._clock.monotonic()
        return Pulled(at, output, self._motion(output))

    def _is_wanted(self) -> bool:
        """Whether anybody wants the image that was just grabbed; every one of a recording, and the first."""
        now = self._clock.monotonic()
        waited = 0.0 if self._grabbed_at is None else now - self._grabbed_at
        self._interval += _HALF_LIFE * (waited - self._interval)
        self._grabbed_at = now
        self._demand.interval = self._interval
        if self._first or self._recording or self._demand.for_viewers(now, self._interval):
            return True
        return self._demand.for_model(now, self._interval) and not self._rests(now)

    def _rests(self, now: float) -> bool:
        """Whether the model rests and motion was looked for in the frame before, or a moment ago."""
        if self._detector is None or not self._attention.idle:
            return False
        return now - self._looked_at < max(LOOK_SECONDS, _EVERY_SECOND * self._interval)

    def _motion(self, output: object) -> float | None:
        """Return how much of the image moves, where somebody wants to know and it is an image."""
        captured = output if isinstance(output, CapturedImage) else None
        image = captured.image if captured else output
        if self._detector is None or not (isinstance(image, JpegImage) or _is_image(image)):
            return None
        at = self._clock.monotonic()
        if self._recording and captured is not None and captured.position_seconds is not None:
            at = captured.position_seconds
        elif at - self._looked_at < LOOK_SECONDS:
            return None
        self._looked_at = at
        try:
            return self._detector.look(image.pixels() if isinstance(image, JpegImage) else image, at)
        except BrokenPicture:
            return None


def _is_image(image: object) -> TypeGuard[Image]:
    return (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size > 0
    )
