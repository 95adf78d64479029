"""Waiting for the next frame: `after` and `wait` of a snapshot."""

import asyncio
import time

from tests.api.house import Feed, assert_error, decoded, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, picture, prediction

SNAPSHOT = "/api/v1/cameras/gym/snapshot"
LONG = {"gym": {"stall_timeout_seconds": 60, "stale_after_seconds": 60}}


async def test_it_answers_as_soon_as_a_newer_frame_is_there() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        known = await house.show(picture(1))
        waiting = asyncio.create_task(house.get(f"{SNAPSHOT}?after={known}&wait=20000"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        begun = time.monotonic()
        await house.show(picture(99))
        answer = await asyncio.wait_for(waiting, 5)
        assert time.monotonic() - begun < 2
        assert answer.status_code == 200
        assert answer.headers["x-frame-id"] == str(known + 1)
        assert abs(int(decoded(answer)[20, 20, 0]) - 99) < 4


async def test_following_a_camera_misses_no_time_and_gets_a_newer_frame_each_time() -> None:
    async with open_house({"gym": FakeSource(fps=20)}) as house:
        await eventually(lambda: house.runner().frame is not None)
        ids, begun = [house.runner().newest_frame_id], time.monotonic()
        for _ in range(10):
            answer = await house.get(f"{SNAPSHOT}?after={ids[-1]}&wait=5000")
            assert answer.status_code == 200
            ids.append(int(answer.headers["x-frame-id"]))
        assert ids == sorted(set(ids))
        assert time.monotonic() - begun < 0.5 + 3


async def test_a_newer_frame_that_is_there_already_is_answered_at_once() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        await house.show(picture(2))
        answer = await asyncio.wait_for(house.get(f"{SNAPSHOT}?after=1&wait=60000"), 5)
        assert (answer.status_code, answer.headers["x-frame-id"]) == (200, "2")


async def test_when_none_came_it_is_a_304() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        known = await house.show(picture(1))
        begun = time.monotonic()
        answer = await house.get(f"{SNAPSHOT}?after={known}&wait=200")
        assert (answer.status_code, answer.content) == (304, b"")
        assert time.monotonic() - begun >= 0.19
        assert answer.headers["x-frame-id"] == str(known)
        at_once = await asyncio.wait_for(house.get(f"{SNAPSHOT}?after={known}"), 5)
        assert at_once.status_code == 304
        assert house.runner().jpegs.encodes == 0


async def test_an_id_of_an_earlier_process_is_answered_at_once() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        answer = await asyncio.wait_for(house.get(f"{SNAPSHOT}?after=123456&wait=60000"), 5)
        assert (answer.status_code, answer.headers["x-frame-id"]) == (200, "1")


async def test_waiting_for_the_first_frame_of_a_camera_is_possible() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        waiting = asyncio.create_task(house.get(f"{SNAPSHOT}?after=0&wait=20000"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await house.show(picture(1))
        assert (await asyncio.wait_for(waiting, 5)).headers["x-frame-id"] == "1"


async def test_the_drawn_picture_is_waited_for_until_it_is_predicted() -> None:
    async with open_house({"gym": Feed(predict=prediction)}, cameras=LONG) as house:
        known = await house.show(picture(1))
        await eventually(lambda: house.runner().counts.predicted == 1)
        waiting = asyncio.create_task(house.get(f"{SNAPSHOT}?overlay=true&after={known}&wait=20000"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await house.show(picture(2))
        assert (await asyncio.wait_for(waiting, 5)).headers["x-frame-id"] == "2"


async def test_at_the_stop_whoever_waits_is_answered_at_once_and_nobody_waits_any_more() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        known = await house.show(picture(1))
        waiting = [asyncio.create_task(house.get(f"{SNAPSHOT}?after={known}&wait=60000")) for _ in range(5)]
        await asyncio.sleep(0.1)
        house.services.supervisor.release_waiters()
        for one in waiting:
            assert (await asyncio.wait_for(one, 5)).status_code == 304
        late = await asyncio.wait_for(house.get(f"{SNAPSHOT}?after={known}&wait=60000"), 5)
        assert late.status_code == 304


async def test_waiting_at_a_camera_that_is_lost_ends_in_its_state_and_reason() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        known = await house.show(picture(1))
        house.runner().pause()
        body = assert_error(await house.get(f"{SNAPSHOT}?after={known}&wait=100"), 404)
        assert body["extra"]["state"] == "paused"


async def test_waiting_without_an_id_waits_for_nothing() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        assert (await asyncio.wait_for(house.get(f"{SNAPSHOT}?wait=60000"), 5)).status_code == 200


async def test_a_caller_who_leaves_while_waiting_leaves_nothing_behind() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        known = await house.show(picture(1))
        tasks = len(asyncio.all_tasks())
        waiting = [asyncio.create_task(house.get(f"{SNAPSHOT}?after={known}&wait=60000")) for _ in range(3)]
        await asyncio.sleep(0.1)
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks + 1, seconds=2)  # it would have waited a minute
        await house.show(picture(2))
        await asyncio.sleep(0.1)
        assert house.runner().jpegs.encodes == 0, "encoded for nobody"
        assert (await house.get(SNAPSHOT)).headers["x-frame-id"] == str(known + 1)


async def test_a_caller_who_sent_another_request_behind_the_one_that_waits_is_answered_in_order() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        known = await house.show(picture(1))
        host, port = house.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for path in (f"{SNAPSHOT}?after={known}&wait=200", "/healthz"):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        second = await asyncio.wait_for(reader.readuntil(b'{"status":"ok"}'), 5)
        assert first.startswith(b"HTTP/1.1 304")
        assert second.startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
