"""A place for exactly one item: the newest. What it replaces is handed back, so that somebody counts it."""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """One slot between a producer that must not wait and a consumer that wants the newest. Event loop only."""

    def __init__(self) -> None:
        self._item: T | None = None
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def __len__(self) -> int:
        return 0 if self._item is None else 1

    def put(self, item: T) -> T | None:
        """Leave an item; return the unread one that it replaces, if there was one."""
        replaced, self._item = self._item, item
        self._filled.set()
        self._emptied.clear()
        return replaced

    def take_nowait(self) -> T | None:
        """Take the item, if there is one."""
        item, self._item = self._item, None
        self._filled.clear()
        self._emptied.set()
        return item

    async def take(self) -> T | None:
        """Wait for an item and take it; None when `interrupt` woke the caller first."""
        await self._filled.wait()
        return self.take_nowait()

    async def wait_emptied(self) -> None:
        """Wait until the item was taken (at once when there is none)."""
        await self._emptied.wait()

    def interrupt(self) -> None:
        """Wake who waits in `take` without an item, and who waits in `wait_emptied` although there is one."""
        self._filled.set()
        self._emptied.set()
