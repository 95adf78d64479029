"""Is a prediction what the contract says it is?"""

import math
from collections.abc import Mapping, Sequence

from healthd.frames import Image
from healthd.models.model import Detection, InferenceParams, Prediction
from healthd.testing.rules import Broken, as_json

_EDGE_PIXELS = 1.0
"""A box may stick out by as much as rounding makes."""


def check_prediction(said: object, image: Image, params: InferenceParams, labels: Mapping[int, str]) -> Prediction:
    """Return the prediction; raise `Broken` where it is none, or breaks the contract."""
    if not isinstance(said, Prediction):
        raise Broken(f"it returned {type(said).__name__}, not a Prediction", "return healthd.models.model.Prediction")
    if not isinstance(said.results, tuple) or not all(isinstance(one, Detection) for one in said.results):
        raise Broken("its `results` are no tuple of Detection", "return `tuple(Detection(...) for ...)`")
    as_json({**said.metadata}, "its `metadata`")
    as_json([said.model_id, said.inference_time_ms], "`model_id` and `inference_time_ms`")
    height, width = image.shape[:2]
    for name, value in (("width", width), ("height", height)):
        if said.metadata.get(name, value) != value:
            raise Broken(
                f"metadata says {name} {said.metadata[name]} of a picture of {width}x{height}",
                "say the size of the image that was given",
            )
    for one in said.results:
        _check_detection(one, width, height, labels)
    confidences = [one.confidence for one in said.results]
    if confidences != sorted(confidences, reverse=True):
        raise Broken("its results are not sorted by confidence", "return the most confident first")
    if confidences and confidences[-1] < params.confidence:
        raise Broken(
            f"asked for confidence {params.confidence:g} it gave {confidences[-1]:.3f} as well",
            "leave out what is below `params.confidence`",
        )
    if len(confidences) > params.max_det:
        raise Broken(f"asked for {params.max_det} results it gave {len(confidences)}", "keep to `params.max_det`")
    return said


def _check_detection(one: Detection, width: int, height: int, labels: Mapping[int, str]) -> None:
    points = [(point.x, point.y, point.confidence) for point in one.keypoints or ()]
    as_json([one.box_xyxy, one.confidence, one.class_id, one.class_name, points], "a detection")
    left, top, right, bottom = one.box_xyxy
    inside = -_EDGE_PIXELS <= left <= right <= width + _EDGE_PIXELS
    if not (inside and -_EDGE_PIXELS <= top <= bottom <= height + _EDGE_PIXELS):
        box = ", ".join(f"{side:.1f}" for side in one.box_xyxy)
        raise Broken(
            f"a box ({box}) is not within its picture of {width}x{height}",
            "give left, top, right, bottom in pixels of the image given, not of the network's input, and clip them",
        )
    if not 0 <= one.confidence <= 1 or not math.isfinite(one.confidence):
        raise Broken(f"a confidence is {one.confidence}", "give it from 0 to 1")
    if labels and labels.get(one.class_id) != one.class_name:
        raise Broken(
            f"class {one.class_id} is called {one.class_name!r}, and {labels.get(one.class_id)!r} in `labels`",
            "name classes as `labels` does",
        )


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes, 0 to 1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 1.0


def differ(one: Prediction, other: Prediction, *, scale: float = 1.0, at_least: float, confidence: float) -> str:
    """Say how the confident results of two predictions differ; the boxes of `other` are `scale` times as large.

    Results that are about as confident as `confidence`, which one of the two may miss, do not count.
    """
    theirs = [(found.class_id, [side / scale for side in found.box_xyxy]) for found in other.results]
    for found in one.results:
        if found.confidence < confidence:
            break
        best = max((overlap(found.box_xyxy, box) for class_id, box in theirs if class_id == found.class_id), default=0)
        if best < at_least:
            box = ", ".join(f"{side:.0f}" for side in found.box_xyxy)
            return f"{found.class_name} at ({box}) is found again with an overlap of {best:.2f} only"
    return ""
