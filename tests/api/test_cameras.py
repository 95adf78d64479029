"""Cameras: how each is doing, field by field, in the order of the configuration."""

import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import pytest_asyncio

from healthd.cameras.source import CameraSource, Read, SourceOptions
from healthd.errors import CameraError
from healthd.frames import CapturedImage, StreamInfo
from healthd.plugins import SOURCES, Plugin
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


def gone(why: str = "no route to host") -> Any:
    raise CameraError(why)


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
        assert camera["model"] == {"id": None, "state": "ready", "reason": None, "idle": False}
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


# -- plugins that say odd things of themselves -------------------------------------------------------------------------


def odd_read() -> object:
    info = StreamInfo(fps=np.float32(25), codec=np.str_("h264"))  # type: ignore[arg-type]
    return CapturedImage(picture(3), None, info)


class OddSource(FakeSource):
    """Numbers and texts of types that JSON does not know."""

    model_id = np.str_("odd.onnx")
    recording = np.bool_(0)  # type: ignore[assignment]


async def test_values_of_other_types_are_told_as_numbers_and_texts() -> None:
    async with open_house({"good": FakeSource(), "odd": OddSource(read=odd_read)}) as house:
        await eventually(lambda: house.runner("odd").info.codec and house.runner("good").has_frame)
        answer = await house.get("/api/v1/cameras")
        assert answer.status_code == 200, answer.text
        good, odd = answer.json()
        for camera in (good, odd):
            assert_shape(camera)
            assert camera["errors"] == []
        assert (odd["codec"], odd["nominal_fps"], odd["recording"]) == ("h264", 25.0, False)
        assert odd["model"]["id"] == "odd.onnx"


@pytest.mark.parametrize(
    ("info", "codec", "fps"),
    [
        (StreamInfo(fps=float("nan"), codec="\ud800"), "\\ud800", None),
        (StreamInfo(fps="many", codec=7), "7", None),  # type: ignore[arg-type]
        (StreamInfo(fps=10**400, codec=b"h264"), "b'h264'", None),  # type: ignore[arg-type]
    ],
)
async def test_what_is_no_number_is_left_out_and_what_is_no_text_is_made_one(
    info: StreamInfo, codec: str, fps: float | None
) -> None:
    async with open_house({"odd": FakeSource(read=lambda: CapturedImage(picture(3), None, info))}) as house:
        await eventually(lambda: house.runner("odd").info.codec)
        (odd,) = (await house.get("/api/v1/cameras")).json()
        assert (odd["codec"], odd["nominal_fps"]) == (codec, fps)


class Unaskable:
    """A thing of a plugin whose every attribute raises."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError("rtsp://bob:hunter2hunter2@cam.lan is not to be told \ud800")


async def test_a_plugin_that_cannot_be_asked_is_an_error_of_its_own_camera_alone() -> None:
    source = FakeSource()
    async with open_house({"good": FakeSource(), "mute": source}) as house:
        await eventually(lambda: house.runner("mute").has_frame and house.runner("good").has_frame)
        source.params = Unaskable()  # type: ignore[assignment]
        answer = await house.get("/api/v1/cameras")
        assert answer.status_code == 200, answer.text
        good, mute = answer.json()
        for camera in (good, mute):
            assert_shape(camera)
            assert camera["has_frame"]
        assert (good["reason"], good["errors"]) == (None, [])
        assert (mute["state"], mute["errors"][-1]["task"]) == ("live", "plugin")
        for told in (mute["reason"], mute["errors"][-1]["reason"]):
            assert "cannot be asked about its camera: RuntimeError" in told
        assert "hunter2" not in answer.text


# -- secrets in what a plugin says -------------------------------------------------------------------------------------

MODEL_URL = "https://bob:hunter2secret@models.lan/y.onnx?token=abcdef123"


class RemoteModel(FakeSource):
    model_id = MODEL_URL


async def test_the_id_of_a_model_shows_no_secret_in_the_api_the_envelope_and_the_metrics() -> None:
    def predict(image: Any) -> Any:
        return replace(prediction(image), model_id=MODEL_URL)

    loading = threading.Event()
    async with open_house({"gym": RemoteModel(predict=predict, on_load=loading.wait)}) as house:
        await eventually(lambda: house.runner().health.state == "live")
        waiting = await house.get("/api/v1/state")
        assert waiting.json()["waiting_for"]
        loading.set()
        await eventually(lambda: house.runner().counts.predicted > 0)
        with house.services.models.use("fake-family", MODEL_URL), house.services.models.use("fake-family", "m"):
            metrics = await house.get("/metrics")
        camera, predicted = [await house.get(f"/api/v1/cameras/gym{tail}") for tail in ("", "/prediction")]
        for answer in (waiting, metrics, camera, predicted):
            assert "models.lan/y.onnx" in answer.text, answer.text
            for secret in ("bob", "hunter2secret", "abcdef123"):
                assert secret not in answer.text
        assert camera.json()["model"]["id"] == predicted.json()["model_id"]
        assert 'model="m"' in metrics.text


class NasOptions(SourceOptions):
    nas_password: str
    deep: dict[str, list[str]]


class Nas(CameraSource):
    """Tells its secrets in its errors."""

    contract = 1
    options_model = NasOptions

    @contextmanager
    def camera(self) -> Iterator[Read]:
        options = self.options
        assert isinstance(options, NasOptions)
        yield lambda: gone(f"the nas refused {options.nas_password} and {options.deep['tokens'][0]}")


async def test_a_secret_among_the_options_of_a_plugin_is_not_told_by_its_errors() -> None:
    options = {"nas_password": "tr0ub4dor&3", "deep": {"tokens": ["s3cond-t0ken"]}}
    plugin: Plugin[Any] = Plugin("nas", SOURCES, "healthd-nas", "0.1", Nas)
    camera_of_nas = {"plugin": "nas", "options": options}
    async with open_house(cameras={"gym": camera_of_nas}, plugins=(plugin,)) as house:
        await eventually(lambda: house.runner().health.reason)
        camera = (await house.get("/api/v1/cameras/gym")).text
        assert "the nas refused *** and ***" in camera
        for secret in ("tr0ub4dor", "s3cond"):
            assert secret not in camera
            assert secret not in repr(house.services.settings)


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
