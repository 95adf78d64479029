"""Restart intensity of models: one that pictures that were sent break or hang again and again is not asked any more.

Cameras have a limit of their own (`healthd.cameras.intensity`); nothing here is charged to them.
"""

import math
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

import structlog

from healthd.clock import Clock
from healthd.errors import BusyError

if TYPE_CHECKING:
    from healthd.models.shared import SharedModel

log = structlog.get_logger(__name__)
MOST_CRASHES = 10
WINDOW_SECONDS = 600.0
COOLDOWN_SECONDS = 600.0
"""As a camera has them, if nobody configures it."""
_Name = tuple[str, str]


class Crashes:
    """Counts how often pictures that were sent ended each model. Thread-safe; lives as long as the inference."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: weakref.WeakSet[SharedModel] = weakref.WeakSet()
        """Several may have been in one: it broke once."""
        self._crashes: dict[_Name, deque[float]] = {}
        self._resting: dict[_Name, tuple[float, str]] = {}

    def note(self, shared: "SharedModel", name: _Name, shown: str, last: str) -> None:
        """Count the end of a model's process, told by somebody whose picture was in it."""
        now = self._clock.monotonic()
        with self._lock:
            if shared in self._counted:
                return
            self._counted.add(shared)
            crashes = self._crashes.setdefault(name, deque())
            crashes.append(now)
            while now - crashes[0] > WINDOW_SECONDS:
                crashes.popleft()
            if len(crashes) < MOST_CRASHES:
                return
            del self._crashes[name]
            within = max(1.0, now - crashes[0])
            often = f"{shown} crashed or hung {len(crashes)} times within {within:.0f} s"
            reason = f"{often} (last: {last}); requests for it rest"
            self._resting[name] = now + COOLDOWN_SECONDS, reason
        log.error("model_crash_loop", model=shown, reason=reason, cooldown_seconds=COOLDOWN_SECONDS)

    def check(self, name: _Name) -> None:
        """Let a request go on.

        Raises:
            BusyError: requests broke the model too often; with the seconds until it is tried again.
        """
        with self._lock:
            if name not in self._resting:
                return
            until, reason = self._resting[name]
            left = until - self._clock.monotonic()
            if left > 0:
                raise BusyError(
                    f"{reason} for {left:.0f} s, or until somebody loads it", retry_after_seconds=math.ceil(left)
                )
            del self._resting[name]

    def forget(self, name: _Name) -> None:
        """Begin anew: somebody wants it all the same."""
        with self._lock:
            self._crashes.pop(name, None)
            self._resting.pop(name, None)
