"""Engine `openvino` in f32 says what ultralytics says, on real weights, real pictures and real frames.

Like is compared with like: ultralytics runs *the same file*, so the same network at the same input shape (ONNX Runtime
for `.onnx`; OpenVINO, held to f32 as well, for OpenVINO directories). Both answer down to 0.25, so that a detection
just above 0.3 on one side finds its match just below 0.3 on the other. `HEALTHD_ALL_FRAMES=1` compares fifty frames.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from healthd.frames import Image
from healthd.models.model import Detection, InferenceParams, Model

PARAMS = InferenceParams(confidence=0.25, iou=0.45, max_det=300)
MUST_MATCH = 0.3

pytestmark = [
    pytest.mark.assets,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


@dataclass(slots=True)
class Worst:
    """The largest differences seen so far."""

    matched: int = 0
    iou: float = 1.0
    confidence: float = 0.0
    keypoint_px: float = 0.0
    """In pixels of the image scaled to 640."""


class Reference:
    """What ultralytics says."""

    def __init__(self, vendor: Any, path: Path) -> None:
        self._yolo = vendor.YOLO(str(path))

    def predict(self, image: Image) -> list[tuple[np.ndarray, float, int, np.ndarray]]:
        """Return box, confidence, class id and keypoints (points, 3) of every detection."""
        result = self._yolo.predict(
            image, conf=PARAMS.confidence, iou=PARAMS.iou, max_det=PARAMS.max_det, verbose=False
        )[0]
        boxes = result.boxes.data.cpu().numpy()
        bodies = np.zeros((len(boxes), 0, 3)) if result.keypoints is None else result.keypoints.data.cpu().numpy()
        return [(row[:4], float(row[4]), int(row[5]), body) for row, body in zip(boxes, bodies, strict=True)]


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return float(shared / (sum(areas) - shared))


def compare(ours: Sequence[Detection], theirs: Sequence[Any], worst: Worst, *, scale: float) -> None:
    """Pair the detections of one image and fail on one above 0.3 that has no partner, on either side."""
    free = list(theirs)
    for detection in ours:
        partners = [other for other in free if other[2] == detection.class_id]
        best = max(partners, key=lambda other: overlap(detection.box_xyxy, other[0]), default=None)
        if best is None or overlap(detection.box_xyxy, best[0]) < 0.97:
            assert detection.confidence < MUST_MATCH, f"ultralytics does not see {detection}"
            continue
        free = [other for other in free if other is not best]
        note(detection, best, worst, scale=scale)
    lonely = [other for other in free if other[1] >= MUST_MATCH]
    assert not lonely, f"only ultralytics sees {lonely}"


def note(detection: Detection, other: Any, worst: Worst, *, scale: float) -> None:
    box, confidence, _, body = other
    if max(detection.confidence, confidence) < MUST_MATCH:
        return
    worst.matched += 1
    worst.iou = min(worst.iou, overlap(detection.box_xyxy, box))
    worst.confidence = max(worst.confidence, abs(detection.confidence - confidence))
    for point, (x, y, seen) in zip(detection.keypoints or (), body, strict=True):
        if max(point.confidence, seen) > 0.5:
            worst.keypoint_px = max(worst.keypoint_px, float(np.hypot(point.x - x, point.y - y)) * scale)


def check(model: Model, reference: Reference, images: Sequence[Image], name: str) -> Worst:
    worst = Worst()
    for image in images:
        prediction = model.predict(image, PARAMS)
        assert prediction.metadata["precision"] == ("int8" if "int8" in name else "f32")
        compare(prediction.results, reference.predict(image), worst, scale=640 / max(image.shape[:2]))
    print(f"parity {name}: {len(images)} images, {worst}")
    assert worst.matched > len(images) // 2, "too little was seen for the comparison to mean something"
    assert worst.confidence <= 0.02
    assert worst.keypoint_px <= 2
    return worst


@contextmanager
def openvino_in_f32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold the OpenVINO backend of ultralytics to f32; left alone it takes bf16 on processors that have it."""
    openvino = importlib.import_module("openvino")
    plain = openvino.Core.compile_model

    def compile_model(core: Any, model: Any, device_name: str, config: dict[str, Any]) -> Any:
        return plain(core, model, device_name, {**config, "INFERENCE_PRECISION_HINT": "f32"})

    with monkeypatch.context() as patch:
        patch.setattr(openvino.Core, "compile_model", compile_model)
        yield


@pytest.mark.parametrize(
    "name", ["yolo11n", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("yolov8n-pose", "yolo26n-pose"))]
)
def test_same_onnx_file_same_detections(
    name: str,
    weights: Path,
    vendor: Any,
    load: Callable[..., Model],
    images: list[Image],
) -> None:
    path = weights / f"{name}.onnx"
    model = load(path, engine="openvino", rectangular=False)
    check(model, Reference(vendor, path), images, name)


@pytest.mark.parametrize("name", ["yolov8n-pose", pytest.param("yolo11n", marks=pytest.mark.thorough)])
def test_a_fixed_export_says_at_the_shape_of_the_picture_what_the_checkpoint_says_there(
    name: str,
    weights: Path,
    vendor: Any,
    load: Callable[..., Model],
    images: list[Image],
) -> None:
    model = load(weights / f"{name}.onnx", engine="openvino")
    check(model, Reference(vendor, weights / f"{name}.pt"), images, f"{name} on .pt")


@pytest.mark.thorough
def test_same_onnx_file_same_detections_for_a_fresh_export(
    export: Callable[..., Path],
    vendor: Any,
    load: Callable[..., Model],
    images: list[Image],
) -> None:
    path = export("yolo11n-pose")
    check(load(path, engine="openvino", rectangular=False), Reference(vendor, path), images, "yolo11n-pose")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("yolo11n", {"dynamic": True}, marks=pytest.mark.thorough),
        pytest.param("yolo11n-pose", {"dynamic": True, "simplify": True}, marks=pytest.mark.thorough),
        ("yolo11n", {"nms": True, "imgsz": 480}),
        ("yolo26n-pose", {"nms": False}),
        pytest.param("yolo26n-pose", {"nms": False, "dynamic": True}, marks=pytest.mark.thorough),
        pytest.param("yolo26n-pose", {"nms": False, "imgsz": [384, 640]}, marks=pytest.mark.thorough),
        pytest.param("yolo26n-pose", {"nms": False, "format": "openvino"}, marks=pytest.mark.thorough),
        pytest.param("yolov8n-pose", {"format": "openvino", "dynamic": True}, marks=pytest.mark.thorough),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(f"{key}={value[key]}" for key in value),
)
def test_every_head_and_shape_says_what_ultralytics_says(
    name: str,
    arguments: dict[str, Any],
    export: Callable[..., Path],
    vendor: Any,
    load: Callable[..., Model],
    pictures: dict[str, Image],
    clip_frames: list[Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = export(name, **arguments)
    with openvino_in_f32(monkeypatch):
        images = [*pictures.values(), *clip_frames[4::12]]
        rectangular = bool(arguments.get("dynamic"))
        model = load(path, engine="openvino", rectangular=rectangular)
        check(model, Reference(vendor, path), images, f"{name} {arguments}")


def test_an_int8_openvino_directory_says_what_ultralytics_says(
    weights: Path,
    vendor: Any,
    load: Callable[..., Model],
    pictures: dict[str, Image],
    clip_frames: list[Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = weights / "yolov8n-pose_int8_openvino_model"
    with openvino_in_f32(monkeypatch):
        images = [*pictures.values(), *clip_frames[4::12]]
        check(load(path, engine="openvino", rectangular=False), Reference(vendor, path), images, path.name)
