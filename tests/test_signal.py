"""A signal wakes who waits, and tells who watches; pauses grow to the longest."""

import asyncio

from healthd.waiting import Backoff, Signal


async def test_who_watches_is_told_of_every_change_at_once_and_who_waits_is_woken() -> None:
    signal, seen = Signal(), []
    signal.notify_all()
    signal.watch(lambda: seen.append(1))
    waiting = asyncio.create_task(signal.wait(5))
    await asyncio.sleep(0)
    signal.notify_all()
    signal.notify_all()
    assert len(seen) == 2
    assert await waiting


def test_no_pause_is_longer_than_the_longest_the_first_neither() -> None:
    pauses = Backoff(first_seconds=0.5, longest_seconds=0.1)
    assert all(0.08 <= pauses.next() <= 0.1 for _ in range(5))
