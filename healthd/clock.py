"""Time as a value that is passed in, so that tests need not wait for it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of the house."""

    monotonic: Callable[[], float] = time.monotonic
    """Seconds, for ages and durations; never jumps."""
    now: Callable[[], datetime] = _utc_now
    """Wall clock (UTC), for people; may jump."""


SYSTEM_CLOCK = Clock()
