"""Predictions: the envelope, the same for every family, and the frame it belongs to."""

import json
import threading
from datetime import datetime

import numpy as np

from healthd.frames import Image
from healthd.models.model import Detection, Keypoint, Prediction
from tests.api.house import assert_error, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, prediction

PREDICTION = "/api/v1/cameras/gym/prediction"


def pose(image: Image) -> Prediction:
    body = Detection((1.5, 2.0, 30.25, 40.0), 0.875, 0, "person", (Keypoint(3.5, 4.0, 0.5), Keypoint(0.0, 0.0, 0.0)))
    thing = Detection((0.0, 0.0, 5.0, 5.0), 0.5, 7, "kettlebell")
    size = {"width": image.shape[1], "height": image.shape[0]}
    return Prediction("yolo11n-pose.onnx", 12.5, (body, thing), {"task": "pose", **size, "speed": {"network": 9.5}})


async def test_the_envelope_has_these_keys_and_no_others() -> None:
    async with open_house({"gym": FakeSource(predict=pose)}) as house:
        await eventually(lambda: house.runner().counts.predicted > 0)
        answer = await house.get(PREDICTION)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        told = json.loads(answer.content)
        assert list(told) == [
            "model_id",
            "inference_time_ms",
            "results",
            "metadata",
            "frame_id",
            "captured_at",
            "age_ms",
        ]
        assert (
            b'"results":[{"box_xyxy":[1.5,2.0,30.25,40.0],"confidence":0.875,"class_id":0,"class_name":"person",'
            in (answer.content)
        )
        assert b'"keypoints":[[3.5,4.0,0.5],[0.0,0.0,0.0]]},{' in answer.content
        assert told["results"][1] == {
            "box_xyxy": [0.0, 0.0, 5.0, 5.0],
            "confidence": 0.5,
            "class_id": 7,
            "class_name": "kettlebell",
        }
        assert (told["model_id"], told["inference_time_ms"]) == ("yolo11n-pose.onnx", 12.5)
        assert told["metadata"] == {"task": "pose", "width": 64, "height": 48, "speed": {"network": 9.5}}


async def test_it_names_the_frame_it_belongs_to_its_time_and_its_age() -> None:
    seen: list[int] = []

    def numbered(image: Image) -> Prediction:
        number = int(image[0, 0, 0]) + 251 * int(image[0, 0, 1])
        seen.append(number)
        return Prediction("fake", float(number), (), {"task": "detect", "width": 64, "height": 48})

    async with open_house({"gym": FakeSource(predict=numbered, fps=50)}) as house:
        for _ in range(3):
            after = house.runner().newest_frame_id
            await house.runner().wait_newer(after, overlay=True, timeout=5)
            told = (await house.get(PREDICTION)).json()
            assert told["inference_time_ms"] == told["frame_id"]
            assert 0 <= told["age_ms"] < 10_000
            assert datetime.fromisoformat(told["captured_at"]).tzinfo is not None
        snapshot = await house.get("/api/v1/cameras/gym/snapshot?overlay=true")
        assert int(snapshot.headers["x-frame-id"]) in seen


async def test_nothing_seen_is_an_empty_list() -> None:
    async with open_house({"gym": FakeSource(predict=prediction)}) as house:
        await eventually(lambda: house.runner().counts.predicted > 0)
        assert (await house.get(PREDICTION)).json()["results"] == []


async def test_without_a_model_it_is_a_404_that_says_so() -> None:
    async with open_house({"gym": FakeSource()}) as house:
        await eventually(lambda: house.runner().has_frame and house.runner().model_health.state == "none")
        body = assert_error(await house.get(PREDICTION), 404)
        assert body["extra"]["reason"] == "no model watches it"
        assert_error(await house.get("/api/v1/cameras/nobody/prediction"), 404)


async def test_a_model_that_fails_is_the_reason_and_the_camera_goes_on() -> None:
    def explode(image: Image) -> Prediction:
        raise ValueError("shape mismatch")

    async with open_house({"gym": FakeSource(predict=explode)}) as house:
        await eventually(lambda: house.runner().model_health.state == "retrying")
        body = assert_error(await house.get(PREDICTION), 404)
        assert "ValueError: shape mismatch" in body["extra"]["reason"]
        camera = (await house.get("/api/v1/cameras/gym")).json()
        assert camera["model"]["state"] == "retrying"
        assert camera["state"] == "live"


async def test_what_no_json_can_hold_is_an_error_of_its_own_camera_alone() -> None:
    def odd(image: Image) -> Prediction:
        return Prediction("fake", 1.0, (), {"task": "detect", "array": np.zeros(3), "lock": threading.Lock()})

    async with open_house({"gym": FakeSource(predict=odd), "hall": FakeSource(predict=prediction)}) as house:
        await eventually(lambda: house.runner().model_health.reason and house.runner("hall").counts.predicted)
        body = assert_error(await house.get(PREDICTION), 404)
        assert "metadata cannot be written as JSON" in body["extra"]["reason"]
        assert (await house.get("/api/v1/cameras/hall/prediction")).status_code == 200
        assert (await house.get("/api/v1/cameras/gym/snapshot")).status_code == 200
