"""The newest lines of the log, and those that come."""

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.types import ASGIApp

from healthd.api import schemas
from healthd.api.cameras import find
from healthd.api.panel_schemas import LogLine
from healthd.api.services import House
from healthd.api.streams import LATER, EndlessAnswer, Write, event_bytes
from healthd.cameras.events import Event, EventStream
from healthd.cameras.viewers import Viewer
from healthd.log_ring import MOST_LINES, Level, LogRing, Wanted
from healthd.log_ring import LogLine as Line

LOOK_SECONDS = 0.25
"""How late a line may come: nothing wakes a listener, so that a line costs nothing for those who listen."""
MOST_AT_ONCE = 250
"""Lines that are sent at a time; where more have come, the newest."""

UNKNOWN = ResponseSpec(schemas.Error, description="Unknown camera.")
LEVEL = Parameter(description="This level and those that are more severe.")
EVENT = Parameter(max_length=200, description="Only lines of this event.")
CAMERA = Parameter(max_length=200, description="Only lines of this camera.")


class LogController(Controller):
    """Everything under `/api/v1/logs`."""

    path = "/logs"
    tags = ("process",)

    @get("/", summary="The newest lines of the log", responses={404: UNKNOWN})
    async def logs(
        self,
        services: House,
        level: Annotated[Level, LEVEL] = "debug",
        event: Annotated[str | None, EVENT] = None,
        camera: Annotated[str | None, CAMERA] = None,
        limit: Annotated[int, Parameter(ge=1, le=MOST_LINES, description="At most so many.")] = 200,
    ) -> list[LogLine]:
        """Lines that were logged, the oldest first. The last thousand or so are kept in memory."""
        if camera is not None:
            find(services, camera)
        return [shape(line) for line in services.log_ring.lines(Wanted(level, event, camera), limit=limit)]

    @get(
        "/stream",
        summary="The log as it is written",
        media_type="text/event-stream",
        responses={
            200: ResponseSpec(str, description="`log`.", media_type="text/event-stream"),
            404: UNKNOWN,
            503: LATER,
        },
    )
    async def stream(
        self,
        services: House,
        request: Request[Any, Any, Any],
        level: Annotated[Level, LEVEL] = "debug",
        event: Annotated[str | None, EVENT] = None,
        camera: Annotated[str | None, CAMERA] = None,
        limit: Annotated[
            int,
            Parameter(
                ge=0,
                le=MOST_LINES,
                schema_extra={"minimum": 0},
                description="So many older lines come first; after a reconnect, those that were missed.",
            ),
        ] = 100,
    ) -> ASGIApp:
        """Server-Sent Events named `log`, with the lines as `GET /api/v1/logs` has them."""
        if camera is not None:
            find(services, camera)
        seen = _seen(request.headers.get("last-event-id", ""), services.boot_id)
        tail = LogTail(services.log_ring, Wanted(level, event, camera), after=seen, first=limit)

        async def run(viewer: Viewer, write: Write) -> None:
            async def write_events(events: Sequence[Event]) -> int:
                data = b"".join(event_bytes(services.boot_id, event) for event in events) or b": alive\n\n"
                await write(data)
                return len(data)

            stream = EventStream(
                tail,
                viewer,
                write_timeout_seconds=services.settings.streams.write_timeout_seconds,
                observe_send=services.metrics.send_seconds.labels("logs").observe,
                clock=services.clock,
            )
            await stream.run(write_events)

        return EndlessAnswer(
            services,
            kind="logs",
            camera=None,
            request=request,
            content_type=b"text/event-stream; charset=utf-8",
            opening=b"retry: 2000\n\n",
            run=run,
            wake=tail.wake,
        )


class LogTail:
    """One who follows the log: a place in the ring and nothing else, so that a slow one costs no memory."""

    def __init__(self, ring: LogRing, wanted: Wanted, *, after: int | None, first: int) -> None:
        self.replaced = 0
        self._ring = ring
        self._wanted = wanted
        self._after = after or 0
        self._most = MOST_LINES if after is not None else first
        """How many lines are sent at the next time."""
        self._first = True
        self._woken = asyncio.Event()

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109  a bound per call
        """Wait until there is a line, whether it is wanted or not, or `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not self._woken.is_set() and self._ring.newest_id == self._after and loop.time() < deadline:
            try:
                async with asyncio.timeout(min(LOOK_SECONDS, max(0.0, deadline - loop.time()))):
                    await self._woken.wait()
            except TimeoutError:
                continue

    def take(self) -> list[Event]:
        """Take the lines that have come since, oldest first."""
        newest = self._ring.newest_id
        lines = self._ring.lines(self._wanted, after=self._after)
        left_out = max(0, len(lines) - self._most)
        self.replaced += 0 if self._first else left_out
        self._after = max([newest, *(line.line_id for line in lines)])
        self._first, self._most = False, MOST_AT_ONCE
        return [Event(line.line_id, "log", line.camera, lambda line=line: _body(line)) for line in lines[left_out:]]  # type: ignore[misc]

    def wake(self) -> None:
        """Let it see at once that it is to end."""
        self._woken.set()


def shape(line: Line) -> LogLine:
    """Shape one line."""
    fields = json.loads(line.fields)
    return LogLine(line.line_id, line.at, line.level, line.event, line.logger, line.camera, fields)


def _body(line: Line) -> bytes:
    return msgspec.json.encode(shape(line))


def _seen(last_event_id: str, boot_id: str) -> int | None:
    """Return the line that a listener saw last, if it was one of this process."""
    boot, _, number = last_event_id.rpartition("-")
    return int(number) if boot == boot_id and number.isascii() and number.isdecimal() and len(number) < 16 else None
