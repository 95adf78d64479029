"""The demo's trained models, run as shipped on the demo's own clips and compared with the ground truth."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from healthd.models.model import InferenceParams, Model, ModelSpec
from healthd_yolo.demo import config
from healthd_yolo.family import YoloFamily
from healthd_yolo.model_options import YoloModelOptions

openvino = pytest.importorskip("openvino")

DEMO = Path(__file__).parents[1] / "healthd_yolo" / "demo"
CONFIDENCE = 0.4
MODELS = ("gym-pose.onnx", "rack-detect.onnx")


@dataclass(frozen=True)
class Seen:
    """What a model found on one frame: `rows` (n, 6 or 57), boxes and keypoints in pixels of the frame."""

    rows: Any

    def of_class(self, class_id: int) -> Any:
        return self.rows[self.rows[:, 5] == class_id]


def compiled(file: str) -> Model:
    path = DEMO / file
    cameras = config()["cameras"].values()
    size = next(camera["options"].get("imgsz") for camera in cameras if Path(camera["options"]["model"]).name == file)
    return YoloFamily().load(ModelSpec(file, path, DEMO, YoloModelOptions(imgsz=size)))


def look(model: Model, frame: Any) -> Seen:
    """Predict as a camera does, by the engine that `healthd demo` uses."""
    found = model.predict(frame, InferenceParams(confidence=CONFIDENCE)).results
    points = [[value for p in d.keypoints or () for value in (p.x, p.y, p.confidence)] for d in found]
    rows = [[*d.box_xyxy, d.confidence, d.class_id, *more] for d, more in zip(found, points, strict=True)]
    return Seen(np.array(rows) if rows else np.zeros((0, 6 + 51)))


def watched(file: str, clip: str) -> tuple[dict[str, Any], list[Seen]]:
    model = compiled(file)
    capture = cv2.VideoCapture(str(DEMO / clip))
    seen = []
    while (read := capture.read())[0]:
        seen.append(look(model, read[1]))
    capture.release()
    return json.loads((DEMO / clip).with_suffix(".json").read_text()), seen


@pytest.fixture(scope="module")
def gym() -> tuple[dict[str, Any], list[Seen]]:
    return watched("gym-pose.onnx", "gym.mp4")


@pytest.fixture(scope="module")
def rack() -> tuple[dict[str, Any], list[Seen]]:
    return watched("rack-detect.onnx", "rack.mp4")


def overlap(boxes: Any, box: Any) -> Any:
    """Return the intersection over union (n,) of boxes (n, 4) with one box (4,)."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:4], box[2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes[:, 2:4] - boxes[:, :2]).prod(axis=1)
    return shared / (areas + np.prod(np.subtract(box[2:], box[:2])) - shared)


def found_share(facts: dict[str, Any], seen: list[Seen], class_id: int, least: float) -> float:
    """Return which share of the things of one class, over all frames, was found with at least that overlap."""
    hits = []
    for frame, result in zip(facts["frames"], seen, strict=True):
        for thing in frame["objects"]:
            if thing["class_id"] == class_id and thing["visible_share"] > 0.5:
                boxes = result.of_class(class_id)[:, :4]
                hits.append(len(boxes) > 0 and overlap(boxes, np.array(thing["box_xyxy"])).max() >= least)
    return float(np.mean(hits))


def people(seen: list[Seen]) -> Any:
    """Return the keypoints (frames, 17, 2) of the most confident person of each frame; the last one's where none is."""
    points, last = [], np.zeros((17, 2))
    for result in seen:
        rows = result.of_class(0)
        if len(rows):
            last = rows[rows[:, 4].argmax(), 6:].reshape(17, 3)[:, :2]
        points.append(last)
    return np.array(points)


def crossings(signal: Any, low: float, high: float) -> int:
    """Count how often a signal rises above `high` after it was below `low`."""
    count, armed = 0, False
    for value in signal:
        if value < low:
            armed = True
        elif value > high and armed:
            count, armed = count + 1, False
    return count


def counted(points: Any) -> dict[str, int]:
    """Count squats by the hips' sinking, and jumping jacks by the hands' rising above the head."""
    smooth = np.array([points[max(0, i - 1) : i + 2].mean(axis=0) for i in range(len(points))])
    leg = smooth[:, 15:17, 1].mean(axis=1) - smooth[:, 11:13, 1].mean(axis=1)
    sunk = 1 - leg / np.quantile(leg, 0.9)
    raised = (smooth[:, 5:7, 1].mean(axis=1) - smooth[:, 9:11, 1].mean(axis=1)) / np.quantile(leg, 0.9)
    return {"squat": crossings(sunk, 0.15, 0.35), "jumping_jack": crossings(raised, 0.0, 0.3)}


