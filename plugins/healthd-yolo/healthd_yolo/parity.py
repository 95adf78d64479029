"""How far the results of one model stray from those of another, and how far they may."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from healthd.models.model import Detection, InferenceParams
from healthd.models.prepare import Parity

PARAMS = InferenceParams(confidence=0.2, iou=0.45, max_det=300)
ASKED = 0.35
"""Detections of this confidence must be found again: so far above `PARAMS` that the threshold itself loses nothing."""
SAME_OVERLAP = 0.7
_SEEN = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """How far the results may stray."""

    lost: float
    """Share of the detections that may be lost or new."""
    always_allowed: int
    """So many may be, however few there are."""
    mean_iou: float


LIMITS = {"f32": Limits(0.01, 0, 0.999), "half": Limits(0.03, 1, 0.97), "int8": Limits(0.06, 1, 0.95)}
"""By precision; `half` stands for bf16 and f16. They stand in docs/models.md."""


@dataclass(slots=True)
class Changes:
    """How two answers differ, over many images."""

    asked: int = 0
    lost: int = 0
    overlaps: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    points_px: list[float] = field(default_factory=list)
    """In pixels of the image scaled to the input."""

    def note(self, wanted: Sequence[Detection], found: Sequence[Detection], *, scale: float) -> None:
        """Look for each wanted detection among the found ones; `scale`: pixels of the input by pixels of the image."""
        free = list(found)
        for one in wanted:
            if one.confidence < ASKED:
                continue
            self.asked += 1
            same = [other for other in free if other.class_id == one.class_id]
            best = max(same, key=lambda other: overlap(one.box_xyxy, other.box_xyxy), default=None)
            if best is None or overlap(one.box_xyxy, best.box_xyxy) < SAME_OVERLAP:
                self.lost += 1
                continue
            free.remove(best)
            self.overlaps.append(overlap(one.box_xyxy, best.box_xyxy))
            self.confidences.append(abs(one.confidence - best.confidence))
            for point, other in zip(one.keypoints or (), best.keypoints or (), strict=True):
                if min(point.confidence, other.confidence) > _SEEN:
                    self.points_px.append(float(np.hypot(point.x - other.x, point.y - other.y)) * scale)

    def told(self, what: str, *, new: int) -> Parity:
        """Sum up; `new`: how many were lost when asked the other way round."""
        return Parity(
            what=what,
            asked=self.asked,
            found=self.asked - self.lost,
            new=new,
            mean_iou=float(np.mean(self.overlaps)) if self.overlaps else None,
            lowest_iou=min(self.overlaps, default=None),
            confidence=max(self.confidences, default=None),
            keypoints_px=float(np.percentile(self.points_px, 99)) if self.points_px else None,
        )


def beyond(parity: Parity, precision: str) -> str | None:
    """Say in which way the limits of a precision are broken; None: they are not."""
    limits = LIMITS.get(precision, LIMITS["half"])
    changed = parity.asked - parity.found + parity.new
    allowed = max(int(limits.lost * parity.asked), limits.always_allowed)
    if changed > allowed:
        return f"{parity.what}: {changed} of {parity.asked} detections are lost or new, where {allowed} may be"
    if parity.mean_iou is not None and parity.mean_iou < limits.mean_iou:
        return f"{parity.what}: the boxes overlap by {parity.mean_iou:.3f} on average, less than {limits.mean_iou}"
    return None


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return float(shared / (sum(areas) - shared))
