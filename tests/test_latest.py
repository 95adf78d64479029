"""The place for the newest item."""

import asyncio

from healthd.latest import Latest


async def test_the_newest_replaces_the_unread_one_which_is_handed_back() -> None:
    latest: Latest[int] = Latest()
    assert [latest.put(1), latest.put(2)] == [None, 1]
    assert await latest.take() == 2
    assert latest.take_nowait() is None


async def test_take_waits_for_an_item_and_interrupt_wakes_without_one() -> None:
    latest: Latest[int] = Latest()
    waiting = asyncio.create_task(latest.take())
    await asyncio.sleep(0)
    latest.interrupt()
    assert await waiting is None
    waiting = asyncio.create_task(latest.take())
    await asyncio.sleep(0)
    latest.put(3)
    assert await waiting == 3


async def test_a_producer_can_wait_until_its_item_was_taken() -> None:
    latest: Latest[int] = Latest()
    latest.put(1)
    waiting = asyncio.create_task(latest.wait_changed())
    await asyncio.sleep(0)
    assert not waiting.done()
    latest.take_nowait()
    await waiting
    assert len(latest) == 0
