"""What each precision changes of what is found, on real weights and real frames; the figures of docs/models.md.

`pytest -s` prints one line for each network and precision; with `HEALTHD_ALL_FRAMES=1` over all frames, as the
figures in the documents were made, else over every third. A detection counts as found again when one of its class
overlaps it by 0.7 or more and has at least a confidence of 0.2; asked for are those from 0.35 on, so that the
threshold itself loses nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from healthd.frames import Image
from healthd.models.model import Detection, InferenceParams, Keypoint, Model

PARAMS = InferenceParams(confidence=0.2, iou=0.45, max_det=300)
ASKED = 0.35
SAME_OVERLAP = 0.7

pytestmark = pytest.mark.assets
Load = Callable[..., Model]


@dataclass(slots=True)
class Changes:
    """How two answers differ, over many images."""

    asked: int = 0
    lost: int = 0
    overlaps: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    points_px: list[float] = field(default_factory=list)
    """In pixels of the image scaled to 640."""

    def told(self) -> str:
        points = f"{np.mean(self.points_px):.2f} / {np.percentile(self.points_px, 99):.2f}" if self.points_px else "-"
        return (
            f"{self.asked - self.lost} of {self.asked} | IoU mean {np.mean(self.overlaps):.4f} worst"
            f" {min(self.overlaps):.3f} | confidence mean {np.mean(self.confidences):.4f} worst"
            f" {max(self.confidences):.3f} | points mean / p99 {points} px"
        )


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return float(shared / (sum(areas) - shared))


def note(changes: Changes, wanted: Sequence[Detection], found: Sequence[Detection], *, scale: float) -> None:
    """Look for each wanted detection among the found ones."""
    free = list(found)
    for one in wanted:
        if one.confidence < ASKED:
            continue
        changes.asked += 1
        same = [other for other in free if other.class_id == one.class_id]
        best = max(same, key=lambda other: overlap(one.box_xyxy, other.box_xyxy), default=None)
        if best is None or overlap(one.box_xyxy, best.box_xyxy) < SAME_OVERLAP:
            changes.lost += 1
            continue
        free.remove(best)
        changes.overlaps.append(overlap(one.box_xyxy, best.box_xyxy))
        changes.confidences.append(abs(one.confidence - best.confidence))
        for point, other in zip(one.keypoints or (), best.keypoints or (), strict=True):
            if min(point.confidence, other.confidence) > 0.5:
                changes.points_px.append(float(np.hypot(point.x - other.x, point.y - other.y)) * scale)


def of_checkpoint(vendor: Any, path: Path) -> Callable[[Image], tuple[Detection, ...]]:
    """Return what ultralytics says of the checkpoint itself, on torch in f32."""
    yolo = vendor.YOLO(str(path))

    def predict(image: Image) -> tuple[Detection, ...]:
        said = yolo.predict(image, conf=PARAMS.confidence, iou=PARAMS.iou, max_det=PARAMS.max_det, verbose=False)[0]
        bodies = [None] * len(said.boxes) if said.keypoints is None else said.keypoints.data.tolist()
        return tuple(
            Detection(
                (row[0], row[1], row[2], row[3]),
                row[4],
                int(row[5]),
                said.names[int(row[5])],
                None if body is None else tuple(Keypoint(*point) for point in body),
            )
            for row, body in zip(said.boxes.data.tolist(), bodies, strict=True)
        )

    return predict


Say = Callable[[str, str], list[tuple[Detection, ...]]]


@pytest.fixture(scope="module")
def say(weights: Path, vendor: Any, load: Load, images: list[Image]) -> Say:
    """Return what a file says of each image in a precision; each is asked once. Checkpoints answer on torch in f32."""

    @cache
    def said(name: str, precision: str) -> list[tuple[Detection, ...]]:
        if name.endswith(".pt"):
            predict = of_checkpoint(vendor, weights / name)
            return [predict(image) for image in images]
        model = load(weights / name, precision=precision)
        return [model.predict(image, PARAMS).results for image in images]

    return said


@pytest.mark.parametrize(
    ("name", "checkpoint", "precision", "lost", "mean_overlap"),
    [
        ("yolov8n-pose.onnx", "yolov8n-pose.pt", "f32", 0.0, 0.9999),
        ("yolo11n.onnx", "yolo11n.pt", "f32", 0.0, 0.9999),
        ("yolov8n-pose.onnx", "yolov8n-pose.pt", "auto", 0.02, 0.97),
        ("yolo11n.onnx", "yolo11n.pt", "auto", 0.03, 0.97),
        ("yolo26n-pose.onnx", "yolo26n-pose.pt", "auto", 0.03, 0.97),
        ("yolov8n-pose_int8_openvino_model", "yolov8n-pose.pt", "int8", 0.06, 0.95),
        ("yolov8n-pose_int8_openvino_model", "yolov8n-pose.pt", "auto", 0.06, 0.95),
    ],
)
def test_each_precision_stays_within_what_is_documented(
    *,
    name: str,
    checkpoint: str,
    precision: str,
    lost: float,
    mean_overlap: float,
    images: list[Image],
    say: Say,
) -> None:
    found = say(name, precision)
    for reference, expected in {
        "f32 of the same file": say(name, "f32"),
        "the checkpoint": say(checkpoint, ""),
    }.items():
        there, back = Changes(), Changes()
        for image, said, wanted in zip(images, found, expected, strict=True):
            scale = 640 / max(image.shape[:2])
            note(there, wanted, said, scale=scale)
            note(back, said, wanted, scale=scale)
        print(f"{name} {precision} beside {reference}: {there.told()}; new {back.lost}")
        assert there.asked > 30
        assert there.lost + back.lost <= lost * there.asked
        assert np.mean(there.overlaps) >= mean_overlap
