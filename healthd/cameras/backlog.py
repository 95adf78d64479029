"""Is an image live, or is it backlog? Pure logic: the caller passes in when each image came.

A camera that was just opened, or whose network was away for a moment, first delivers what piled up meanwhile. Shown as
live, that would be a lie. Nothing tells how old an image is; what can be known is how its age *changes*: where the time
at which images arrive and the time at which they were made run apart, the images grow older, and where they converge a
backlog is being worked off.

*offset* = arrival - position, where position is the time on the stream's own clock. It is the camera's clock
difference plus the image's age, so the smallest offset seen belongs to the freshest image, and every other image is
older than that one by the difference: its *lateness*.
"""

from collections import deque

from healthd.errors import CameraError

SETTLE_SECONDS = 0.4
"""A session is live once its offset has not fallen for so long. A fast backlog lets it fall at each image."""

FALL_SECONDS = 0.04
"""What counts as falling: with the settle time, everything that comes more than a tenth faster than it was made."""

LATE_SECONDS = 0.6
"""Later than this is old. With what the baseline may be wrong, it keeps what is published under a second."""

CAUGHT_UP_SECONDS = 0.1
"""A session becomes live with an image no later than this; what comes before is still backlog."""

_PATIENCE_SECONDS = 2.0
"""An image that stays late for so long, without catching up, belongs to a session that will not catch up."""

_LONGEST_CATCH_UP_SECONDS = 30.0
_LONGEST_SETTLE_SECONDS = 2.0
_FELL_WHILE_LIVE_SECONDS = 0.25
_MARK_SECONDS = 30.0
_DRIFT = 0.005
"""The camera's clock may run so much slower than ours: cheap ones stamp 25 images a second and make 24.9."""

_SHORTEST_GAP_SECONDS = 0.5
_IMAGES_WITHOUT_CLOCK = 10
"""So many images with the same time: the stream has no clock."""

_MADE_UP_PACE = 0.6
"""Without a clock only what comes much faster than usual is a backlog: the pace is known but roughly."""


def _mean(values: deque[float]) -> float:
    return sum(values) / len(values) if values else 0.0


class _Pace:
    """How long an image takes to come, from the last ones."""

    def __init__(self) -> None:
        self._usual: deque[float] = deque(maxlen=16)
        self._all: deque[float] = deque(maxlen=16)

    @property
    def usual_seconds(self) -> float:
        """The mean, without gaps."""
        return _mean(self._usual)

    @property
    def gap_seconds(self) -> float:
        """Longer than this is no pace but a gap, until it has happened a few times."""
        return max(_SHORTEST_GAP_SECONDS, 3 * _mean(self._all))

    def note(self, interval: float) -> None:
        if interval <= self.gap_seconds:
            self._usual.append(interval)
        self._all.append(min(interval, self.gap_seconds))


class BacklogGate:
    """Decides for each image of one session whether it is live. Lives as long as the session.

    `clocked`: the stream has a clock of its own (RTSP). Without one (HTTP), what came late cannot be told; then the
    first image after a gap is old, and so is what follows it faster than the camera's usual pace.
    """

    def __init__(self, *, clocked: bool) -> None:
        self._clocked = clocked
        self._pace = _Pace()
        self._settling = True
        self._settle_seconds = SETTLE_SECONDS
        self._last_arrival: float | None = None
        self._last_position: float | None = None
        self._unmoved = 0
        self._base = self._mark = 0.0
        self._marked_at = self._began_at = 0.0
        self._edge_known = False
        self._late: tuple[float, float] | None = None

    def admits(self, now: float, position: float | None = None) -> bool:
        """Tell whether the image that arrived `now` is live. Call it for every image, in order.

        `now` is in seconds of the monotonic clock, `position` in seconds of the stream's own clock.

        Raises:
            CameraError: the session lags and does not catch up: it must be opened again to be live.
        """
        waited = 0.0 if self._last_arrival is None else now - self._last_arrival
        stream_time, unbroken = self._stream_time(position, waited)
        offset = now - stream_time
        if self._last_arrival is None or not unbroken:
            self._begin(now, offset)
        elif self._settling:
            self._settle(now, offset)
        self._last_arrival, self._last_position = now, stream_time
        live = not self._settling and (not self._clocked or self._in_time(now, offset, waited))
        if live and waited:
            self._pace.note(waited)
        return live

    def _stream_time(self, position: float | None, waited: float) -> tuple[float, bool]:
        """Return the image's time on the stream's clock, and whether it goes on from the image before."""
        last = self._last_position
        if self._clocked and position is not None:
            self._unmoved = self._unmoved + 1 if position == last else 0
            self._clocked = self._unmoved < _IMAGES_WITHOUT_CLOCK
            return position, self._clocked and (last is None or position >= last)
        made_up = (last or 0.0) + _MADE_UP_PACE * self._pace.usual_seconds
        if self._settling or waited <= self._pace.gap_seconds:
            return made_up, True
        self._pace.note(waited)
        return made_up, False

    def _begin(self, now: float, offset: float) -> None:
        """Catch up from here; where real time is will show."""
        self._catch_up(now, offset, edge_known=False)
        self._base = offset
        self._late = None

    def _catch_up(self, now: float, offset: float, *, edge_known: bool) -> None:
        self._settling, self._edge_known = True, edge_known
        self._mark = offset
        self._began_at = self._marked_at = now

    def _settle(self, now: float, offset: float) -> None:
        """Become live once the offset has stopped falling, or is again where it was before."""
        self._base = min(self._base, offset)
        if offset < self._mark - FALL_SECONDS:
            self._mark, self._marked_at = offset, now
        lateness = offset - self._base if self._clocked else 0.0
        if lateness > CAUGHT_UP_SECONDS:
            self._expect_progress(now, lateness)
            return
        self._late = None
        if self._edge_known or now - self._marked_at >= self._settle_seconds:
            self._settling = False
            self._mark, self._marked_at = self._base, now
        elif now - self._began_at >= _LONGEST_CATCH_UP_SECONDS:
            if self._clocked:
                raise CameraError(f"the stream has not caught up with real time within {_LONGEST_CATCH_UP_SECONDS:g} s")
            self._settling = False

    def _in_time(self, now: float, offset: float, waited: float) -> bool:
        """Tell whether an image of a live session with a clock is in time, and keep the baseline."""
        self._base = min(self._base + _DRIFT * waited, offset)
        if offset < self._mark - _FELL_WHILE_LIVE_SECONDS:  # it was not live after all, or its clock has jumped
            self._settle_seconds = min(2 * self._settle_seconds, _LONGEST_SETTLE_SECONDS)
            self._begin(now, offset)
            return False
        if now - self._marked_at >= _MARK_SECONDS:
            self._mark, self._marked_at = self._base, now
        lateness = offset - self._base
        if lateness > LATE_SECONDS:
            self._expect_progress(now, lateness)
            self._catch_up(now, offset, edge_known=True)
            return False
        self._late = None
        return True

    def _expect_progress(self, now: float, lateness: float) -> None:
        """Give up a session that has been late for a while and has not gained much on real time since."""
        since, then = self._late = self._late or (now, lateness)
        if now - since < _PATIENCE_SECONDS:
            return
        if lateness > then - _PATIENCE_SECONDS / 4:
            raise CameraError(f"the stream lags {lateness:.1f} s behind and does not catch up")
        self._late = (now, lateness)
