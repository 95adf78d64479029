"""Wrong keys: how many a client may try, and all clients together. Knows no key; event loop only.

A client that has shown a right key before goes on with that key, however many wrong ones come from its address: behind
one reverse proxy, a bad neighbour does not lock out the wall.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.metrics import Sample

log = structlog.get_logger(__name__)

BURST, SECONDS_EACH = 10, 6.0
"""A client may be wrong so often at once, and once more after so many seconds."""
ALL_BURST, ALL_SECONDS_EACH = 200, 0.2
"""The same of all clients together; one that has not been wrong lately may try all the same."""
MAX_CLIENTS = 10_000
"""Clients that are remembered; the one that was heard of longest ago is forgotten first."""
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
    right: dict[str, None] = field(default_factory=dict)
    """Names of the keys that it has shown."""
    limited: bool = False
    """Refused since it last was not; logged once."""


class Attempts:
    """What clients have tried. Lives as long as the daemon."""

    def __init__(self, *, burst: int = BURST, clock: Clock = SYSTEM_CLOCK) -> None:
        self._burst = burst
        self._clock = clock
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        all_burst = max(ALL_BURST, burst)
        self._all = _Bucket(all_burst, ALL_SECONDS_EACH, all_burst, clock.monotonic())
        self.wrong_total = 0
        self.limited_total = 0

    def __len__(self) -> int:
        return len(self._clients)

    def wait_seconds(self, client: str) -> int:
        """Return how long a client must wait before it may try a key; 0: not at all."""
        known = self._clients.get(client)
        if known is None:
            return 0
        now = self._clock.monotonic()
        own = known.bucket.wait_seconds(now)
        spotless = known.bucket.left >= known.bucket.most
        return math.ceil(max(own, 0.0 if spotless else self._all.wait_seconds(now)))

    def is_known(self, client: str, name: str) -> bool:
        """Tell whether a client has shown this key before."""
        known = self._clients.get(client)
        return known is not None and name in known.right

    def note_right(self, client: str, name: str) -> None:
        """Remember that a client has shown a right key. That makes up for no wrong one."""
        known = self._clients.get(client)
        if known is not None and name in known.right:
            return
        known = self._of(client)
        while len(known.right) >= MAX_RIGHT:
            del known.right[next(iter(known.right))]
        known.right[name] = None

    def take(self, client: str) -> None:
        """Take one attempt from a client, before its key is looked at."""
        now = self._clock.monotonic()
        for bucket in (self._of(client).bucket, self._all):
            bucket.wait_seconds(now)
            bucket.left = max(0.0, bucket.left - 1)

    def give_back(self, client: str) -> None:
        """Give it back: the key was right."""
        for bucket in (self._of(client).bucket, self._all):
            bucket.left = min(bucket.most, bucket.left + 1)

    def note_wrong(self, client: str) -> None:
        """Count and log a key that nobody knows."""
        self.wrong_total += 1
        known = self._of(client)
        known.limited = False
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
