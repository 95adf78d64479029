"""Who may use a model next: cameras first, requests in what cameras leave, and never less than their share.

Callers are threads (cameras) and coroutines (requests). Nobody holds a thread while it waits unless it is one. A camera
stands in line with one frame at most: what comes meanwhile replaces the one that waits for the model's next answer, so
a model that is too slow makes every camera slower and no line longer.

Where a model takes several images at a time, those who wait go in together: one of them leads and computes for all.
"""

import math
import threading
import time
from bisect import insort
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from enum import IntEnum
from typing import Any

from healthd.models.rhythm import Rhythm

REQUEST_SHARE = 1 / 16
"""The part of a model's time that requests get where cameras would take it all."""
HOLD_SECONDS = 0.003
"""So long after a camera's turn the next one is kept for a camera: its next frame is often there already."""
_HALF_LIFE = 0.2
GRACE_SECONDS = 0.25
"""So much later than a model should give up by itself, the thread that called it is given up."""
captured: ContextVar[float | None] = ContextVar("captured", default=None)
"""When the frame that is being predicted was captured, in seconds of the monotonic clock; None: no camera's frame.

Set around the call into a plugin, whose contract is an image and nothing more."""
patience: ContextVar[float] = ContextVar("patience", default=math.inf)
"""How many seconds the caller waits for a turn and its prediction; a model may be used by more patient ones too."""
allowed: ContextVar[float] = ContextVar("allowed", default=10.0)
"""How many seconds the prediction that begins now may take, before it is said to hang."""
sent_in: ContextVar[bool] = ContextVar("sent_in", default=False)
"""Whether a picture that somebody sent is in what is predicted now: if the model breaks, that is no camera's doing."""
LEAD: Any = object()
"""The answer to one who was led and now leads, because the one who did has left before it began."""


class Rank(IntEnum):
    """In which line a caller stands."""

    CAMERA = 0
    REQUEST = 1


