"""Who may use a model next: cameras first, requests in what cameras leave, and never less than their share.

Callers are threads (cameras) and coroutines (requests). Nobody holds a thread while it waits unless it is one. A camera
stands in line with one frame at most: what comes meanwhile replaces the one that waits for the model's next answer, so
a model that is too slow makes every camera slower and no line longer.
"""

import threading
import time
from bisect import insort
from collections.abc import Callable
from contextvars import ContextVar
from enum import IntEnum

REQUEST_SHARE = 1 / 16
"""The part of a model's time that requests get where cameras would take it all."""
HOLD_SECONDS = 0.003
"""So long after a camera's turn the next one is kept for a camera: its next frame is often there already."""
_HALF_LIFE = 0.2
captured: ContextVar[float | None] = ContextVar("captured", default=None)
"""When the frame that is being predicted was captured, in seconds of the monotonic clock; None: no camera's frame.

Set around the call into a plugin, whose contract is an image and nothing more."""


class Rank(IntEnum):
    """In which line a caller stands."""

    CAMERA = 0
    REQUEST = 1


class Turn:
    """One caller's place in the line of a model. Given up with `Turns.leave`, exactly once counts."""

    def __init__(self, rank: Rank, on_granted: Callable[[], object], since: float = 0.0) -> None:
        self.rank = rank
        self.since = since
        """Its place within its rank: the smallest goes first."""
        self.granted_at: float | None = None
        """Seconds of the clock; None: it waits, or has left."""
        self.left = False
        self._on_granted = on_granted
        self._event = threading.Event()

    def wait(self, timeout_seconds: float) -> bool:
        """Block until it is granted; False when that did not happen in time."""
        return self._event.wait(timeout_seconds)

    def grant(self, now: float) -> None:
        """Let the caller in."""
        self.granted_at = now
        self._event.set()
        self._on_granted()


class Turns:
    """The line in front of one model: at most `concurrency` inside. Thread-safe; lives as long as the model.

    Requests go first come, first served; cameras by the age of their frames, the oldest first. Cameras go before
    requests, and the line is kept for them a moment after each of their turns; requests that wait meanwhile earn
    `REQUEST_SHARE` of the time cameras take, and go first as soon as they have earned a turn.
    """

    def __init__(
        self,
        concurrency: int = 1,
        *,
        now: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self.concurrency = concurrency
        self._now = now
        self._later = later or _call_later
        self._lock = threading.Lock()
        self._lines: dict[Rank, list[Turn]] = {rank: [] for rank in Rank}
        self._inside: set[Turn] = set()
        self._held_until = 0.0
        self._credit = 0.0
        """Seconds that waiting requests have earned."""
        self._request_seconds = 0.0
        """What a request's turn takes, lately."""

    @property
    def waiting(self) -> int:
        """How many requests wait now."""
        return len(self._lines[Rank.REQUEST])

    @property
    def busy_since(self) -> float | None:
        """Since when the longest turn lasts, in seconds of the clock; None when nobody is inside."""
        with self._lock:
            return min((turn.granted_at for turn in self._inside if turn.granted_at is not None), default=None)

    def enter(self, rank: Rank, on_granted: Callable[[], object] = lambda: None, *, since: float | None = None) -> Turn:
        """Stand in line. `on_granted` is called when it is this caller's turn, on any thread; it must not block.

        `since`: when the caller's frame was captured, in seconds of the clock; None: now.
        """
        with self._lock:
            turn = Turn(rank, on_granted, self._now() if since is None else since)
            insort(self._lines[rank], turn, key=_place)
        self._let_in()
        return turn

    def leave(self, turn: Turn) -> None:
        """Leave the line, or end the turn; does nothing the second time."""
        with self._lock:
            if turn.left:
                return
            turn.left = True
            if turn in self._inside:
                self._inside.discard(turn)
                self._settle(turn)
            else:
                self._lines[turn.rank].remove(turn)
        self._let_in()

    def _settle(self, turn: Turn) -> None:
        """Account for a turn that has ended."""
        now = self._now()
        seconds = now - (turn.granted_at if turn.granted_at is not None else now)
        if turn.rank is Rank.CAMERA:
            self._held_until = now + HOLD_SECONDS
            if self._lines[Rank.REQUEST]:
                self._credit += seconds * REQUEST_SHARE / (1 - REQUEST_SHARE)
        else:
            self._credit = max(0.0, self._credit - seconds)
            old = self._request_seconds or seconds
            self._request_seconds = old + _HALF_LIFE * (seconds - old)

    def _let_in(self) -> None:
        granted: list[Turn] = []
        hold = 0.0
        with self._lock:
            now = self._now()
            while len(self._inside) < self.concurrency:
                line = self._next_line(now)
                if line is None:
                    if self._lines[Rank.REQUEST]:
                        hold = self._held_until - now
                    break
                turn = line.pop(0)
                turn.granted_at = now
                self._inside.add(turn)
                granted.append(turn)
            if not self._lines[Rank.REQUEST]:
                self._credit = 0.0  # nobody waits: nothing is saved up for a burst
        for turn in granted:
            turn.grant(now)
        if hold > 0:
            self._later(hold, self._let_in)

    def _next_line(self, now: float) -> list[Turn] | None:
        """Return the line whose first goes next; None when nobody waits, or the place is kept for a camera."""
        cameras, requests = self._lines[Rank.CAMERA], self._lines[Rank.REQUEST]
        if requests and self._credit > 0 and self._credit >= self._request_seconds:
            return requests
        if cameras:
            return cameras
        if requests and now >= self._held_until:
            return requests
        return None


def _place(turn: Turn) -> float:
    return turn.since


def _call_later(seconds: float, function: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()
