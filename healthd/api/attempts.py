"""Wrong keys: how many a client may try, and all clients together. Knows no key; event loop only.

A client that has shown a right key before goes on with that key, however many wrong ones come from its address: behind
one reverse proxy, a bad neighbour does not lock out the wall.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import structlog

from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.metrics import Sample

log = structlog.get_logger(__name__)

BURST, SECONDS_EACH = 10, 6.0
"""A client may be wrong so often at once, and once more after so many seconds."""
ALL_BURST, ALL_SECONDS_EACH = 200, 0.2
"""The same of all clients together that were wrong, and once more of all that were not yet.

These have attempts of their own, so that many addresses that guess do not keep out who comes for the first time, and
these have a bound, so that nobody guesses without end from ever new addresses.
"""
WRONG_SECONDS = 21_600.0
"""So long it is remembered that a client was wrong."""
MAX_CLIENTS = 10_000
"""Clients that are remembered, and those that have shown a right key once more; the oldest is forgotten first."""
MAX_RIGHT = 16
"""Keys by which one client is known."""


@dataclass(slots=True)
class _Bucket:
    """Attempts that are left; they come back with time."""

    most: int
    seconds_each: float
    left: float
    at: float

    def wait_seconds(self, now: float) -> float:
        """Return when the next attempt may be made; 0: now."""
        self.left = min(self.most, self.left + (now - self.at) / self.seconds_each)
        self.at = now
        return max(0.0, (1 - self.left) * self.seconds_each)


@dataclass(slots=True)
class _Client:
    bucket: _Bucket
    wrong_at: float = -math.inf
    """When it was wrong last."""
    limited: bool = False
    """Refused since it last was not; logged once."""


class Attempts:
    """What clients have tried. Lives as long as the daemon."""

    def __init__(self, *, burst: int = BURST, clock: Clock = SYSTEM_CLOCK) -> None:
        self._burst = burst
        self._clock = clock
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._right: OrderedDict[str, dict[str, None]] = OrderedDict()
        """Names of the keys that clients have shown; nobody without a key pushes a client out of here."""
        all_burst = max(ALL_BURST, burst)
        self._wrong, self._new = (_Bucket(all_burst, ALL_SECONDS_EACH, all_burst, clock.monotonic()) for _ in range(2))
        self.wrong_total = 0
        self.limited_total = 0

    def __len__(self) -> int:
        return len(self._clients)

    def wait_seconds(self, client: str) -> int:
        """Return how long a client must wait before it may try a key; 0: not at all."""
        known, now = self._clients.get(client), self._clock.monotonic()
        own = known.bucket.wait_seconds(now) if known is not None else 0.0
        shared = self._shared(client)
        spotless = shared is self._new and client in self._right
        return math.ceil(max(own, 0.0 if spotless else shared.wait_seconds(now)))

    def is_known(self, client: str, name: str) -> bool:
        """Tell whether a client has shown this key before."""
        return name in self._right.get(client, ())

    def note_right(self, client: str, name: str) -> None:
        """Remember that a client has shown a right key. That makes up for no wrong one."""
        right = self._right.get(client)
        if right is None:
            while len(self._right) >= MAX_CLIENTS:
                self._right.popitem(last=False)
            right = self._right[client] = {}
        elif name in right:
            return
        self._right.move_to_end(client)
        while len(right) >= MAX_RIGHT:
            del right[next(iter(right))]
        right[name] = None

    def forget(self, names: Iterable[str]) -> None:
        """Forget who has shown these keys: they are gone, or others now."""
        gone = set(names)
        for client, right in tuple(self._right.items()):
            for name in gone & right.keys():
                del right[name]
            if not right:
                del self._right[client]

    def take(self, client: str) -> None:
        """Take one attempt from a client, before its key is looked at."""
        now = self._clock.monotonic()
        for bucket in (self._of(client).bucket, self._shared(client)):
            bucket.wait_seconds(now)
            bucket.left = max(0.0, bucket.left - 1)

    def give_back(self, client: str) -> None:
        """Give it back: the key was right."""
        for bucket in (self._of(client).bucket, self._shared(client)):
            bucket.left = min(bucket.most, bucket.left + 1)

    def note_wrong(self, client: str) -> None:
        """Count and log a key that nobody knows."""
        self.wrong_total += 1
        known = self._of(client)
        known.limited, known.wrong_at = False, self._clock.monotonic()
        log.warning("key_refused", client=client, left=int(known.bucket.left))

    def note_limited(self, client: str, seconds: int) -> None:
        """Count a key that was not looked at; log the first of a row."""
        self.limited_total += 1
        known = self._of(client)
        if not known.limited:
            known.limited = True
            log.warning("key_attempts_limited", client=client, retry_after_seconds=seconds)

    def samples(self) -> Iterator[Sample]:
        """Give the values of the metrics."""
        yield Sample("healthd_key_refusals_total", self.wrong_total, {"reason": "wrong"})
        yield Sample("healthd_key_refusals_total", self.limited_total, {"reason": "limited"})

    def _shared(self, client: str) -> _Bucket:
        """Return the attempts that a client shares with all that were wrong lately, or with all that were not."""
        known = self._clients.get(client)
        wrong_at = known.wrong_at if known is not None else -math.inf
        return self._wrong if self._clock.monotonic() - wrong_at < WRONG_SECONDS else self._new

    def _of(self, client: str) -> _Client:
        known = self._clients.get(client)
        if known is None:
            while len(self._clients) >= MAX_CLIENTS:
                self._clients.popitem(last=False)
            known = _Client(_Bucket(self._burst, SECONDS_EACH, self._burst, self._clock.monotonic()))
            self._clients[client] = known
        else:
            self._clients.move_to_end(client)
        return known
