"""No picture is an error with a state and a reason, never an old picture and never an image of an error."""

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import datetime

import pytest
import pytest_asyncio

from healthd.errors import CameraError, SettingsError
from tests.api.house import Feed, House, MovableClock, assert_error, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, listed, picture, prediction


def gone() -> object:
    raise CameraError("no route to host")


def wrong() -> None:
    raise SettingsError("this camera has no second stream")


def still_picture(seconds: float) -> object:
    threading.Event().wait(seconds)
    return picture(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wall() -> AsyncIterator[House]:
    hang = threading.Event()
    sources = {
        "starting": FakeSource(on_open=hang.wait),
        "reconnecting": FakeSource(read=gone),
        "frozen": FakeSource(read=lambda: still_picture(0.02)),
        "failed": FakeSource(on_open=wrong),
        "paused": FakeSource(),
        "ended": FakeSource(read=listed([picture(1), picture(2)]), recording=True),
    }
    cameras = {
        "starting": {"open_timeout_seconds": 60},
        "frozen": {"frozen_after_seconds": 0.1},
        "reconnecting": {"reconnect_max_seconds": 0.5},
        "stopped": {"enabled": False},
        "broken": {"plugin": "no-such-plugin"},
    }
    async with open_house(sources, cameras=cameras) as house:
        await eventually(lambda: house.runner("paused").has_frame)
        house.runner("paused").pause()
        for name in sources:
            await eventually(lambda name=name: house.runner(name).health.state == name, seconds=10)
        yield house
        hang.set()


STATES = {
    "starting": ("starting", None),
    "reconnecting": ("reconnecting", "no route to host"),
    "frozen": ("frozen", "the picture has not changed for"),
    "failed": ("failed", "this camera has no second stream"),
    "paused": ("paused", "paused by request"),
    "ended": ("ended", "the recording has ended"),
    "stopped": ("stopped", "disabled in the configuration"),
    "broken": ("failed", "no plugin `no-such-plugin` is installed"),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("query", ["", "?overlay=true", "?max_age=100000", "?after=0", "?q=50&width=32"])
@pytest.mark.parametrize("name", STATES)
async def test_a_camera_without_a_picture_is_a_404_with_its_state_and_reason(
    wall: House, name: str, query: str
) -> None:
    state, reason = STATES[name]
    answer = await wall.get(f"/api/v1/cameras/{name}/snapshot{query}", headers={"If-None-Match": "*"})
    body = assert_error(answer, 404)
    assert body["extra"]["state"] == state
    assert (body["extra"]["reason"] or "").startswith(reason or "")
    assert datetime.fromisoformat(body["extra"]["since"]).tzinfo is not None
    assert name in body["detail"]
    assert state in body["detail"]
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers
    assert "x-frame-id" not in answer.headers


async def test_a_camera_that_stalls_is_a_404_with_its_state_and_reason() -> None:
    hang, source = threading.Event(), FakeSource(predict=prediction)
    source._read = lambda: source.next_image() if source._number < 5 else hang.wait() or gone()
    cameras = {"gym": {"stall_timeout_seconds": 0.2, "max_abandoned_workers": 64}}
    async with open_house({"gym": source}, cameras=cameras) as house:
        await eventually(lambda: house.runner().health.state == "stalled")
        for path in ("snapshot", "snapshot?overlay=true", "prediction"):
            body = assert_error(await house.get(f"/api/v1/cameras/gym/{path}"), 404)
            assert (body["extra"]["state"], body["extra"]["reason"]) == ("stalled", "no image within 0.2 s")
        hang.set()


async def test_a_picture_older_than_stale_after_seconds_is_never_shown() -> None:
    async with open_house(
        {"gym": Feed(predict=prediction)}, cameras={"gym": {"stall_timeout_seconds": 60, "stale_after_seconds": 0.2}}
    ) as house:
        await house.show(picture(1))
        etag = (await house.get("/api/v1/cameras/gym/snapshot")).headers.get("etag", "none")
        await eventually(lambda: house.runner().health.state == "stalled")
        for path in ("snapshot", "snapshot?overlay=true", "prediction", "snapshot?max_age=60000"):
            answer = await house.get(f"/api/v1/cameras/gym/{path}", headers={"If-None-Match": etag})
            body = assert_error(answer, 404)
            assert body["extra"]["state"] == "stalled"
            assert body["extra"]["reason"].startswith("no image for 0.")
        await house.show(picture(2))
        assert (await house.get("/api/v1/cameras/gym/snapshot")).status_code == 200


async def test_a_drawn_picture_older_than_stale_after_seconds_is_never_shown_beside_a_live_camera() -> None:
    gate, calls = threading.Event(), []

    def predict(image: object) -> object:
        calls.append(1)
        if len(calls) > 1:
            gate.wait(20)
        return prediction(image)  # type: ignore[arg-type]

    cameras = {"gym": {"stale_after_seconds": 0.3, "predict_timeout_seconds": 60}}
    async with open_house({"gym": FakeSource(predict=predict, fps=50)}, cameras=cameras) as house:
        await eventually(lambda: house.runner().counts.predicted == 1)
        await asyncio.sleep(0.35)
        assert (await house.get("/api/v1/cameras/gym/snapshot")).status_code == 200
        for path in ("snapshot?overlay=true", "prediction"):
            body = assert_error(await house.get(f"/api/v1/cameras/gym/{path}"), 404)
            assert body["extra"]["state"] == "live"
            assert body["extra"]["reason"].startswith("the newest predicted frame is 0.")
        gate.set()


async def test_a_camera_that_was_lost_shows_nothing_from_before() -> None:
    lost, source = threading.Event(), FakeSource(predict=prediction)
    source._read = lambda: gone() if lost.is_set() else source.next_image()
    async with open_house({"gym": source}, cameras={"gym": {"reconnect_max_seconds": 60}}) as house:
        await eventually(lambda: house.runner().counts.predicted > 2)
        shown = await house.get("/api/v1/cameras/gym/snapshot")
        lost.set()
        await eventually(lambda: house.runner().health.state == "reconnecting")
        assert_error(
            await house.get("/api/v1/cameras/gym/snapshot", headers={"If-None-Match": shown.headers["etag"]}), 404
        )
        assert_error(await house.get("/api/v1/cameras/gym/snapshot?overlay=true"), 404)
        assert_error(await house.get("/api/v1/cameras/gym/prediction"), 404)
        assert len(house.runner().jpegs) == 0
        lost.clear()
        house.runner().restart()
        await eventually(lambda: house.runner().has_frame)
        again = await house.get("/api/v1/cameras/gym/snapshot")
        assert int(again.headers["x-frame-id"]) > int(shown.headers["x-frame-id"])


async def test_the_age_in_the_header_is_that_of_the_clock_of_the_house() -> None:
    time = MovableClock()
    async with open_house({"gym": Feed()}, cameras={"gym": {"stall_timeout_seconds": 60}}) as house:
        await house.show(picture(1))
        house.services.clock = time.clock
        time.ahead = 3
        answer = await house.get("/api/v1/cameras/gym/snapshot")
        assert 3000 <= float(answer.headers["x-frame-age-ms"]) < 5000


@pytest.mark.asyncio(loop_scope="module")
async def test_an_error_is_never_an_image_whatever_the_caller_accepts(wall: House) -> None:
    answer = await wall.get("/api/v1/cameras/failed/snapshot", headers={"Accept": "image/jpeg,image/*;q=0.8"})
    assert_error(answer, 404)
