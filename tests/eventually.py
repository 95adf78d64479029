"""Waiting for something to become true, with a bound."""

import asyncio
import time
from collections.abc import Callable


async def eventually(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    """Wait until the condition holds; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s")
        await asyncio.sleep(0.005)


def until_true(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    """Wait, without an event loop, until the condition holds; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s")
        time.sleep(0.01)
