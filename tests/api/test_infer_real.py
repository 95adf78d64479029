"""Inference with real networks: pose and detect answer with the same keys, by file and by camera alike."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from healthd_yolo.family import YoloFamily
from tests.api.house import assert_error, decoded, open_house

INFER = "/api/v1/infer"


@pytest.fixture(scope="module")
def frame(assets: Path) -> np.ndarray:
    _, image = cv2.VideoCapture(str(assets / "clips" / "people_walking_720p.mp4")).read()
    return image


@pytest.mark.assets
async def test_pose_and_detect_answer_with_the_same_keys_and_see_people(assets: Path, frame: np.ndarray) -> None:
    jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
    models = {"directory": str(assets / "weights"), "default": "yolo11n.onnx"}
    async with open_house(family=YoloFamily(), models=models) as house:

        async def ask(content: bytes = jpeg, **query: Any) -> Any:
            return await house.client.post(INFER, params=query, files={"file": ("a.jpg", content)})

        found = {}
        for model, task in (("yolo11n.onnx", "detect"), ("yolov8n-pose.onnx", "pose")):
            answer = await ask(model=model)
            assert answer.status_code == 200, answer.text
            found[task] = answer.json()
            assert list(answer.json()) == ["model_id", "inference_time_ms", "results", "metadata"]
            metadata = answer.json()["metadata"]
            assert list(metadata)[:3] == ["task", "width", "height"]
            assert (metadata["task"], metadata["width"], metadata["height"]) == (task, 1280, 720)
            people = [one for one in answer.json()["results"] if one["class_name"] == "person"]
            assert len(people) >= 5
            assert {len(one.get("keypoints", [])) for one in people} == {17 if task == "pose" else 0}
        assert decoded(await ask(model="yolov8n-pose.onnx", annotated=True)).shape == (720, 1280, 3)
        few = (await ask(max_det=3, conf=0.1)).json()["results"]
        assert len(few) == 3
        labels = (await house.get("/api/v1/labels")).json()
        assert (labels["model"], labels["labels"]["0"], len(labels["labels"])) == ("yolo11n.onnx", "person", 80)
        counted = (await house.client.post("/api/v1/detect", files={"file": ("a.jpg", jpeg)})).json()
        assert counted["count"] == len(found["detect"]["results"])
        one = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
        assert (await ask(one)).json()["results"] == []
        assert_error(await ask(imgsz=33), 422)
        assert_error(await ask(model="bad/nothing.onnx"), 404)


@pytest.mark.assets
async def test_a_file_that_is_no_network_is_502_and_the_others_go_on(assets: Path, tmp_path: Path) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"this is no network at all")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "good.onnx").write_bytes((assets / "weights" / "yolo11n.onnx").read_bytes())
    jpeg = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    async with open_house(family=YoloFamily(), models={"directory": str(tmp_path)}) as house:
        for name, status in (("garbage.onnx", 502), ("empty.onnx", 502), ("good.onnx", 200)):
            answer = await house.client.post(INFER, params={"model": name}, files={"file": ("a.jpg", jpeg)})
            assert answer.status_code == status, answer.text
