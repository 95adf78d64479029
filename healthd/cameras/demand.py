"""Who wants the pixels of the next frame: a viewer, the model, or nobody."""

import math

from healthd.clock import Clock

VIEWER_SECONDS = 3.0
"""Who has asked for a picture within this still looks: pages poll once a second or two."""
GLANCE_SECONDS = 1.0
"""At least so often a frame is looked at, wanted or not: is the picture frozen, and of what size?"""
SLOWEST_SECONDS = 0.5
"""A camera with longer between its frames delivers each of them: there is nothing to save, and much to wait for."""


class Demand:
    """What is wanted of one camera. Written on the event loop, read on the reader's thread; lives with its runner."""

    def __init__(self, clock: Clock, *, frozen_after_seconds: float) -> None:
        self._clock = clock
        self._glance_seconds = min(GLANCE_SECONDS, frozen_after_seconds / 10 or GLANCE_SECONDS)
        self._asked_at = -math.inf
        self.glanced_at = -math.inf
        """When the last frame was published, in seconds of the monotonic clock."""
        self.predict_from = math.inf
        """From when on the model wants a frame; infinite: it wants none."""
        self.interval = 0.0
        """Seconds between two frames, of a camera that makes only those that are wanted; 0: not known."""

    def asked(self) -> None:
        """Somebody asked for a picture."""
        self._asked_at = self._clock.monotonic()

    def for_viewers(self, now: float, interval: float) -> bool:
        """Whether a frame that comes `now`, `interval` seconds after the one before, is wanted to be shown."""
        watched = now - self._asked_at < VIEWER_SECONDS
        return watched or interval > SLOWEST_SECONDS or now - self.glanced_at >= self._glance_seconds

    def for_model(self, now: float, interval: float) -> bool:
        """Whether a frame that comes `now` is the one nearest to when the model wants one, or a later one."""
        return now >= self.predict_from - interval / 2
