"""Waiting for something to change, with a bound. Everything here belongs to one event loop."""

import asyncio
import random
from collections.abc import Callable


class Signal:
    """Wakes everybody who waits for the next change; who comes later waits for the one after."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._watchers: list[Callable[[], None]] = []

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` at every change from now on. It must neither raise nor notify."""
        self._watchers.append(watcher)

    def notify_all(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        self._event = asyncio.Event()
        for watcher in self._watchers:
            watcher()

    async def wait(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  a bound per call is the point
        """Wait for the next change; False when `timeout` seconds passed without one."""
        return await wait_or_timeout(self._event, timeout)


async def wait_or_timeout(event: asyncio.Event, timeout: float | None) -> bool:  # noqa: ASYNC109
    """Wait until the event is set (True) or `timeout` seconds have passed (False; None waits for ever)."""
    if event.is_set():
        return True
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Pace:
    """So many things a second at most, after as many at once."""

    def __init__(self, a_second: int) -> None:
        self._every = 1.0 / a_second
        self._now = asyncio.get_running_loop().time
        self._next = self._now() - 1.0

    async def keep(self) -> None:
        """Count one; wait where it was one too many."""
        if (seconds := self.count()) > 0:
            await asyncio.sleep(seconds)

    def count(self) -> float:
        """Count one; return by how many seconds it came too soon, 0 or less: it did not."""
        now = self._now()
        self._next = max(self._next, now - 1.0) + self._every
        return self._next - now


class Backoff:
    """Delays between attempts: doubling from `first_seconds` to `longest_seconds`, each with up to 20 % of jitter.

    The first is no longer than the longest.
    """

    def __init__(self, *, first_seconds: float = 0.5, longest_seconds: float = 30.0) -> None:
        self._first = first_seconds
        self.longest_seconds = longest_seconds
        self._attempts = 0

    @property
    def attempts(self) -> int:
        """How many delays were handed out since the last reset."""
        return self._attempts

    def next(self) -> float:
        """Return the next delay in seconds."""
        delay = min(self.longest_seconds, self._first * 2.0 ** min(self._attempts, 30))
        self._attempts += 1
        return delay * random.uniform(0.8, 1.0)  # noqa: S311  spreads reconnects, guards no secret

    def reset(self) -> None:
        """Begin again with the first delay."""
        self._attempts = 0
