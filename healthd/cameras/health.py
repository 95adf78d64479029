"""The health of one camera: its state with a reason, its rates, and whether its picture still changes."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import cv2
import numpy as np

from healthd.clock import Clock
from healthd.frames import Image, JpegImage


class State(StrEnum):
    """What a camera is doing, as people see it."""

    STARTING = "starting"
    LIVE = "live"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
    FROZEN = "frozen"
    ENDED = "ended"
    FAILED = "failed"
    PAUSED = "paused"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Health:
    """A state, since when, and why in words for people."""

    state: State
    since: datetime
    reason: str | None = None

    @property
    def connected(self) -> bool:
        """Whether frames are coming: derived from frames, not from an open socket."""
        return self.state in {State.LIVE, State.FROZEN}


class RateWindow:
    """Events per second over a window that ends now, so that the rate decays to 0 when events stop."""

    def __init__(self, clock: Clock, *, window_seconds: float = 5.0) -> None:
        self._clock = clock
        self._window = window_seconds
        self._times: deque[float] = deque(maxlen=10_000)

    def add(self) -> None:
        """One event happened now."""
        self._times.append(self._clock.monotonic())

    def clear(self) -> None:
        """Forget what was: the next rate starts from nothing."""
        self._times.clear()

    def rate(self) -> float:
        """Return events per second: intervals seen, over the time from the oldest event in the window to now."""
        now = self._clock.monotonic()
        while self._times and self._times[0] < now - self._window:
            self._times.popleft()
        if len(self._times) < 2:
            return 0.0
        # An interval that is still open counts only once it is longer than the ones before it.
        closed = self._times[-1] - self._times[0]
        mean = closed / (len(self._times) - 1)
        span = closed + max(0.0, now - self._times[-1] - mean)
        return (len(self._times) - 1) / span if span > 0 else 0.0


class FreezeDetector:
    """Tells for how long the picture has not changed.

    Compares an area-averaged thumbnail, byte for byte, at most `checks_per_second` times a second: sensor noise moves
    at least one of its 2304 cells within seconds, a picture that a camera or an encoder repeats moves none. Of a camera
    that sends JPEGs their bytes are compared, and nothing is decoded for it.
    """

    THUMBNAIL = (64, 36)

    def __init__(self, clock: Clock, *, after_seconds: float, checks_per_second: float = 4.0) -> None:
        self._clock = clock
        self._after = after_seconds
        self._interval = 1.0 / checks_per_second
        self._look: bytes | None = None
        self._changed = 0.0
        self._checked = float("-inf")

    def reset(self) -> None:
        """Begin anew, as with a new session."""
        self._look = None
        self._checked = float("-inf")

    def frozen_seconds(self, image: Image | JpegImage) -> float | None:
        """Look at a new image; return for how long the picture has been the same once that is too long, else None."""
        now = self._clock.monotonic()
        if self._after <= 0:
            return None
        if now - self._checked >= self._interval:
            self._checked = now
            look = image.fingerprint if isinstance(image, JpegImage) else _thumbnail(image, self.THUMBNAIL)
            if look != self._look:
                self._look, self._changed = look, now
        same = now - self._changed
        return same if same >= self._after else None


def _thumbnail(image: Image, size: tuple[int, int]) -> bytes:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)).tobytes()


class HealthRecord:
    """The state of one camera as it changes; tells its listener of every change. Event loop only."""

    def __init__(self, clock: Clock, on_change: Callable[[Health, Health], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self.current = Health(State.STARTING, clock.now())

    def set(self, state: State, reason: str | None = None) -> None:
        """Enter a state; the same state with another reason keeps its `since`."""
        before = self.current
        if (before.state, before.reason) == (state, reason):
            return
        since = before.since if before.state is state else self._clock.now()
        self.current = Health(state, since, reason)
        self._on_change(before, self.current)
