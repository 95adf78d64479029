"""What a slow answer must know of its connection beyond ASGI; the HTTP server puts it into the scope."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from litestar.types import Scope

from healthd.metrics import Sample

EXTENSION = "healthd.connection"


async def _at_once() -> None:
    pass


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """The connection of one request. Lives as long as the request."""

    lost: "asyncio.Future[None]"
    """Done when the connection is gone. Unlike ASGI's `receive` many can wait for it, and it takes nothing away."""
    abort: Callable[[], object]
    """Drop it with what is still in its buffers."""
    close: Callable[[], object]
    """Close it once the client has taken what is in its buffers."""
    drained: Callable[[], Awaitable[object]] = _at_once
    """Wait until its buffers have room, or the connection is gone."""
    send_bare: Callable[[], object] = lambda: None
    """Send the body as it is, up to the end of the connection: HTTP/1.0 knows no chunks."""
    hold_little: Callable[[bool], object] = lambda _: None
    """Say whether the kernel is to hold little that is not sent: what it does not hold can be replaced by newer."""
    misused: Callable[[], bool] = lambda: False
    """Whether the server has ended it, for what came over it."""


@dataclass(slots=True)
class DoorCounts:
    """What became of connections. Event loop only; lives as long as the daemon."""

    open: int = 0
    cut: "Counter[str]" = field(default_factory=Counter)

    def samples(self) -> Iterator[Sample]:
        """Give the values of the metrics."""
        yield Sample("healthd_connections_open", self.open)
        for reason, number in sorted(self.cut.items()):
            yield Sample("healthd_connections_cut_total", number, {"reason": reason})


async def while_connected(scope: Scope, waiting: Coroutine[Any, Any, object]) -> bool:
    """Wait for something on behalf of a caller, but not for one who has left; False when it has."""
    connection, task = connection_of(scope), asyncio.create_task(waiting)
    try:
        either: set[asyncio.Future[Any]] = {task, connection.lost}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if not task.cancelled():
        task.result()
    return not connection.lost.done()


def connection_of(scope: Scope) -> Connection:
    """Return the connection that a request came through; a stand-in, where the server offers none."""
    extensions: Any = scope.get("extensions") or {}
    found = extensions.get(EXTENSION)
    if isinstance(found, Connection):
        return found
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end() -> None:
        if not lost.done():
            lost.set_result(None)

    return Connection(lost=lost, abort=end, close=end)
