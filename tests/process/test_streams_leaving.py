"""Whoever leaves, or stops reading, is gone from the daemon too: the session, the work and the memory."""

import asyncio
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime

import psutil
import pytest

from tests.process.daemon import Daemon, until
from tests.process.streaming import (
    EVENTS,
    SLACK_SECONDS,
    STREAM,
    cpu_share,
    daemon,
    ended,
    epoch,
    eventually,
    opened,
    samples,
)
from tests.stream_client import StreamClient, looking

pytestmark = pytest.mark.process

WRITE_TIMEOUT = 1.0


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("leaving")
    with daemon(folder, streams={"write_timeout_seconds": WRITE_TIMEOUT}, model=True) as running:
        running.until_state("gym", "live")
        yield running
        assert running.errors() == []


@pytest.mark.parametrize(("state", "goal"), [("live", 0.1), ("paused", 1.5)])
async def test_closing_the_socket_frees_the_session(state: str, goal: float, watched: Daemon) -> None:
    if state == "paused":
        watched.client.post("/api/v1/cameras/gym/pause")
    late = []
    try:
        for way in ("leave", "reset") * 5:
            before = len(opened(watched))
            client = await StreamClient(STREAM).open(watched.port)
            await eventually(lambda c=client: len(c.parts) >= 2 if state == "live" else c.parts)
            await eventually(lambda b=before: len(opened(watched)) > b)
            getattr(client, way)()
            left_at = time.time()
            viewer = opened(watched)[before]
            await eventually(lambda v=viewer: v in ended(watched), seconds=goal + 5)
            late.append(epoch(ended(watched)[viewer]) - left_at)
            assert ended(watched)[viewer]["reason"] == "client"
    finally:
        watched.client.post("/api/v1/cameras/gym/resume")
    watched.until_state("gym", "live")
    assert statistics.median(late) < goal, late
    assert max(late) < goal + SLACK_SECONDS, late


async def test_when_the_last_viewer_goes_encodes_stop_and_the_processor_is_as_idle_as_before(watched: Daemon) -> None:
    await asyncio.sleep(0.3)
    idle = await cpu_share(watched, 1.5)
    async with looking(watched.port, *[STREAM] * 10, f"{STREAM}?overlay=true&width=320", EVENTS) as clients:
        await eventually(lambda: all(len(client.frames) > 3 for client in clients[:-1]))
        busy = await cpu_share(watched, 1.0)
    await eventually(lambda: len(ended(watched)) == len(opened(watched)))
    before = await samples(watched)
    afterwards = await cpu_share(watched, 1.5)
    after = await samples(watched)
    encodes = [name for name in after if name.startswith("healthd_jpeg_encodes_total")]
    assert {name: after[name] - before[name] for name in encodes} == dict.fromkeys(encodes, 0.0)
    read = 'healthd_camera_frames_read_total{camera="gym"}'
    assert after[read] - before[read] > 10, "the camera itself goes on"
    assert afterwards < idle + max(0.05, 0.3 * (busy - idle)), (idle, busy, afterwards)
    assert after['healthd_viewers_open{camera="gym",kind="mjpeg"}'] == 0


async def test_one_who_polls_for_the_next_frame_gets_it_within_a_frame_interval(watched: Daemon) -> None:
    first = known = (await asyncio.to_thread(watched.camera, "gym"))["frame_id"]
    late: list[float] = []
    for _ in range(30):
        path = f"/api/v1/cameras/gym/snapshot?after={known}&wait=10000"
        client = await StreamClient(path, http="1.0").open(watched.port)
        await eventually(lambda c=client: c.status is not None)
        answered_at = time.time()
        assert client.status == 200
        known = int(client.answered["x-frame-id"])
        late.append(answered_at - datetime.fromisoformat(client.answered["x-frame-timestamp"]).timestamp())
        client.leave()
    assert known >= first + 30, "a frame was answered twice"
    assert statistics.median(late) < 1 / 15, late


READER = """
import socket, sys
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
sock.connect(("127.0.0.1", int(sys.argv[1])))
sock.sendall(b"GET %b HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n" % sys.argv[2].encode())
while sock.recv(65536):
    print("read", flush=True)
"""


async def test_clients_that_are_stopped_are_dropped_memory_stays_and_the_others_lose_no_frame(watched: Daemon) -> None:
    process = psutil.Process(watched.pid)
    before = len(opened(watched))
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, str(watched.port), STREAM], stdout=subprocess.PIPE)  # noqa: ASYNC220
        for _ in range(4)
    ]
    try:
        await eventually(lambda: len(opened(watched)) == before + len(readers))
        stalled = opened(watched)[before:]
        for reader in readers:
            assert reader.stdout is not None
            await asyncio.to_thread(reader.stdout.readline)
        async with looking(watched.port, *[STREAM] * 3) as others:
            await eventually(lambda: all(len(client.frames) > 5 for client in others))
            memory = process.memory_info().rss
            for reader in readers:
                reader.send_signal(signal.SIGSTOP)
            stopped_at = time.time()
            most = memory
            while not ended(watched).keys() >= set(stalled):
                assert time.time() < stopped_at + 10
                most = max(most, process.memory_info().rss)
                await asyncio.sleep(0.02)
            late = [epoch(ended(watched)[viewer]) - stopped_at for viewer in stalled]
            assert {ended(watched)[viewer]["reason"] for viewer in stalled} == {"stalled"}
            assert max(late) < WRITE_TIMEOUT + 0.5 + SLACK_SECONDS, late
            assert most - memory < 16e6
            await asyncio.sleep(0.2)
            for client in others:
                assert client.frames == list(range(client.frames[0], client.frames[-1] + 1))
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
            assert reader.stdout is not None
            reader.stdout.close()


def test_the_log_tells_each_session_once(watched: Daemon) -> None:
    until(lambda: len(ended(watched)) == len(opened(watched)), what=watched.story)
    assert len(set(opened(watched))) == len(opened(watched)) > 20