def test_the_person_is_found_on_the_clip(gym: tuple[dict[str, Any], list[Seen]]) -> None:
    assert found_share(*gym, class_id=0, least=0.5) >= 0.98
    assert found_share(*gym, class_id=0, least=0.75) >= 0.9


def test_nobody_else_is_found_on_the_clip(gym: tuple[dict[str, Any], list[Seen]]) -> None:
    crowded = [len(result.rows) > 1 for result in gym[1]]
    assert np.mean(crowded) <= 0.02


def test_keypoints_lie_where_they_are(gym: tuple[dict[str, Any], list[Seen]]) -> None:
    """Errors are shares of the person's standing height, so that they mean the same in a squat."""
    facts, seen = gym
    true = np.array([frame["objects"][0]["keypoints"] for frame in facts["frames"]])
    boxes = np.array([frame["objects"][0]["box_xyxy"] for frame in facts["frames"]])
    errors = np.linalg.norm(people(seen) - true[..., :2], axis=2) / (boxes[:, 3] - boxes[:, 1]).max()
    shown = errors[true[..., 2] == 2]
    assert shown.mean() < 0.02
    assert np.quantile(shown, 0.95) < 0.08


def test_repetitions_counted_from_the_model_are_those_of_the_truth(gym: tuple[dict[str, Any], list[Seen]]) -> None:
    facts, seen = gym
    names = [repetition["exercise"] for repetition in facts["repetitions"]]
    assert counted(people(seen)) == {name: names.count(name) for name in set(names)}


def test_the_counter_itself_finds_the_truth_in_the_truth(gym: tuple[dict[str, Any], list[Seen]]) -> None:
    true = np.array([frame["objects"][0]["keypoints"] for frame in gym[0]["frames"]])[..., :2]
    assert counted(true) == {"squat": 5, "jumping_jack": 4}


@pytest.mark.parametrize(
    ("class_name", "least"), [("person", 0.95), ("dumbbell", 0.85), ("kettlebell", 0.9), ("barbell", 0.8)]
)
def test_equipment_is_found_on_the_clip(rack: tuple[dict[str, Any], list[Seen]], class_name: str, least: float) -> None:
    facts, seen = rack
    assert found_share(facts, seen, facts["class_names"].index(class_name), 0.5) >= least


def test_what_is_found_is_there(rack: tuple[dict[str, Any], list[Seen]]) -> None:
    facts, seen = rack
    right = []
    for frame, result in zip(facts["frames"], seen, strict=True):
        for row in result.rows:
            true = np.array([t["box_xyxy"] for t in frame["objects"] if t["class_id"] == row[5]]).reshape(-1, 4)
            right.append(len(true) > 0 and overlap(true, row[:4]).max() >= 0.4)
    assert np.mean(right) >= 0.95


@pytest.mark.parametrize("file", MODELS)
def test_the_models_stay_small(file: str) -> None:
    assert (DEMO / file).stat().st_size <= 4e6


@pytest.mark.parametrize("file", MODELS)
def test_the_models_say_what_they_are_and_nothing_of_where_they_were_made(file: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(DEMO / file)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["task"] == ("pose" if "pose" in file else "detect")
    assert facts["stride"] == "32"
    assert facts["imgsz"] == "[256, 256]"
    assert facts["end2end"] == "False"
    assert facts["license"].startswith("AGPL-3.0")
    assert "'person'" in facts["names"] or '"person"' in facts["names"]
    data = (DEMO / file).read_bytes()
    for trace in (b"/home/", b"/tmp/", b"/root/", b"/work/", b"site-packages"):
        assert trace not in data


@pytest.mark.parametrize(("shape", "count"), [((1, 3, 256, 256), 1), ((2, 3, 256, 256), 2), ((1, 3, 160, 256), 1)])
@pytest.mark.parametrize("file", MODELS)
def test_batch_and_size_may_change(file: str, shape: tuple[int, ...], count: int) -> None:
    raw = openvino.Core().compile_model(DEMO / file, "CPU")(np.zeros(shape, dtype=np.float32))[0]
    anchors = sum(shape[2] // stride * (shape[3] // stride) for stride in (8, 16, 32))
    assert raw.shape == (count, 4 + 1 + 51 if "pose" in file else 4 + 4, anchors)
