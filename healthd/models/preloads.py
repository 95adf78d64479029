"""Models that the configuration wants loaded from the start and kept: loaded, looked after, let go."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import structlog

from healthd.errors import HealthdError
from healthd.models.catalog import Entry
from healthd.models.manager import ModelManager
from healthd.models.shared import SharedModel
from healthd.waiting import Backoff

log = structlog.get_logger("healthd.models.inference")
KEEP_SECONDS = 5.0
"""How often a model that is to be kept is looked after."""


class Preloads:
    """Lives as long as the daemon; event loop only."""

    def __init__(
        self,
        models: ModelManager,
        *,
        load: Callable[[Entry], Awaitable[SharedModel]],
        close_with: Callable[[Callable[[], None]], object],
    ) -> None:
        """`load` gives a model held once; `close_with` calls what may block."""
        self._models = models
        self._load = load
        self._close_with = close_with
        self._tasks: dict[Entry, asyncio.Task[None]] = {}
        self._untried: set[Entry] = set()

    @property
    def untried(self) -> tuple[str, ...]:
        """Models that are being loaded for the first time."""
        return tuple(sorted(entry.model_id for entry in self._untried))

    def keep(self, entries: Iterable[Entry]) -> None:
        """Load these and keep them; let go of the others that were kept."""
        wanted = {(entry.family, entry.spec_id): entry for entry in entries}
        for entry in [entry for entry in self._tasks if (entry.family, entry.spec_id) not in wanted]:
            self._tasks.pop(entry).cancel()
            self._untried.discard(entry)
        kept = {(entry.family, entry.spec_id) for entry in self._tasks}
        for key, entry in wanted.items():
            if key not in kept:
                self._untried.add(entry)
                self._tasks[entry] = asyncio.create_task(self._keep(entry), name=f"preload {entry.model_id}")

    def stop(self) -> None:
        """Load nothing more, and hold nothing."""
        self.keep(())

    async def _keep(self, entry: Entry) -> None:
        """Load a model and hold it until cancelled; anew when that fails, or when the model hangs."""
        backoff = Backoff(longest_seconds=60.0)
        while True:
            try:
                shared = await self._load(entry)
            except HealthdError as exc:
                log.warning("preload_failed", model=entry.model_id, reason=str(exc))
            else:
                backoff.reset()
                self._untried.discard(entry)
                await self._hold(shared)
                continue
            finally:
                self._untried.discard(entry)
            await asyncio.sleep(backoff.next())
            self._models.forgive(entry.family, entry.spec_id)

    async def _hold(self, shared: SharedModel) -> None:
        try:
            while self._models.is_current(shared):  # noqa: ASYNC110  what changes it is a thread, and seldom
                await asyncio.sleep(KEEP_SECONDS)
        finally:
            self._models.release(shared, close_with=self._close_with)
