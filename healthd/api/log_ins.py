"""The log-ins of pages: by what they are recognised, and how they end."""

import hashlib
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from healthd.api.keys import Identity
from healthd.cameras.viewers import PageSession
from healthd.clock import SYSTEM_CLOCK, Clock

MAX_SESSIONS = 1000
"""Log-ins remembered at a time; the oldest of the key that has most leaves first."""
MAX_SESSIONS_OF_A_KEY = 200
"""Of one key; its oldest leaves first, so that a key that may only read logs no administrator out."""


@dataclass(slots=True, eq=False)
class LogIn:
    """One log-in."""

    identity: Identity
    page: PageSession
    client: str
    since: datetime
    used_at: float
    """Seconds of the monotonic clock."""


class Sessions:
    """All log-ins, by the digest of their token. Lives as long as the daemon; keeps no token; event loop only."""

    def __init__(self, *, seconds: float, idle_seconds: float = 0.0, clock: Clock = SYSTEM_CLOCK) -> None:
        """`idle_seconds`: one that was not used for so long ends; 0: none does."""
        self.last(seconds, idle_seconds=idle_seconds)
        self._clock = clock
        self._open: dict[bytes, LogIn] = {}
        self.on_closed: Callable[[str], None] = lambda _session_id: None
        """Called with the id of a session that has ended, whatever way."""
        self.is_watching: Callable[[str], bool] = lambda _session_id: False
        """Whether a stream is open that a session has opened: then it is in use."""

    def last(self, seconds: float, *, idle_seconds: float = 0.0) -> None:
        """Say how long those last that begin from now on, and all of them where nobody uses them."""
        self.seconds = seconds
        self._idle_seconds = idle_seconds or math.inf

    def __iter__(self) -> Iterator[LogIn]:
        for digest, log_in in tuple(self._open.items()):
            if self._is_over(log_in):
                self._close(digest)
            else:
                yield log_in

    def open(self, identity: Identity, *, client: str = "") -> str:
        """Begin a session; return its token."""
        self._make_room(identity.name)
        token, now = secrets.token_urlsafe(32), self._clock.monotonic()
        page = PageSession(secrets.token_hex(8), now + self.seconds)
        self._open[_digest(token)] = LogIn(identity, page, client, self._clock.now(), now)
        return token

    def find(self, token: str) -> LogIn | None:
        """Recognise the token of a session that has not ended, and note that it is in use."""
        digest = _digest(token)
        found = self._open.get(digest)
        if found is None:
            return None
        if self._is_over(found):
            self._close(digest)
            return None
        found.used_at = self._clock.monotonic()
        return found

    def note_used(self, session_id: str) -> None:
        """Note that a session was in use until now: it has watched."""
        for log_in in self._open.values():
            if log_in.page.session_id == session_id:
                log_in.used_at = self._clock.monotonic()

    def seconds_left(self, log_in: LogIn) -> float:
        """Return how long a session still lasts at most."""
        return round(max(0.0, log_in.page.ends_at - self._clock.monotonic()), 1)

    def idle_seconds(self, log_in: LogIn) -> float:
        """Return how long ago it was used."""
        return round(max(0.0, self._clock.monotonic() - log_in.used_at), 1)

    def close(self, token: str) -> None:
        """End a session; an unknown one is ended already."""
        self._close(_digest(token))

    def close_where(self, ends: Callable[[LogIn], bool]) -> int:
        """End the sessions for which `ends` says so; return how many."""
        ended = [digest for digest, log_in in self._open.items() if ends(log_in)]
        for digest in ended:
            self._close(digest)
        return len(ended)

    def _make_room(self, name: str) -> None:
        """End those that are too many before a session of a key begins."""
        counts = Counter(log_in.identity.name for log_in in self._open.values())
        while counts[name] >= MAX_SESSIONS_OF_A_KEY or len(self._open) >= MAX_SESSIONS:
            one = name if counts[name] >= MAX_SESSIONS_OF_A_KEY else counts.most_common(1)[0][0]
            self._close(next(digest for digest, log_in in self._open.items() if log_in.identity.name == one))
            counts[one] -= 1

    def _is_over(self, log_in: LogIn) -> bool:
        now = self._clock.monotonic()
        if now - log_in.used_at >= self._idle_seconds and self.is_watching(log_in.page.session_id):
            log_in.used_at = now
        return now >= log_in.page.ends_at or now - log_in.used_at >= self._idle_seconds

    def _close(self, digest: bytes) -> None:
        closed = self._open.pop(digest, None)
        if closed is not None:
            self.on_closed(closed.page.session_id)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
