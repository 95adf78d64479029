"""When each camera is likely to ask a model again, as far as its own habits tell."""

from collections.abc import Hashable

FORGET_SECONDS = 60.0
"""Who has been away for so long is not expected any more."""
_NEW = 0.5
"""Weight of the newest pause of a camera."""


class Rhythm:
    """Remembers who is away, and for how long it usually is. Not thread-safe; lives as long as a model's line.

    The pause between an answer and the next ask is what a camera itself makes; how long it waits in between is not.
    """

    def __init__(self) -> None:
        self._away: dict[Hashable, float] = {}
        """Who had its answer when, in seconds of the clock."""
        self._pauses: dict[Hashable, float] = {}

    def came(self, who: Hashable, now: float) -> None:
        """Note that somebody asks."""
        since = self._away.pop(who, None)
        if since is not None:
            old = self._pauses.get(who, now - since)
            self._pauses[who] = old + _NEW * (now - since - old)

    def went(self, who: Hashable, now: float) -> None:
        """Note that somebody has its answer, or does not wait for it any more."""
        self._away[who] = now

    def awaits(self, now: float, window: float) -> bool:
        """Whether somebody is due within `window` seconds, or a `window` overdue at most."""
        for who in [who for who, since in self._away.items() if now - since > FORGET_SECONDS]:
            del self._away[who]
            self._pauses.pop(who, None)
        return any(
            who in self._pauses and abs(since + self._pauses[who] - now) <= window for who, since in self._away.items()
        )
