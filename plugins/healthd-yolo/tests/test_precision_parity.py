"""What each precision changes of what is found, on real weights and real frames; the figures of docs/models.md.

`pytest -s` prints one line for each network and precision; with `HEALTHD_ALL_FRAMES=1` over all frames, as the
figures in the documents were made, else over every fifth. A detection counts as found again when one of its class
overlaps it by 0.7 or more and has at least a confidence of 0.2; asked for are those from 0.35 on, so that the
threshold itself loses nothing.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from healthd.frames import Image
from healthd.models.model import Detection, Keypoint, Model
from healthd_yolo.parity import PARAMS, Changes

pytestmark = pytest.mark.assets
Load = Callable[..., Model]


def told(changes: Changes) -> str:
    points = changes.points_px
    distances = f"{np.mean(points):.2f} / {np.percentile(points, 99):.2f}" if points else "-"
    return (
        f"{changes.asked - changes.lost} of {changes.asked} | IoU mean {np.mean(changes.overlaps):.4f} worst"
        f" {min(changes.overlaps):.3f} | confidence mean {np.mean(changes.confidences):.4f} worst"
        f" {max(changes.confidences):.3f} | points mean / p99 {distances} px"
    )


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
        pytest.param("yolov8n-pose.onnx", "yolov8n-pose.pt", "f32", 0.0, 0.9999, marks=pytest.mark.thorough),
        pytest.param("yolo11n.onnx", "yolo11n.pt", "f32", 0.0, 0.9999, marks=pytest.mark.thorough),
        pytest.param("yolov8n-pose.onnx", "yolov8n-pose.pt", "auto", 0.02, 0.97, marks=pytest.mark.thorough),
        pytest.param("yolo11n.onnx", "yolo11n.pt", "auto", 0.03, 0.97, marks=pytest.mark.thorough),
        pytest.param("yolo26n-pose.onnx", "yolo26n-pose.pt", "auto", 0.03, 0.97, marks=pytest.mark.thorough),
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
            there.note(wanted, said, scale=scale)
            back.note(said, wanted, scale=scale)
        print(f"{name} {precision} beside {reference}: {told(there)}; new {back.lost}")
        assert there.asked >= 20  # of a fifth of the frames; how many exactly depends on the processor's arithmetic
        assert there.lost + back.lost <= max(1, lost * there.asked)
        assert np.mean(there.overlaps) >= mean_overlap
