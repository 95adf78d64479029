"""Restart intensity: a task of a camera that crashes again and again is given up, for a while or for good.

What counts is a crash: an error that nobody sorted (a bug), or a session that delivered and failed all the same within
seconds. A camera that cannot be opened, delivers nothing, is lost after a while or falls silent is tried again as ever,
with growing pauses: that is how cameras are that are off for the night.
"""

from collections import deque
from dataclasses import dataclass

import structlog

from healthd.cameras.control import Task
from healthd.clock import Clock
from healthd.errors import BusyError, HealthdError, ModelLost, SettingsError, StalledError
from healthd.settings import CameraSettings
from healthd.worker import WorkerTimeout

log = structlog.get_logger(__name__)
AT_ONCE_SECONDS = 3.0
"""A session that has delivered, and fails so soon after it was opened, has crashed."""
TASKS: tuple[Task, ...] = ("reader", "predictor")


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A task that crashed too often."""

    crashes: int
    within_seconds: float
    since: float
    """Seconds of the monotonic clock."""


class Intensity:
    """Counts the crashes of one camera. Event loop only; lives as long as its runner."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._crashes: dict[Task, deque[float]] = {task: deque(maxlen=1000) for task in TASKS}
        self._given_up: dict[Task, GivenUp] = {}
        self.total: dict[Task, int] = dict.fromkeys(TASKS, 0)
        """How often each task was given up."""

    def crashed(self, task: Task, exc: Exception, *, good_seconds: float | None, settings: CameraSettings) -> bool:
        """Count a failed session if it was a crash; return whether the task is to be given up.

        `good_seconds`: for how long it had been open, or had its model; None: nothing came of it.
        """
        if settings.max_crashes == 0 or not is_crash(exc, good_seconds=good_seconds, settings=settings):
            return False
        now, crashes = self._clock.monotonic(), self._crashes[task]
        crashes.append(now)
        while now - crashes[0] > settings.crash_window_seconds:
            crashes.popleft()
        if len(crashes) < settings.max_crashes:
            return False
        self._given_up[task] = GivenUp(len(crashes), now - crashes[0], now)
        self.total[task] += 1
        crashes.clear()
        return True

    def left(self, task: Task, settings: CameraSettings) -> float | None:
        """Return in how many seconds a task that was given up is tried again; None: it is not, or not given up."""
        given_up = self._given_up.get(task)
        if given_up is None or settings.crash_cooldown_seconds == 0:
            return None
        return max(0.0, given_up.since + settings.crash_cooldown_seconds - self._clock.monotonic())

    def has_given_up(self, task: Task) -> bool:
        """Whether the task rests, because it crashed too often."""
        return task in self._given_up

    def reason(self, task: Task, last: str, settings: CameraSettings) -> str:
        """Say why the task was given up, and how it comes back."""
        given_up = self._given_up[task]
        what = "the camera" if task == "reader" else "its model"
        again = f"it is tried again after {settings.crash_cooldown_seconds:g} s, or at once"
        if settings.crash_cooldown_seconds == 0:
            again = "it is tried again"
        within = max(1.0, given_up.within_seconds)
        return (
            f"{what} crashed {given_up.crashes} times within {within:.0f} s (last: {last}); {again} "
            "when somebody restarts the camera or changes its configuration"
        )

    def forget(self, task: Task | None = None) -> None:
        """Begin anew: what crashed before does not count any more."""
        for one in TASKS if task is None else (task,):
            self._given_up.pop(one, None)
            self._crashes[one].clear()


def is_crash(exc: Exception, *, good_seconds: float | None, settings: CameraSettings) -> bool:
    """Whether a session that failed with this has crashed.

    Silence is no crash (a read that gives up says so a little before the stall timeout), of a model neither, nor is one
    without room, nor one that others broke, nor a wrong setting, which has its own way.
    """
    if not isinstance(exc, HealthdError):
        return True
    if isinstance(exc, SettingsError | BusyError | ModelLost | StalledError | WorkerTimeout):
        return False
    if exc.crash:
        return True
    limit = min(AT_ONCE_SECONDS, settings.stall_timeout_seconds / 2)
    return good_seconds is not None and good_seconds < limit
