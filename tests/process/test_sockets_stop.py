"""The stop with open WebSockets: each is told why, and nobody who does not read or is being answered holds it up."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.api.talking import closed, heard, noise
from tests.process.daemon import Daemon
from tests.process.streaming import SLACK_SECONDS, eventually, opened

pytestmark = pytest.mark.process
SOCKETS = 12
PICTURE = noise(width=320, height=180)


def daemon(folder: Path, **sections: Any) -> Daemon:
    """A daemon with a model that takes a while."""
    return Daemon(folder, {"models": {"default": "slow"}, **sections})


async def dial(stack: AsyncExitStack, running: Daemon, **options: Any) -> ClientConnection:
    url = running.url.replace("http://", "ws://") + "/api/v1/ws"
    return await stack.enter_async_context(connect(url, proxy=None, max_size=None, close_timeout=1, **options))


async def test_a_stop_closes_every_socket_with_1001_and_ends_within_a_second(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        async with AsyncExitStack() as stack:
            clients = [await dial(stack, running) for _ in range(SOCKETS)]
            for client in clients:
                assert (await heard(client))["type"] == "ready"
            silent = [await dial(stack, running, ping_interval=None) for _ in range(3)]
            await eventually(lambda: len(opened(running)) == SOCKETS + 3)
            for client in silent:
                client.transport.pause_reading()
            for client in clients[:6]:
                await client.send(PICTURE)
                await client.send(PICTURE)
            sending = asyncio.create_task(_pour(clients[6]))
            await asyncio.sleep(0.2)
            begun = running.send()
            ends = [await closed(client) for client in clients]
            code = await asyncio.to_thread(running.wait, seconds=20)
            seconds = time.monotonic() - begun
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            assert code == 0, running.story()
            assert ends == [(1001, "healthd is stopping")] * SOCKETS
            assert seconds < 1.0 + SLACK_SECONDS, running.story()
            for client in silent:
                client.transport.resume_reading()
        reasons = [event["reason"] for event in running.events("viewer_ended")]
        assert reasons == ["stop"] * (SOCKETS + 3)
        noise = [event for event in running.events() if event["level"] not in {"info", "debug"}]
        assert {event["event"] for event in noise} <= {"plugin_broken"}, running.story()
        assert running.left_behind() == []


async def _pour(client: ClientConnection) -> None:
    """Send as fast as one can."""
    while True:
        await client.send(PICTURE)
        await asyncio.sleep(0)


async def test_a_stop_waits_for_no_prediction_that_hangs(tmp_path: Path) -> None:
    with daemon(tmp_path, models={"default": "stuck"}) as running:
        async with AsyncExitStack() as stack:
            client = await dial(stack, running)
            await heard(client)
            await client.send(PICTURE)
            await asyncio.sleep(0.5)
            begun = running.send()
            assert await closed(client) == (1001, "healthd is stopping")
            code = await asyncio.to_thread(running.wait, seconds=20)
            assert code == 0, running.story()
            assert time.monotonic() - begun < 2 + SLACK_SECONDS
