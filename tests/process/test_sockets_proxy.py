"""WebSockets behind nginx: with the two headers of the docs they work and end as without it; without them, why not."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.api.talking import closed, heard, noise
from tests.process.daemon import TESTS, Daemon, until
from tests.process.test_streams_proxy import nginx

pytestmark = pytest.mark.process
PICTURE = noise(width=320, height=180)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, {"models": {"default": "slow"}}) as daemon:
        yield daemon


def location(daemon: Daemon) -> str:
    """What the docs say."""
    page = (TESTS.parent / "docs" / "streams.md").read_text(encoding="utf-8")
    found = re.search(r"^location = /api/v1/ws \{.*?^\}", page, re.MULTILINE | re.DOTALL)
    assert found
    return found[0].replace("127.0.0.1:8080", f"127.0.0.1:{daemon.port}")


def dial(port: int) -> connect:
    return connect(f"ws://127.0.0.1:{port}/api/v1/ws", proxy=None, origin=f"http://127.0.0.1:{port}")  # type: ignore[arg-type]


def open_sockets(daemon: Daemon) -> int:
    return len(daemon.get("/api/v1/viewers").json())


async def test_as_the_docs_say_it_works_and_its_end_is_told(running: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "nginx"
    folder.mkdir()
    with nginx(folder, running.port, more=location(running)) as port:
        async with dial(port) as client:
            assert (await heard(client))["type"] == "ready"
            for number in range(1, 4):
                await client.send(PICTURE)
                answer = await heard(client)
                assert (answer["type"], answer["frame_id"]) == ("prediction", number)
            leaving: ClientConnection = await dial(port)
            await asyncio.to_thread(until, lambda: open_sockets(running) == 2)
            leaving.transport.abort()
            await asyncio.to_thread(until, lambda: open_sockets(running) == 1, seconds=5)
            running.send()
            assert await closed(client) == (1001, "healthd is stopping")
        assert await asyncio.to_thread(running.wait, seconds=10) == 0


async def test_as_nginx_comes_it_is_told_what_is_missing(running: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "nginx"
    folder.mkdir()
    with nginx(folder, running.port) as port:
        with pytest.raises(InvalidStatus) as refused:
            async with dial(port):
                pass
        assert refused.value.response.status_code == 426
        assert b"reverse proxy" in (refused.value.response.body or b"")
