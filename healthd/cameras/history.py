"""How each camera did in the last minutes: a point every few seconds, for those who look now. Knows no HTTP."""

import asyncio
import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import structlog

from healthd.cameras.runner import CameraRunner
from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.process import process_usage

log = structlog.get_logger(__name__)
INTERVAL_SECONDS = 5.0
POINTS = 60
"""Five minutes."""


@dataclass(frozen=True, slots=True)
class Point:
    """One camera at one moment, and what happened to it since the point before."""

    point_id: int
    """Grows by one with every point; the same for all cameras."""
    at: datetime
    state: str
    fps: float
    predicted_fps: float
    predict_ms: float | None
    """Mean of the predictions since the point before; None where there was none."""
    frame_age_ms: float | None
    """None without a frame."""
    dropped: dict[str, int]
    """Frames dropped since the point before, by reason; reasons without any are left out."""


@dataclass(slots=True)
class _Before:
    predicted: int
    predict_seconds: float
    dropped: dict[str, int]


class History:
    """The last `POINTS` points of every camera, and how busy the process was. Event loop only.

    Everything is read from what the cameras count anyway: a point of a camera costs some microseconds.
    """

    def __init__(self, runners: Iterable[CameraRunner], *, clock: Clock = SYSTEM_CLOCK) -> None:
        """`runners`: looked through at every point; cameras come and go."""
        self._runners = runners
        self._clock = clock
        self._ids = itertools.count(1)
        self._points: dict[CameraRunner, deque[Point]] = {}
        self._before: dict[CameraRunner, _Before] = {}
        self._notice_changes()
        self._cpu_seconds, self._looked_at = process_usage().cpu_seconds, clock.monotonic()
        self.cpu_share: float | None = None
        """CPU time over time since the point before last: 1 is one core. None before the first point."""

    def _notice_changes(self) -> None:
        """Begin with cameras that were added, forget those that were removed."""
        runners = tuple(self._runners)
        self._points = {runner: self._points.get(runner) or deque(maxlen=POINTS) for runner in runners}
        self._before = {runner: self._before.get(runner) or _counts(runner) for runner in runners}

    def points(self, camera: str, *, after: int = 0) -> list[Point]:
        """Return the points of a camera behind the id `after`, the oldest first."""
        return [
            point
            for runner, points in self._points.items()
            if runner.name == camera
            for point in points
            if point.point_id > after
        ]

    def sample(self) -> None:
        """Add a point for every camera."""
        point_id, now = next(self._ids), self._clock.now()
        self._notice_changes()
        for runner, points in self._points.items():
            before, after = self._before[runner], _counts(runner)
            self._before[runner] = after
            points.append(_point(runner, before, after, point_id=point_id, at=now))
        cpu_seconds, moment = process_usage().cpu_seconds, self._clock.monotonic()
        if moment > self._looked_at:
            self.cpu_share = (cpu_seconds - self._cpu_seconds) / (moment - self._looked_at)
        self._cpu_seconds, self._looked_at = cpu_seconds, moment

    async def keep(self) -> None:
        """Add points until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                self.sample()
            except Exception:
                log.exception("history_bug")


def _counts(runner: CameraRunner) -> _Before:
    counts = runner.counts
    return _Before(counts.predicted, counts.predict_seconds, dict(counts.dropped))


def _point(runner: CameraRunner, before: _Before, after: _Before, *, point_id: int, at: datetime) -> Point:
    predictions, age = after.predicted - before.predicted, runner.frame_age_seconds
    seconds = after.predict_seconds - before.predict_seconds
    dropped = {reason: number - before.dropped.get(reason, 0) for reason, number in after.dropped.items()}
    return Point(
        point_id=point_id,
        at=at,
        state=runner.health.state.value,
        fps=round(runner.fps, 2),
        predicted_fps=round(runner.predicted_fps, 2),
        predict_ms=round(seconds / predictions * 1000, 2) if predictions > 0 else None,
        frame_age_ms=round(age * 1000, 1) if age is not None else None,
        dropped={reason: number for reason, number in dropped.items() if number > 0},
    )
