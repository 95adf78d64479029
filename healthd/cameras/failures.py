"""What went wrong with one camera: counted, kept for people, logged when it begins and not at every attempt."""

from collections import deque

import structlog

from healthd.cameras.control import Task
from healthd.cameras.records import LoggedError
from healthd.clock import Clock
from healthd.errors import CameraError, HealthdError, ModelError, SettingsError
from healthd.redact import SCRUBBER
from healthd.worker import WorkerTimeout

log = structlog.get_logger(__name__)
REMEMBERED = 20
LONGEST_REASON, LONGEST_RAW = 500, 20_000
"""Characters that people see of a reason, and that are looked at for secrets."""


class Failures:
    """The failures of one camera since the process began. Event loop only."""

    def __init__(self, clock: Clock) -> None:
        self.errors: deque[LoggedError] = deque(maxlen=REMEMBERED)
        self.sessions = {"reader": 0, "predictor": 0}
        """Failed sessions, by task."""
        self.bugs = {"reader": 0, "predictor": 0}
        """Those of them that no plugin had sorted."""
        self._clock = clock
        self._told: dict[Task, set[str]] = {"reader": set(), "predictor": set()}
        """Reasons that were logged since the task last worked: a camera may have two by turns."""

    def note(self, task: Task, exc: Exception, *, attempts: int) -> str:
        """Count and log a failed session, the `attempts`-th in a row; return the reason for people."""
        reason = reason_of(exc)
        told = self._told[task]
        if attempts == 0 or len(told) >= REMEMBERED:
            told.clear()
        repeated = reason in told
        told.add(reason)
        self.sessions[task] += 1
        self.errors.append(LoggedError(self._clock.now(), task, reason))
        if not isinstance(exc, HealthdError):  # a bug of the plugin, or ours
            self.bugs[task] += 1
            log.error("session_bug", task=task, reason=reason, exc_info=None if repeated else exc)
        elif repeated:
            log.debug("session_failed_again", task=task, reason=reason)
        else:
            log.warning("session_failed", task=task, reason=reason, error=type(exc).__name__)
        return reason


def reason_of(exc: Exception) -> str:
    """Say what happened for people: our own errors in their words, others with their type; never a secret."""
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001  an error of a plugin that cannot even say what it is
        text = "its message cannot be read"
    if not isinstance(exc, (CameraError, ModelError, SettingsError, WorkerTimeout)):
        text = f"{type(exc).__name__}: {text}" if text else type(exc).__name__
    told = SCRUBBER.scrub(text[:LONGEST_RAW] or type(exc).__name__)
    return told if len(told) <= LONGEST_REASON else told[: LONGEST_REASON - 3] + "..."
