"""Many viewers: one encode for all of them, one who is slow is alone with it, and nothing is left of any."""

import asyncio
import random
import statistics
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.process.daemon import Daemon
from tests.process.streaming import EVENTS, STREAM, daemon, ended, eventually, opened, samples
from tests.stream_client import StreamClient, looking

pytestmark = pytest.mark.process

VIEWERS, FPS = 50, 15


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("crowd"), streams={"write_timeout_seconds": 2}, fps=FPS) as running:
        running.until_state("gym", "live")
        yield running
        assert running.errors() == []


async def test_fifty_viewers_get_every_frame_at_one_encode_each_and_a_slow_one_among_them_is_alone_with_it(
    watched: Daemon,
) -> None:
    encodes = 'healthd_jpeg_encodes_total{camera="gym",variant="plain"}'
    published = 'healthd_camera_frames_read_total{camera="gym"}'
    seconds = 5.0
    earlier = set(opened(watched))
    async with looking(watched.port, *[STREAM] * VIEWERS) as clients:
        await eventually(lambda: all(client.frames for client in clients))
        slow = await StreamClient(STREAM, receive_buffer=4096).open(watched.port)
        slow.stop_reading()  # it is dropped while the others look
        await asyncio.sleep(0.5)
        before, begun = await samples(watched), time.monotonic()
        first = [client.frames[-1] for client in clients]
        await asyncio.sleep(seconds)
        last = [client.frames[-1] for client in clients]
        after, lasted = await samples(watched), time.monotonic() - begun
        counts = [
            sum(1 for number in client.frames if number > start) for client, start in zip(clients, first, strict=True)
        ]
    frames = after[published] - before[published]
    assert frames / lasted > 0.8 * FPS, "this machine has no time for the camera itself"
    assert min(counts) >= (14 / 15) * frames - 1, (frames, counts)
    assert max(last) - min(last) <= 2
    assert after[encodes] - before[encodes] <= frames * 1.2 + 2, "more than one encode per frame"
    assert statistics.mean(client.parts[-1].size for client in clients) > 10_000
    slow.leave()
    await eventually(lambda: len(ended(watched)) == len(opened(watched)))
    reasons = [event["reason"] for session, event in ended(watched).items() if session not in earlier]
    assert reasons.count("stalled") == 1


async def come_and_go(port: int, rng: random.Random) -> None:
    """Connect, and disconnect at a random moment, half of the time by a reset."""
    client = StreamClient(rng.choice([STREAM, STREAM, STREAM, f"{STREAM}?width=160", EVENTS]))
    await client.open(port)
    try:
        await asyncio.sleep(rng.choice([0.0, rng.random() / 1000, rng.random() / 10]))
    finally:
        if rng.random() < 0.5:
            client.reset()
        else:
            client.leave()


async def churn(port: int, rng: random.Random, *, times: int, at_once: int = 20) -> None:
    """Come and go so many times, so many at once."""
    left = iter(range(times))

    async def one() -> None:
        for _ in left:
            await come_and_go(port, rng)

    await asyncio.gather(*(one() for _ in range(at_once)))


async def test_a_thousand_who_come_and_go_leave_nothing_behind(watched: Daemon) -> None:
    process, rng = psutil.Process(watched.pid), random.Random(11)
    await churn(watched.port, rng, times=1000)
    await eventually(lambda: len(ended(watched)) == len(opened(watched)))
    await asyncio.sleep(0.3)
    threads, descriptors, memory = process.num_threads(), process.num_fds(), process.memory_info().rss
    sessions = len(opened(watched))
    await churn(watched.port, rng, times=1000)
    await asyncio.sleep(0.3)
    await eventually(lambda: len(ended(watched)) == len(opened(watched)))
    assert len(opened(watched)) - sessions > 500, "most were gone before they were let in"
    values = await samples(watched)
    assert {value for name, value in values.items() if name.startswith("healthd_viewers_open")} == {0.0}
    assert (await asyncio.to_thread(watched.get, "/api/v1/viewers")).json() == []
    ends = sum(value for name, value in values.items() if name.startswith("healthd_viewers_ended_total"))
    assert ends == values["healthd_viewers_admitted_total"] == len(opened(watched))
    assert values['healthd_viewers_ended_total{reason="bug"}'] == 0
    await eventually(lambda: process.num_fds() <= descriptors, seconds=5, what=lambda: (descriptors, process.num_fds()))
    assert process.num_threads() <= threads
    assert process.memory_info().rss - memory < 6e6
