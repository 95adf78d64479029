"""An endless answer on a connection of the test's own: each thing that ends it, alone."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from healthd.api.connection import EXTENSION, Connection
from healthd.api.streams import CLOSE_SECONDS, EndlessAnswer, Write
from healthd.cameras.viewers import EndReason, Viewer
from healthd.http_server import DroppableProtocol
from tests.api.house import House, open_house
from tests.eventually import eventually
from tests.stream_client import StreamClient


async def for_ever(*_: object) -> Any:
    """Never return."""
    await asyncio.Event().wait()


class Line:
    """A connection, its request, and what became of both."""

    def __init__(
        self, house: House, *, drained: Callable[[], Awaitable[object]] | None = None, stuck: bool = False
    ) -> None:
        """`stuck`: nothing comes of dropping it."""
        self.house = house
        self._stuck = stuck
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.left = asyncio.Event()
        self.aborted = False
        self.sent: list[dict[str, Any]] = []
        self.send_for_ever = False
        ways = {"lost": self.lost, "abort": self._abort, "close": self._abort}
        connection = Connection(**ways, drained=drained) if drained else Connection(**ways)  # type: ignore[arg-type]
        self._scope = {"type": "http", "http_version": "1.1", "extensions": {EXTENSION: connection}}

    async def answer(self, run: Callable[[Viewer, Write], Awaitable[None]] = for_ever) -> None:
        services = self.house.services
        app = SimpleNamespace(state=SimpleNamespace(services=services))
        request = SimpleNamespace(client=None, headers={}, cookies={}, app=app, scope=self._scope)
        answer = EndlessAnswer(
            services,
            kind="events",
            camera=None,
            request=request,  # type: ignore[arg-type]  # what is looked at
            content_type=b"text/plain",
            opening=b"",
            run=run,
            wake=lambda: None,
        )
        await answer(self._scope, self._receive, self._send)  # type: ignore[arg-type]

    async def opened(self) -> Viewer:
        await eventually(lambda: len(self.sent) >= 3)
        (viewer,) = self.house.services.viewers
        return viewer

    async def _receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self.send_for_ever:
            await for_ever()
        self.sent.append(message)

    def _abort(self) -> None:
        self.aborted = True
        if not (self._stuck or self.lost.done()):
            self.lost.set_result(None)


@pytest.mark.parametrize("way", ["receive", "connection"])
async def test_that_the_client_has_gone_is_noticed_by_either_way_alone(way: str) -> None:
    async with open_house() as house:
        line = Line(house)
        answering = asyncio.create_task(line.answer())
        viewer = await line.opened()
        if way == "receive":
            line.left.set()
        else:
            line.lost.set_result(None)
        await asyncio.wait_for(answering, 5)
        assert (viewer.ended, len(house.services.viewers)) == (EndReason.CLIENT, 0)


async def test_every_request_of_a_connection_is_told_that_its_client_has_gone() -> None:
    """By `receive` alone; uvicorn itself tells the newest request, which here has not begun."""
    told: list[str] = []

    async def app(scope: Any, receive: Any, _send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        told.append(scope["path"])

    config = uvicorn.Config(app, http=DroppableProtocol, lifespan="off", log_config=None)
    config.load()
    state, loop = ServerState(), asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: DroppableProtocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    async with server:
        client = StreamClient("/first")
        await client.open(server.sockets[0].getsockname()[1])
        client.send(b"GET /second HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await eventually(lambda: any(connection.pipeline for connection in state.connections))
        client.reset()
        await eventually(lambda: "/first" in told)


async def until_asked(viewer: Viewer, _write: Write) -> None:
    await viewer.ending.wait()


async def test_a_connection_whose_client_takes_the_rest_is_kept() -> None:
    async with open_house() as house:
        line = Line(house)
        answering = asyncio.create_task(line.answer(until_asked))
        (await line.opened()).end(EndReason.STOP)
        await asyncio.wait_for(answering, 5)
        assert not line.aborted
        assert line.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_connection_whose_client_leaves_the_rest_in_the_buffers_is_dropped() -> None:
    """Else a flush that nobody takes would hold the stop."""
    async with open_house() as house:
        line = Line(house, drained=for_ever)
        answering = asyncio.create_task(line.answer(until_asked))
        (await line.opened()).end(EndReason.STOP)
        await asyncio.wait_for(answering, 5)
        assert line.aborted


async def test_the_bounds_of_a_stop_do_not_add_up() -> None:
    async with open_house() as house:
        line = Line(house, stuck=True)

        async def slow(viewer: Viewer, _write: Write) -> None:
            await viewer.ending.wait()
            line.send_for_ever = True
            await asyncio.sleep(0.8 * CLOSE_SECONDS)

        answering = asyncio.create_task(line.answer(slow))
        viewer = await line.opened()
        begun = time.monotonic()
        viewer.end(EndReason.STOP)
        await asyncio.wait_for(answering, 5)
        assert 0.9 * CLOSE_SECONDS < time.monotonic() - begun < 1.6 * CLOSE_SECONDS
