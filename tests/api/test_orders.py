"""Orders: restart, pause, resume, and changes that have effect at once."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from healthd.cameras.source import CameraSource, SourceOptions
from healthd.errors import SettingsError
from healthd.models.model import InferenceParams
from tests.api.house import Feed, House, assert_error, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, listed, picture, prediction

GYM = "/api/v1/cameras/gym"


async def order(house: House, what: str, name: str = "gym") -> dict[str, Any]:
    answer = await house.client.post(f"/api/v1/cameras/{name}/{what}")
    assert answer.status_code == 202, answer.text
    camera: dict[str, Any] = answer.json()
    assert camera["name"] == name
    return camera


async def test_pausing_closes_the_camera_and_resuming_opens_it_again_with_the_same_model() -> None:
    source = FakeSource(predict=prediction)
    async with open_house({"gym": source}) as house:
        await eventually(lambda: house.runner().counts.predicted > 0)
        assert (await order(house, "pause"))["state"] == "paused"
        await eventually(lambda: source.closed == 1)
        assert (await house.get(GYM)).json()["reason"] == "paused by request"
        assert (await order(house, "pause"))["state"] == "paused"
        assert (await order(house, "resume"))["state"] == "starting"
        await eventually(lambda: house.runner().has_frame)
        assert (source.opened, source.loaded) == (2, 1)
        assert (await order(house, "resume"))["state"] == "live"  # nothing happens to one that is not paused
        assert source.opened == 2


async def test_restarting_begins_anew_with_camera_and_model() -> None:
    source = FakeSource(predict=prediction)
    async with open_house({"gym": source}) as house:
        await eventually(lambda: house.runner().counts.predicted > 0)
        before = house.runner().newest_frame_id
        camera = await order(house, "restart")
        assert (camera["state"], camera["reason"], camera["has_frame"]) == ("starting", "restarted by request", False)
        await eventually(lambda: house.runner().has_frame and source.loaded == 2)
        assert (source.opened, source.closed) == (2, 1)
        assert house.runner().newest_frame_id > before


async def test_a_failed_an_ended_and_a_paused_camera_can_be_restarted() -> None:
    wrong = [True]

    def on_open() -> None:
        if wrong[0]:
            raise SettingsError("no such stream")

    recording = FakeSource(read=listed([picture(1)]), recording=True)
    async with open_house({"failed": FakeSource(on_open=on_open), "ended": recording, "paused": FakeSource()}) as house:
        await eventually(lambda: house.runner("failed").health.state == "failed")
        await eventually(lambda: house.runner("ended").health.state == "ended")
        await order(house, "pause", "paused")
        wrong[0] = False
        recording._read = recording.next_image
        for name in ("failed", "ended", "paused"):
            await order(house, "restart", name)
            await eventually(lambda name=name: house.runner(name).has_frame)


@pytest.mark.parametrize("what", ["restart", "pause", "resume"])
async def test_a_camera_that_cannot_run_is_a_409_that_says_why(what: str) -> None:
    cameras = {"off": {"enabled": False}, "broken": {"plugin": "nope"}}
    async with open_house({"gym": FakeSource()}, cameras=cameras) as house:
        off = assert_error(await house.client.post(f"/api/v1/cameras/off/{what}"), 409)
        assert "disabled in the configuration" in off["detail"]
        broken = assert_error(await house.client.post(f"/api/v1/cameras/broken/{what}"), 409)
        assert "no plugin `nope` is installed" in broken["detail"]
        unknown = assert_error(await house.client.post(f"/api/v1/cameras/nobody/{what}"), 404)
        assert unknown["detail"] == "unknown camera"
        assert (await house.get(f"{GYM}/{what}")).status_code in {404, 405}


async def test_a_failed_camera_cannot_be_paused() -> None:
    def on_open() -> None:
        raise SettingsError("no such stream")

    async with open_house({"gym": FakeSource(on_open=on_open)}) as house:
        await eventually(lambda: house.runner().health.state == "failed")
        assert "no such stream" in assert_error(await house.client.post(f"{GYM}/pause"), 409)["detail"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gym() -> AsyncIterator[House]:
    """A house for the tests that ask for changes."""
    async with open_house({"gym": FakeSource(predict=prediction)}) as house:
        yield house


BOUNDS = {
    "predict_fps": (0.1, 120),
    "quality": (1, 95),
    "confidence": (0, 1),
    "iou": (0, 1),
    "max_det": (1, 1000),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("key", BOUNDS)
async def test_a_change_is_taken_at_its_bounds_and_refused_beyond_them_with_the_bound(gym: House, key: str) -> None:
    low, high = BOUNDS[key]
    step = 1 if isinstance(low, int) and high > 1 else 0.001
    for value in (low, high):
        answer = await gym.client.patch(GYM, json={key: value})
        assert answer.status_code == 200, answer.text
        assert answer.json()["tuning"][key] == value
    for value in (low - step, high + step, -1, 1e30 if key != "quality" else 10**9):
        body = assert_error(await gym.client.patch(GYM, json={key: value}), 422)
        assert key in body["detail"]
        if value != 1e30:
            assert f"from {low:g} to {high:g}" in body["detail"]
        assert body["extra"][0]["key"] in {key, "body"}
    assert (await gym.get(GYM)).json()["tuning"][key] == high


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"qualty": 50}, "qualty"),
        ({"name": "other"}, "name"),
        ({"quality": None}, "quality"),
        ({"quality": "high"}, "quality"),
        ({"quality": True}, "quality"),
        ({"confidence": None}, "confidence"),
        ({"max_det": 1.5}, "max_det"),
        ({"predict_fps": []}, "predict_fps"),
        ([], "body"),
        ("quality", "body"),
    ],
)
async def test_a_change_of_something_else_is_a_422_that_names_it(gym: House, change: object, named: str) -> None:
    before = (await gym.get(GYM)).json()["tuning"]
    body = assert_error(await gym.client.patch(GYM, json=change), 422)
    assert named in body["detail"]
    assert (await gym.get(GYM)).json()["tuning"] == before


@pytest.mark.asyncio(loop_scope="module")
async def test_all_that_is_out_of_bounds_is_told_at_once_and_nothing_is_changed(gym: House) -> None:
    before = (await gym.get(GYM)).json()["tuning"]
    change = {"quality": 0, "iou": 7, "confidence": 0.9, "predict_fps": 5}
    body = assert_error(await gym.client.patch(GYM, json=change), 422)
    assert [problem["key"] for problem in body["extra"]] == ["quality", "iou"]
    assert (await gym.get(GYM)).json()["tuning"] == before


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b'{"quality": }', b"quality=50", b'{"confidence": 1e999}'])
async def test_a_body_that_is_no_json_is_an_error_in_words(gym: House, body: bytes) -> None:
    answer = await gym.client.patch(GYM, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    assert_error(answer, answer.status_code)


@pytest.mark.asyncio(loop_scope="module")
async def test_no_change_is_no_error(gym: House) -> None:
    before = (await gym.get(GYM)).json()["tuning"]
    assert (await gym.client.patch(GYM, json={})).json()["tuning"] == before


@pytest.mark.asyncio(loop_scope="module")
async def test_a_change_of_an_unknown_camera_is_a_404(gym: House) -> None:
    assert_error(await gym.client.patch("/api/v1/cameras/nobody", json={"quality": 50}), 404)


class Plain(FakeSource):
    """A camera whose plugin has no thresholds."""

    options_model = SourceOptions  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        CameraSource.__init__(self, "gym", options=SourceOptions())


async def test_thresholds_of_a_camera_that_has_none_are_a_422_and_its_quality_can_be_changed() -> None:
    async with open_house({"gym": Plain()}) as house:
        body = assert_error(await house.client.patch(GYM, json={"confidence": 0.5, "quality": 30}), 422)
        assert "confidence" in body["detail"]
        tuning = (await house.get(GYM)).json()["tuning"]
        assert tuning == {"predict_fps": None, "quality": 75, "confidence": None, "iou": None, "max_det": None}
        assert (await house.client.patch(GYM, json={"quality": 30})).json()["tuning"]["quality"] == 30


async def test_new_thresholds_are_those_of_the_next_prediction() -> None:
    seen: list[InferenceParams | None] = []
    source = FakeSource(predict=lambda image: seen.append(source.params) or prediction(image))
    async with open_house({"gym": source}) as house:
        await eventually(lambda: seen)
        change = {"confidence": 0.9, "iou": 0.1, "max_det": 7}
        assert (await house.client.patch(GYM, json=change)).status_code == 200
        await eventually(lambda: seen[-1] == InferenceParams(**change))


async def test_a_new_quality_is_that_of_the_next_picture() -> None:
    cameras = {"gym": {"stall_timeout_seconds": 60, "stale_after_seconds": 60}}
    async with open_house({"gym": Feed()}, cameras=cameras) as house:
        await house.show(picture(1, size=(240, 320)))
        before = await house.get(f"{GYM}/snapshot")
        await house.client.patch(GYM, json={"quality": 1})
        after = await house.get(f"{GYM}/snapshot", headers={"If-None-Match": before.headers["etag"]})
        assert after.status_code == 200
        assert len(after.content) < len(before.content)
        assert (await house.get(f"{GYM}/snapshot?q=75")).content == before.content


async def test_a_new_rate_of_predictions_holds_at_once_and_null_takes_it_off() -> None:
    times: list[float] = []
    source = FakeSource(predict=lambda image: times.append(time.monotonic()) or prediction(image), fps=100)
    async with open_house({"gym": source}, cameras={"gym": {"predict_fps": 0.1}}) as house:
        await eventually(lambda: len(times) == 1)
        assert (await house.client.patch(GYM, json={"predict_fps": None})).json()["tuning"]["predict_fps"] is None
        await eventually(lambda: len(times) > 10)
        await house.client.patch(GYM, json={"predict_fps": 0.5})
        settled = time.monotonic() + 0.1
        await eventually(lambda: time.monotonic() > settled)
        before = len(times)
        await eventually(lambda: time.monotonic() > settled + 0.4)
        assert len(times) <= before + 1


async def test_changes_end_with_the_process() -> None:
    async with open_house({"gym": FakeSource()}) as house:
        await house.client.patch(GYM, json={"quality": 30})
        assert house.services.settings.cameras["gym"].quality is None
