"""Whether the event loop gets its turn in time, and whether the wall clock jumps: told when it is over, and counted."""

import asyncio
from collections.abc import Iterator
from datetime import datetime

import structlog

from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.metrics import Sample

log = structlog.get_logger(__name__)
LOOK_SECONDS = 1.0
LATE_SECONDS = 1.0
"""Less is ordinary on a machine that has much to do."""
JUMP_SECONDS = 2.0
"""Less is what a time server corrects."""


class LoopWatch:
    """Looks once a second. Event loop only."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.late = self.jumps = 0
        self._clock = clock

    async def keep(self) -> None:
        """Look until cancelled."""
        while True:
            at, now = self._clock.monotonic(), self._clock.now()
            await asyncio.sleep(LOOK_SECONDS)
            self.look(at, now)

    def look(self, at: float, now: datetime) -> None:
        """Compare what both clocks say with what they said when it fell asleep for `LOOK_SECONDS`."""
        gone = self._clock.monotonic() - at
        jumped = (self._clock.now() - now).total_seconds() - gone
        if gone > LOOK_SECONDS + LATE_SECONDS:
            self.late += 1
            reason = "the process was stopped, or had no turn, or something held up its event loop"
            log.warning("loop_late", seconds=round(gone - LOOK_SECONDS, 1), reason=reason)
        if abs(jumped) > JUMP_SECONDS:
            self.jumps += 1
            reason = "the clock of the machine was set, or the machine was asleep"
            log.warning("clock_jumped", seconds=round(jumped, 1), reason=reason)

    def samples(self) -> Iterator[Sample]:
        """Return what the metrics say of it."""
        yield Sample("healthd_loop_late_total", self.late)
        yield Sample("healthd_clock_jumps_total", self.jumps)
