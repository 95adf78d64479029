"""Behind nginx as it comes: pictures arrive at once, and whoever leaves or stops reading is noticed through it."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.faulty_plugin.installed.healthd_faulty.stamps import now_ms, stamp_of
from tests.process.daemon import Daemon, until
from tests.process.streaming import EVENTS, SLACK_SECONDS, STREAM, daemon, ended, epoch, eventually, opened
from tests.stream_client import StreamClient, looking

pytestmark = pytest.mark.process

WRITE_TIMEOUT = 1.0
CONFIG = """
daemon off;
pid nginx.pid;
error_log stderr;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{behind}; }}
        {more}
    }}
}}
"""
"""Nothing is set but where things lie, who listens and whom it stands before."""


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def nginx(folder: Path, behind: int, *, more: str = "") -> Iterator[int]:
    """Run nginx before the daemon; yield its port. `more`: other locations."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no nginx on this machine")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder.chmod(0o755)
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(port=port, behind=behind, more=more), encoding="ascii")
    command = [program, "-p", str(folder), "-c", str(config), "-e", "stderr"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            until(lambda: answers(port) or process.poll() is not None, what="nginx")
            assert process.poll() is None, process.stderr and process.stderr.read()
            yield port
        finally:
            process.terminate()
            process.wait(timeout=10)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("proxied")
    with daemon(folder, streams={"write_timeout_seconds": WRITE_TIMEOUT}, fps=15) as running:
        running.until_state("gym", "live")
        yield running


@pytest.fixture(scope="module")
def port(watched: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with nginx(tmp_path_factory.mktemp("nginx"), watched.port) as found:
        yield found


async def test_through_nginx_every_picture_arrives_at_once(port: int) -> None:
    def keeping(path: str) -> StreamClient:
        return StreamClient(path, keep=True)

    async with looking(port, STREAM, EVENTS, made=keeping) as [client, events]:
        ages = []
        while len(ages) < 20:
            count = len(client.frames)
            await eventually(lambda n=count: len(client.frames) > n)
            image = cv2.imdecode(np.frombuffer(client.parts[-1].jpeg, np.uint8), cv2.IMREAD_COLOR)
            stamp = stamp_of(image)
            assert stamp is not None
            ages.append(now_ms() - stamp.made_ms)
        assert client.error is None
        assert sorted(ages)[10] < 150, ages
        assert client.frames == list(range(client.frames[0], client.frames[-1] + 1))
        await eventually(lambda: events.events)


@pytest.mark.parametrize("way", ["leave", "reset"])
@pytest.mark.parametrize("state", ["live", "paused"])
async def test_through_nginx_whoever_leaves_is_noticed(state: str, way: str, port: int, watched: Daemon) -> None:
    if state == "paused":
        watched.client.post("/api/v1/cameras/gym/pause")
    before = len(opened(watched))
    clients = [await StreamClient(path).open(port) for path in (STREAM, EVENTS)]
    await eventually(lambda: all(client.parts or client.events for client in clients))
    await eventually(lambda: len(opened(watched)) == before + len(clients))
    for client in clients:
        getattr(client, way)()
    left_at = time.time()
    viewers = opened(watched)[before:]
    await eventually(lambda: ended(watched).keys() >= set(viewers), seconds=5)
    late = [epoch(ended(watched)[viewer]) - left_at for viewer in viewers]
    assert max(late) < (0.1 if state == "live" else 1.5) + SLACK_SECONDS
    assert {ended(watched)[viewer]["reason"] for viewer in viewers} == {"client"}
    watched.client.post("/api/v1/cameras/gym/resume")
    watched.until_state("gym", "live")


async def test_through_nginx_one_who_does_not_read_is_dropped_and_a_stop_is_clean(port: int, watched: Daemon) -> None:
    before = len(opened(watched))
    stalled = await StreamClient(STREAM, receive_buffer=4096).open(port)
    await eventually(lambda: len(stalled.frames) > 2 and len(opened(watched)) > before)
    stalled.stop_reading()
    (viewer,) = opened(watched)[before:]
    await eventually(lambda: viewer in ended(watched), seconds=20)
    assert ended(watched)[viewer]["reason"] == "stalled"
    stalled.leave()
    async with looking(port, *[STREAM] * 5, EVENTS) as clients:
        await eventually(lambda: all(client.parts or client.events for client in clients))
        begun = watched.send()
        code = await asyncio.to_thread(watched.wait, seconds=20)
        assert code == 0
        assert time.monotonic() - begun < 1.0 + SLACK_SECONDS
        await eventually(lambda: all(client.clean for client in clients), seconds=2)
        assert watched.errors() == []
