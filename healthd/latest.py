"""A place for exactly one item: the newest. What it replaces is handed back, so that somebody counts it."""

from typing import Generic, TypeVar

from healthd.waiting import Signal

T = TypeVar("T")


class Latest(Generic[T]):
    """One slot between a producer that must not wait and a consumer that wants the newest. Event loop only."""

    def __init__(self) -> None:
        self._item: T | None = None
        self._changed = Signal()

    def __len__(self) -> int:
        return 0 if self._item is None else 1

    def put(self, item: T) -> T | None:
        """Leave an item; return the unread one that it replaces, if there was one."""
        replaced, self._item = self._item, item
        self._changed.notify_all()
        return replaced

    def take_nowait(self) -> T | None:
        """Take the item, if there is one."""
        item, self._item = self._item, None
        if item is not None:
            self._changed.notify_all()
        return item

    async def take(self) -> T | None:
        """Wait for an item and take it; None when something else woke the caller (look around and ask again)."""
        if self._item is None:
            await self._changed.wait()
        return self.take_nowait()

    async def wait_changed(self) -> None:
        """Wait until an item was left or taken, or until `interrupt`."""
        await self._changed.wait()

    def interrupt(self) -> None:
        """Wake everybody who waits, so that they look around."""
        self._changed.notify_all()
