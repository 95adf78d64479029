"""Tests of things that take long, without waiting: an event loop whose time jumps to whatever is due next."""

import asyncio
import functools
import inspect
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from healthd.clock import Clock

P = ParamSpec("P")
T = TypeVar("T")
EPOCH = datetime(2026, 1, 31, 18, 20, tzinfo=UTC)


class _Selector(selectors.SelectSelector):
    """Waits for nothing but what is there already; the time it was told to wait passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            if timeout is None:
                raise RuntimeError("everybody waits for somebody else: nothing will ever happen")
            self.now += timeout
        return found


class WarpedLoop(asyncio.SelectorEventLoop):
    """Its clock stands still while something runs. No threads: nobody waits for them."""

    def __init__(self) -> None:
        self._warped = _Selector()
        super().__init__(self._warped)

    def time(self) -> float:
        return self._warped.now


def warped(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run a test on a `WarpedLoop`, with a day as its bound."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with asyncio.Runner(loop_factory=WarpedLoop) as runner:
            return runner.run(asyncio.wait_for(test(*args, **kwargs), 86_400))

    del run.__wrapped__  # type: ignore[attr-defined]  # what remains is no coroutine function
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


def warped_clock() -> Clock:
    """Return the clock of the running loop."""
    loop = asyncio.get_running_loop()
    return Clock(monotonic=loop.time, now=lambda: EPOCH + timedelta(seconds=loop.time()))


async def soon(condition: Callable[[], object]) -> None:
    """Wait until the condition holds, without any time passing."""
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("not without waiting")
