"""What each precision changes of what is found, on real weights and real frames; the figures of docs/models.md.

`pytest -s` prints one line for each network and precision; with `HEALTHD_ALL_FRAMES=1` over all frames, as the
figures in the documents were made, else over every third. A detection counts as found again when one of its class
overlaps it by 0.7 or more and has at least a confidence of 0.2; asked for are those from 0.35 on, so that the
threshold itself loses nothing.
"""

import os
from collections.abc import Callable
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
    weights: Path,
    vendor: Any,
    load: Load,
    pictures: dict[str, Image],
    clip_frames: list[Image],
) -> None:
    model, exact = load(weights / name, precision=precision), load(weights / name, precision="f32")
    torch = of_checkpoint(vendor, weights / checkpoint)
    beside = {"f32 of the same file": lambda image: exact.predict(image, PARAMS).results, "the checkpoint": torch}
    images = [*pictures.values(), *clip_frames][:: 1 if os.environ.get("HEALTHD_ALL_FRAMES") else 3]
    for reference, say in beside.items():
        there, back = Changes(), Changes()
        for image in images:
            said, wanted, scale = model.predict(image, PARAMS), say(image), 640 / max(image.shape[:2])
            there.note(wanted, said.results, scale=scale)
            back.note(said.results, wanted, scale=scale)
        print(f"{name} {precision} ({said.metadata['precision']}) beside {reference}: {told(there)}; new {back.lost}")
        assert there.asked > 30
        assert there.lost + back.lost <= lost * there.asked
        assert np.mean(there.overlaps) >= mean_overlap
