"""A signal wakes who waits, and tells who watches."""

import asyncio

from healthd.waiting import Signal


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
