"""Cameras: how each is doing, field by field, in the order of the configuration."""

import itertools
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from healthd.errors import CameraError
from healthd.frames import CapturedImage, StreamInfo
from tests.api.house import House, assert_error, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, picture, prediction

CONTRACT = {
    "name": str,
    "plugin": str,
    "source": str | None,
    "state": str,
    "since": str,
    "reason": str | None,
    "connected": bool,
    "has_frame": bool,
    "fps": int | float,
    "predicted_fps": int | float,
    "frame_id": int | None,
    "frame_age_ms": int | float | None,
    "width": int | None,
    "height": int | None,
    "frames": dict,
    "reconnects": int,
    "viewers": int,
    "model": dict,
}
URL = "rtsp://viewer:hunter2hunter2@cam.lan:554/stream1?token=abcdef123456"


def gone() -> object:
    raise CameraError("no route to host")


def assert_shape(camera: dict[str, Any]) -> None:
    """Check the fields of the contract and their types, whatever the camera is doing."""
    for key, kind in CONTRACT.items():
        assert isinstance(camera[key], kind), f"{key}: {camera[key]!r}"
    for flag in ("connected", "has_frame"):
        assert camera[flag] is True or camera[flag] is False
    for number in ("fps", "predicted_fps", "frame_id", "frame_age_ms", "width", "height", "reconnects", "viewers"):
        assert not isinstance(camera[number], bool)
    frames = camera["frames"]
    assert {"read", "predicted", "dropped"} <= set(frames)
    assert frames["read"] == frames["predicted"] + sum(frames["dropped"].values()) + frames["in_hand"]
    assert datetime.fromisoformat(camera["since"]).tzinfo is not None
    assert {"id", "state", "reason"} <= set(camera["model"])


async def test_every_configured_camera_stands_there_from_the_first_answer_on_in_the_order_of_the_configuration() -> (
    None
):
    gate = threading.Event()
    names = ["zebra", "ant", "Gym-2", "_hall"]
    sources = {name: FakeSource(on_open=gate.wait) for name in names}
    async with open_house(sources, cameras={"off": {"enabled": False}, "broken": {"plugin": "no-such"}}) as house:
        answer = await house.get("/api/v1/cameras")
        assert answer.status_code == 200
        cameras = answer.json()
        assert [camera["name"] for camera in cameras] == [*names, "off", "broken"]
        for camera in cameras:
            assert_shape(camera)
            assert not camera["has_frame"]
        assert [camera["state"] for camera in cameras] == ["starting"] * 4 + ["stopped", "failed"]
        gate.set()


async def test_a_live_camera_tells_its_rates_its_frame_and_its_accounts() -> None:
    source = FakeSource(predict=prediction)
    source._read = lambda: CapturedImage(source.next_image(), info=StreamInfo(fps=25.0, codec="h264"))
    async with open_house({"gym": source}, cameras={"gym": {"url": URL}}) as house:
        await eventually(lambda: house.runner().counts.predicted > 10)
        before = datetime.now(UTC)
        camera = (await house.get("/api/v1/cameras/gym")).json()
        assert_shape(camera)
        assert (camera["name"], camera["plugin"], camera["state"], camera["reason"]) == ("gym", "fake", "live", None)
        assert (camera["connected"], camera["has_frame"], camera["viewers"]) == (True, True, 0)
        assert (camera["width"], camera["height"]) == (64, 48)
        assert (camera["codec"], camera["nominal_fps"], camera["recording"]) == ("h264", 25.0, False)
        assert camera["fps"] > 1
        assert camera["predicted_fps"] > 1
        assert 0 < camera["frame_id"] <= house.runner().newest_frame_id
        assert 0 <= camera["frame_age_ms"] < 5000
        assert camera["frames"]["predicted"] > 10
        assert camera["model"] == {"id": None, "state": "ready", "reason": None}
        assert camera["tuning"] == {"predict_fps": None, "quality": 75, "confidence": 0.25, "iou": 0.45, "max_det": 300}
        assert datetime.fromisoformat(camera["since"]) <= before
        assert (camera["reconnects"], camera["errors"]) == (0, [])


async def test_the_source_is_shown_without_user_and_query_and_is_null_without_a_url() -> None:
    async with open_house({"gym": FakeSource(), "hall": FakeSource()}, cameras={"gym": {"url": URL}}) as house:
        answer = await house.get("/api/v1/cameras")
        gym, hall = answer.json()
        assert gym["source"] == "rtsp://***@cam.lan:554/stream1?***"
        assert hall["source"] is None
        for secret in ("hunter2", "viewer:", "abcdef123456"):
            assert secret not in answer.text


