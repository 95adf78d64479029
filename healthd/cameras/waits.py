"""Waiting for a picture of one camera: for a newer one, or for one that is as new as it should be."""

import asyncio
import math
from collections.abc import Callable

from healthd.cameras.attention import Attention
from healthd.cameras.control import Control
from healthd.cameras.demand import Demand
from healthd.cameras.health import State
from healthd.cameras.shown import Shown
from healthd.waiting import Signal

LOOK_SECONDS = 0.5
"""How often it is looked whether the newest frame has grown too old while somebody waits for another."""
FRESH_SECONDS = 2.0
"""How long the first who looks waits for what is made only while somebody looks."""


class Waits:
    """All who wait for a frame of one camera. Event loop only; lives as long as its runner."""

    def __init__(
        self,
        shown: Shown,
        published: Signal,
        *,
        attention: Attention,
        demand: Demand,
        control: Control,
    ) -> None:
        self._shown = shown
        self._published = published
        self._attention = attention
        self._demand = demand
        self._control = control
        self._released = False

    def release(self) -> None:
        """Let everybody go, and let nobody wait any more."""
        self._released = True

    async def newer(self, frame_id: int, *, overlay: bool, timeout: float) -> bool:  # noqa: ASYNC109
        """Wait for a frame newer than `frame_id`; False when time ran out, or at once when the camera is lost."""
        shown = self._shown

        def is_there() -> bool:
            newest = (shown.predicted.frame if shown.predicted else None) if overlay else shown.frame
            return newest is not None and newest.frame_id > frame_id

        return await self._until(is_there, overlay=overlay, timeout=timeout)

    async def fresh(
        self,
        *,
        overlay: bool,
        timeout: float = FRESH_SECONDS,  # noqa: ASYNC109  a bound per call
        has_left: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait, a moment at most, for what is made only while somebody looks; returns at once where it is there.

        `has_left`: looked at whenever something is published; nobody waits for one who has left.
        """
        await self._until(lambda: has_left() or self.is_fresh(overlay=overlay), overlay=overlay, timeout=timeout)

    def is_fresh(self, *, overlay: bool) -> bool:
        """Whether the newest picture is as new as it is while somebody looks; there is none of a camera not live."""
        if overlay:
            predicted = self._shown.predicted
            since = predicted.frame.captured_monotonic if predicted else math.inf
            return not (self._attention.has_rested_since(since) and self._shown.may_be_predicted_anew)
        return self._shown.has_newest or self._shown.health.state is not State.LIVE

    @property
    def model_rests(self) -> bool:
        """Whether the model, which works, has nothing to do, because nothing moves in a live picture."""
        return self._attention.idle and self._shown.may_be_predicted

    def asked(self, *, overlay: bool) -> None:
        """Somebody looks, at plain or at drawn pictures."""
        (self._attention if overlay else self._demand).asked()

    async def _until(self, is_there: Callable[[], bool], *, overlay: bool, timeout: float) -> bool:  # noqa: ASYNC109
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not (self._control.stopping or self._released):
            self.asked(overlay=overlay)
            if is_there():
                return True
            left = deadline - loop.time()
            if left <= 0 or self._shown.health.state not in {State.LIVE, State.STARTING}:
                return False
            await self._published.wait(min(left, LOOK_SECONDS))
        return False