class Turn:
    """One caller's place in the line of a model. Given up with `Turns.leave`, exactly once counts."""

    def __init__(
        self,
        rank: Rank,
        on_granted: Callable[[], object],
        since: float = 0.0,
        *,
        who: Hashable | None = None,
        ask: Any = None,
    ) -> None:
        self.rank = rank
        self.since = since
        """Its place within its rank: the smallest goes first."""
        self.who = who
        """The same for all turns of one camera."""
        self.ask = ask
        """What it wants, for the one who computes it; nothing is known of it here."""
        self.granted_at: float | None = None
        """Seconds of the clock; None: it waits, or has left."""
        self.left = False
        self.led: tuple[Turn, ...] = ()
        """Those who go in with it, for whom it computes too."""
        self.begun = False
        self.answer: Future[Any] | None = None
        """Where its answer will be, if another leads it."""
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

    With a `batch_size` above 1 a turn is one of up to so many who go in together. Its places are given by the same
    rules: each takes its part of the time, and requests join cameras for what they have earned. A batch that is not
    full waits `window_seconds` at most, and only while a camera is due that is not here.
    """

    def __init__(
        self,
        concurrency: int = 1,
        *,
        batch_size: int = 1,
        window_seconds: float = 0.0,
        now: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self.concurrency = concurrency
        self.batch_size = batch_size
        self.window_seconds = window_seconds
        self._now = now
        self._later = later or _call_later
        self._lock = threading.Lock()
        self._lines: dict[Rank, list[Turn]] = {rank: [] for rank in Rank}
        self._inside: set[Turn] = set()
        self._rhythm = Rhythm()
        self._held_until = 0.0
        self._gather_until: float | None = None
        """How long the batch that could go in now waits for more; None: none does."""
        self._wake_at: float | None = None
        self._credit = 0.0
        """Seconds that waiting requests have earned."""
        self._request_seconds = 0.0
        """What a request's turn takes, lately."""

    @property
    def places(self) -> int:
        """How many may be inside at a time."""
        return self.concurrency * self.batch_size

    @property
    def waiting(self) -> int:
        """How many requests wait now."""
        return len(self._lines[Rank.REQUEST])

    @property
    def busy_since(self) -> float | None:
        """Since when the longest turn lasts, in seconds of the clock; None when nobody is inside."""
        with self._lock:
            return min((turn.granted_at for turn in self._inside if turn.granted_at is not None), default=None)

    def enter(
        self,
        rank: Rank,
        on_granted: Callable[[], object] = lambda: None,
        *,
        since: float | None = None,
        who: Hashable | None = None,
        ask: Any = None,
    ) -> Turn:
        """Stand in line. `on_granted` is called when it is this caller's turn, on any thread; it must not block.

        `since`: when the caller's frame was captured, in seconds of the clock; None: now.
        """
        with self._lock:
            now = self._now()
            turn = Turn(rank, on_granted, now if since is None else since, who=who, ask=ask)
            insort(self._lines[rank], turn, key=_place)
            if who is not None and self.batch_size > 1:
                self._rhythm.came(who, now)
        self._let_in()
        return turn

    def begin(self, turn: Turn) -> tuple[Turn, ...]:
        """Say that what the turn is for begins; return those who are led and still want their answer."""
        with self._lock:
            turn.begun = True
            return tuple(one for one in turn.led if not one.left)

    def leave(self, turn: Turn) -> None:
        """Leave the line, or end the turn; does nothing the second time.

        Who leaves before it has begun makes one of those it leads lead the others.
        """
        heir: Turn | None = None
        with self._lock:
            if turn.left:
                return
            turn.left = True
            self._note_gone(turn)
            if turn in self._inside:
                self._inside.discard(turn)
                heir = self._heir(turn)
                if heir is None:
                    self._settle(turn)
            elif turn.granted_at is None:
                self._lines[turn.rank].remove(turn)
        if heir is not None and heir.answer is not None:
            heir.answer.set_result(LEAD)
        self._let_in()

    def _note_gone(self, turn: Turn) -> None:
        """Remember who may come back soon; those who were led have their answer when the one who led them leaves."""
        if self.batch_size > 1:
            now = self._now()
            for one in (turn, *(one for one in turn.led if turn.begun and not one.left)):
                if one.who is not None:
                    self._rhythm.went(one.who, now)

    def _heir(self, turn: Turn) -> Turn | None:
        waiting = [] if turn.begun else [one for one in turn.led if not one.left]
        if not waiting:
            return None
        heir, *rest = waiting
        heir.led = tuple(rest)
        self._inside.add(heir)
        return heir

    def _settle(self, turn: Turn) -> None:
        """Account for a turn that has ended: each who went in has taken its part of the time."""
        now = self._now()
        places = 1 + len(turn.led)
        seconds = (now - (turn.granted_at if turn.granted_at is not None else now)) / places
        requests = sum(one.rank is Rank.REQUEST for one in (turn, *turn.led))
        if requests < places:
            self._held_until = now + HOLD_SECONDS
            if self._lines[Rank.REQUEST]:
                self._credit += (places - requests) * seconds * REQUEST_SHARE / (1 - REQUEST_SHARE)
        if requests:
            self._credit = max(0.0, self._credit - requests * seconds)
            old = self._request_seconds or seconds
            self._request_seconds = old + _HALF_LIFE * (seconds - old)

    def _wake(self) -> None:
        with self._lock:
            self._wake_at = None
        self._let_in()

    def _let_in(self) -> None:
        granted: list[Turn] = []
        hold = 0.0
        with self._lock:
            now = self._now()
            while len(self._inside) < self.concurrency:
                batch = self._next_batch(now)
                if not batch:
                    hold = self._hold(now)
                    break
                granted += self._admit(batch, now)
            if not self._lines[Rank.REQUEST]:
                self._credit = 0.0  # nobody waits: nothing is saved up for a burst
        for turn in granted:
            turn.grant(now)
        if hold > 0:
            self._look_again(hold)

    def _look_again(self, seconds: float) -> None:
        try:
            self._later(seconds, self._wake)
        except RuntimeError:  # no thread is left: who waits goes in now, rather than never
            with self._lock:
                self._wake_at, self._held_until, self._gather_until = None, 0.0, 0.0
            self._let_in()

    def _admit(self, batch: Sequence[Turn], now: float) -> list[Turn]:
        """Let these in. A camera leads where there is one: its thread is there, a request's must be fetched."""
        leader = next((turn for turn in batch if turn.rank is Rank.CAMERA), batch[0])
        leader.led = tuple(turn for turn in batch if turn is not leader)
        self._inside.add(leader)
        self._gather_until = None
        for turn in batch:
            self._lines[turn.rank].remove(turn)
            turn.granted_at = now
        for turn in leader.led:
            turn.answer = Future()
        return [leader, *leader.led]

    def _hold(self, now: float) -> float:
        """Return the seconds after which to look again; 0: when somebody comes or leaves, or when it is due anyway."""
        until = self._gather_until
        if until is None and self._lines[Rank.REQUEST]:
            until = self._held_until
        if until is None or until <= now or (self._wake_at is not None and self._wake_at <= until):
            return 0.0
        self._wake_at = until
        return until - now

    def _next_batch(self, now: float) -> list[Turn]:
        """Return those who go in next; none when nobody waits, or the place is kept for a camera."""
        cameras, requests = self._lines[Rank.CAMERA], self._lines[Rank.REQUEST]
        if not cameras:
            self._gather_until = None  # those who could have gone in have left
            if now >= self._held_until:
                return requests[: self.batch_size]
        batch = requests[: min(self._earned(), self.batch_size)]
        batch += cameras[: self.batch_size - len(batch)]
        return [] if cameras and self._grows(batch, now) else batch

    def _earned(self) -> int:
        """Return for how many requests the credit is enough."""
        if self._credit <= 0 or self._credit < self._request_seconds:
            return 0
        return int(self._credit / self._request_seconds) if self._request_seconds else 1

    def _grows(self, batch: Sequence[Turn], now: float) -> bool:
        """Whether a batch that could go in should wait a moment longer for a camera that is due."""
        if len(batch) >= self.batch_size or self.window_seconds <= 0:
            return False
        if not self._rhythm.awaits(now, self.window_seconds):
            return False
        if self._gather_until is None:
            self._gather_until = now + self.window_seconds
        return now < self._gather_until


def _place(turn: Turn) -> float:
    return turn.since


def _call_later(seconds: float, function: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()
