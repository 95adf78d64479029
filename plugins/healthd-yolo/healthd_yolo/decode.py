"""From the numbers of a network to detections in input pixels: heads of YOLOv8, YOLO11 and YOLO26, detect and pose.

Two layouts come in. *Undecided*: (4 + classes + extras, anchors), a box per anchor and one score per class; boxes are
centre and size, or corners for the one-to-one head of YOLO26. *Decided*: (most, 6 + extras), one row per detection.
The order of steps is that of `non_max_suppression` and `Detect.postprocess` in ultralytics 8.4.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from healthd.errors import ModelError
from healthd.models.model import InferenceParams
from healthd_yolo.metadata import NetworkInfo
from healthd_yolo.nms import suppress_per_class

MOST_ONE_TO_ONE = 300
"""Detections that an end-to-end head gives at most, as ultralytics exports it."""

Floats = NDArray[np.float32]
Layout = Literal["anchors", "one_to_one", "rows"]
"""What an output holds: undecided, with suppression to come or of a one-to-one head, or decided."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Detections of one image, in input pixels, most confident first."""

    boxes: Floats
    """(n, 4) left, top, right, bottom."""
    scores: Floats
    """(n,) from 0 to 1."""
    class_ids: NDArray[np.intp]
    """(n,)"""
    extras: Floats
    """(n, extras): keypoints of a pose network, one point after the other."""
    discarded: int = 0
    """Rows that were left out because they are not finite numbers."""

    def take(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> "Rows":
        """Return some of the rows, in the order given."""
        return Rows(
            self.boxes[chosen], self.scores[chosen], self.class_ids[chosen], self.extras[chosen], self.discarded
        )


def decode(
    output: Floats, layout: Layout, info: NetworkInfo, *, params: InferenceParams, keep: AbstractSet[int] | None
) -> Rows:
    """Decode what a network gives for one image: (1, 4 + classes + extras, anchors), or (1, most, 6 + extras).

    Raises:
        ModelError: it gave another shape (that of an export with dynamic shapes is not known before), or no number.
    """
    shape, decided = output.shape, layout == "rows"
    fits = len(shape) == 3 and shape[0] == 1
    if not fits or (shape[2] != 6 + info.extras if decided else shape[1] != info.channels):
        wanted = f"detections, {6 + info.extras}" if decided else f"{info.channels}, anchors"
        raise ModelError(f"the network gave an output of shape {list(shape)} where [1, {wanted}] was expected")
    match layout:
        case "anchors":
            return decode_anchors(output[0], classes=len(info.labels), params=params, keep=keep)
        case "one_to_one":
            return decode_one_to_one(output[0], classes=len(info.labels), params=params, keep=keep)
        case "rows":
            return decode_rows(output[0], params=params, keep=keep)


def decode_anchors(output: Floats, *, classes: int, params: InferenceParams, keep: AbstractSet[int] | None) -> Rows:
    """Decode an undecided output (4 + classes + extras, anchors) whose boxes need suppression."""
    best = _best_scores(output[4 : 4 + classes])
    chosen = np.flatnonzero(best > params.confidence)
    picked = np.ascontiguousarray(output[:, chosen].T)
    centre, half = picked[:, :2], picked[:, 2:4] / np.float32(2)
    rows = Rows(
        boxes=np.concatenate((centre - half, centre + half), axis=1),
        scores=best[chosen],
        class_ids=picked[:, 4 : 4 + classes].argmax(axis=1),
        extras=picked[:, 4 + classes :],
        discarded=int(np.isnan(best).sum()),
    )
    rows = _of_classes(_finite(rows), keep)
    survivors = suppress_per_class(rows.boxes, rows.scores, rows.class_ids, iou=params.iou, limit=params.max_det)
    return rows.take(survivors)


def decode_one_to_one(output: Floats, *, classes: int, params: InferenceParams, keep: AbstractSet[int] | None) -> Rows:
    """Decode an undecided output (4 + classes + extras, anchors) of a one-to-one head; boxes are corners.

    An anchor may give several detections, one per class, as in `Detect.get_topk_index`.
    """
    scores = output[4 : 4 + classes]
    best = _best_scores(scores)
    anchors = np.argsort(-best, kind="stable")[:MOST_ONE_TO_ONE]
    anchors = anchors[best[anchors] > params.confidence]
    class_ids, position = np.nonzero(scores[:, anchors] > params.confidence)
    anchor = anchors[position]
    values = scores[class_ids, anchor]
    order = np.argsort(-values, kind="stable")[:MOST_ONE_TO_ONE]
    picked = output[:, anchor[order]].T
    rows = Rows(
        boxes=picked[:, :4],
        scores=values[order],
        class_ids=class_ids[order],
        extras=picked[:, 4 + classes :],
        discarded=int(np.isnan(best).sum()),
    )
    return _first(_of_classes(_finite(rows), keep), params.max_det)


def decode_rows(output: Floats, *, params: InferenceParams, keep: AbstractSet[int] | None) -> Rows:
    """Decode a decided output (most, 6 + extras): left, top, right, bottom, confidence, class id, extras."""
    scores = _best_scores(output[None, :, 4])
    picked = output[scores > params.confidence]
    picked = picked[np.argsort(-picked[:, 4], kind="stable")]
    with np.errstate(invalid="ignore"):  # a class id that is no number goes with its row in _finite
        class_ids = np.where(np.isfinite(picked[:, 5]), picked[:, 5], -1).astype(np.intp)
    rows = Rows(
        boxes=picked[:, :4],
        scores=picked[:, 4],
        class_ids=class_ids,
        extras=picked[:, 6:],
        discarded=int(np.isnan(scores).sum()),
    )
    return _first(_of_classes(_finite(rows), keep), params.max_det)


def _best_scores(scores: Floats) -> Floats:
    """Return the best score of each anchor; `scores` is (classes, anchors).

    Raises:
        ModelError: not one of them is a number, so "nothing found" would be a lie.
    """
    best: Floats = scores[0] if len(scores) == 1 else scores.max(axis=0)
    if best.size and np.isnan(best).all():
        raise ModelError("the network returned no number at all (NaN); try it with precision = `f32`")
    return best


def _finite(rows: Rows) -> Rows:
    good = np.isfinite(rows.boxes).all(axis=1) & np.isfinite(rows.scores) & np.isfinite(rows.extras).all(axis=1)
    good &= rows.class_ids >= 0
    if good.all():
        return rows
    kept = rows.take(good)
    return Rows(kept.boxes, kept.scores, kept.class_ids, kept.extras, rows.discarded + int(np.count_nonzero(~good)))


def _of_classes(rows: Rows, keep: AbstractSet[int] | None) -> Rows:
    if keep is None:
        return rows
    return rows.take(np.isin(rows.class_ids, np.fromiter(keep, dtype=np.intp)))


def _first(rows: Rows, limit: int) -> Rows:
    return rows.take(np.arange(min(limit, len(rows.scores))))