async def test_one_camera_is_told_as_in_the_list_of_all() -> None:
    async with open_house({"gym": FakeSource()}, cameras={"off": {"enabled": False}}) as house:
        one = (await house.get("/api/v1/cameras/off")).json()
        assert one == (await house.get("/api/v1/cameras")).json()[1]
        assert (one["state"], one["reason"]) == ("stopped", "disabled in the configuration")
        assert (await house.get("/api/v1/cameras/gym")).json()["name"] == "gym"


async def test_a_lost_camera_tells_why_and_its_rate_is_nothing() -> None:
    source = FakeSource()
    lost = threading.Event()
    source._read = lambda: gone() if lost.is_set() else source.next_image()
    async with open_house({"gym": source}) as house:
        await eventually(lambda: house.runner().newest_frame_id > 5)
        lost.set()
        await eventually(lambda: house.runner().health.state == "reconnecting")
        camera = (await house.get("/api/v1/cameras/gym")).json()
        assert_shape(camera)
        assert (camera["state"], camera["reason"]) == ("reconnecting", "no route to host")
        assert (camera["connected"], camera["has_frame"], camera["fps"]) == (False, False, 0.0)
        assert (camera["frame_id"], camera["frame_age_ms"], camera["width"]) == (None, None, None)
        assert camera["errors"][-1]["task"] == "reader"
        assert camera["errors"][-1]["reason"] == "no route to host"
        assert datetime.fromisoformat(camera["errors"][-1]["at"]).tzinfo is not None
        lost.clear()
        await eventually(lambda: house.runner().health.state == "live")
        assert (await house.get("/api/v1/cameras/gym")).json()["reconnects"] >= 1


async def test_a_frozen_camera_is_connected_and_has_no_picture_to_show() -> None:
    ticks = itertools.count()

    def same() -> object:
        threading.Event().wait(0.01)
        next(ticks)
        return picture(1)

    async with open_house({"gym": FakeSource(read=same)}, cameras={"gym": {"frozen_after_seconds": 0.2}}) as house:
        await eventually(lambda: house.runner().health.state == "frozen")
        camera = (await house.get("/api/v1/cameras/gym")).json()
        assert_shape(camera)
        assert (camera["state"], camera["connected"], camera["has_frame"]) == ("frozen", True, False)


async def test_the_reason_of_a_camera_tells_no_secret() -> None:
    def leaking() -> object:
        raise CameraError(f"cannot open {URL}")

    async with open_house({"gym": FakeSource(read=leaking)}, cameras={"gym": {"url": URL}}) as house:
        await eventually(lambda: house.runner().health.state == "reconnecting")
        for path in ("/api/v1/cameras", "/api/v1/cameras/gym", "/api/v1/cameras/gym/snapshot"):
            answer = await house.get(path)
            assert "cam.lan" in answer.text
            assert "hunter2" not in answer.text
            assert "abcdef123456" not in answer.text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gym() -> AsyncIterator[House]:
    """A house for the tests that change nothing."""
    async with open_house({"gym": FakeSource(), "gym-2": FakeSource()}) as house:
        yield house


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["nobody", "GYM", "gym ", "é", "gym\x00", "gym\r\nX-Evil: a", "%67ym", "%"])
async def test_an_unknown_camera_is_not_found_whatever_its_name(gym: House, name: str) -> None:
    for rest in ("", "/snapshot", "/prediction"):
        answer = await gym.get(f"/api/v1/cameras/{quote(name, safe='')}{rest}")
        body = assert_error(answer, 404)
        assert body["detail"] == "unknown camera"
        assert body["extra"]["camera"] == name
        assert "x-evil" not in answer.headers


@pytest.mark.asyncio(loop_scope="module")
async def test_a_percent_encoded_name_is_the_name(gym: House) -> None:
    assert (await gym.get("/api/v1/cameras/%67ym%2D2")).json()["name"] == "gym-2"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("odd", ["a" * 20_000, "a%2Fb", "..%2F..%2Fetc%2Fpasswd", "%FF%FE", "a%3Fb", "%2E"])
async def test_a_name_that_no_camera_can_have_is_an_ordinary_404(gym: House, odd: str) -> None:
    body = assert_error(await gym.get(f"/api/v1/cameras/{odd}/snapshot"), 404)
    assert len(str(body["extra"])) < 200
