"""The stop with everybody looking: clean for all who read, and no later for those who do not."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.process.daemon import Daemon, until
from tests.process.streaming import EVENTS, SLACK_SECONDS, STREAM, daemon, eventually, opened
from tests.stream_client import StreamClient, looking

pytestmark = pytest.mark.process


DRAWN = "/api/v1/cameras/gym/snapshot?overlay=true"
SELDOM = {"predict_fps": 0.1, "stale_after_seconds": 60}


def just_drawn(running: Daemon) -> int:
    """The number of a predicted frame that will be the newest for a few seconds to come."""
    answer = until(lambda: (found := running.get(DRAWN)).status_code == 200 and found, what="a prediction")
    number = int(answer.headers["x-frame-id"])
    if float(answer.headers["x-frame-age-ms"]) > 5000:
        number = int(running.get(f"{DRAWN}&after={number}&wait=15000").headers["x-frame-id"])
    return number


@pytest.mark.parametrize("height", [100, 270])
async def test_a_stop_with_everybody_looking_takes_less_than_a_second_and_is_clean(height: int, tmp_path: Path) -> None:
    """Small pictures wait in other buffers than large ones."""
    with daemon(tmp_path, camera=SELDOM, model=True, fps=15, height=height, width=320) as running:
        running.until_state("gym", "live")
        async with looking(running.port, *[STREAM] * 50, *[EVENTS] * 10) as viewers:
            stalled = [await StreamClient(STREAM, receive_buffer=4096).open(running.port) for _ in range(5)]
            await eventually(lambda: len(opened(running)) == 65)
            await eventually(lambda: all(client.parts or client.events for client in viewers))
            for client in stalled:
                client.stop_reading()
            waiting = f"{DRAWN}&after={await asyncio.to_thread(just_drawn, running)}&wait=60000"
            async with looking(running.port, *[waiting] * 10) as pollers:
                await asyncio.sleep(1.0)  # the buffers of those who do not read fill up
                assert {poller.status for poller in pollers} == {None}, "they do not wait"
                begun = running.send()
                code = await asyncio.to_thread(running.wait, seconds=20)
                seconds = time.monotonic() - begun
                assert code == 0, running.story()
                assert seconds < 1.0 + SLACK_SECONDS, running.story()
                await eventually(lambda: all(client.lost_at for client in [*viewers, *pollers]))
                assert [client.error for client in viewers if not client.clean] == []
                assert [client for client in viewers if not client.clean] == []
                for client in viewers[:50]:
                    assert client.parts[-1].frame_id is None, "the last picture could be taken for live"
                for poller in pollers:
                    assert poller.status in {304, 404}
            for client in stalled:
                client.leave()
        reasons = [event["reason"] for event in running.events("viewer_ended")]
        assert len(reasons) == 65
        assert set(reasons) == {"stop"}
        assert running.errors() == []
        assert running.left_behind() == []
