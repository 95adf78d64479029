"""Non-maximum suppression on NumPy: greedy, exact, as `torchvision.ops.nms` defines it."""

import numpy as np
from numpy.typing import NDArray

CLASS_OFFSET = np.float32(7680)
"""Pixels that keep the boxes of different classes apart, `max_wh` of ultralytics."""

MOST_CANDIDATES = 30_000
"""At most so many boxes enter, the most confident ones, `max_nms` of ultralytics."""


_AT_ONCE = 128
"""So many boxes are all compared at once, three times as fast; the table grows with the square of their number."""


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], *, iou: float, limit: int) -> NDArray[np.intp]:
    """Return the indices of at most `limit` boxes (n, 4) xyxy that survive, most confident first.

    A box falls when it overlaps a more confident survivor by more than `iou`. Overlaps are computed in float32 and
    compared in float64, equal scores keep their order: bit for bit what torchvision's CPU kernel does.
    """
    order = np.argsort(-scores, kind="stable")[:MOST_CANDIDATES]
    x1, y1, x2, y2 = np.ascontiguousarray(boxes[order].T)
    areas = (x2 - x1) * (y2 - y1)
    kept: list[int] = []
    threshold = np.float64(iou)
    if len(order) <= _AT_ONCE:
        width = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
        height = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
        shared = np.maximum(width, np.float32(0)) * np.maximum(height, np.float32(0))
        with np.errstate(invalid="ignore", divide="ignore"):
            falls = shared / (areas[:, None] + areas - shared) > threshold
        fallen = np.zeros(len(order), dtype=np.bool_)
        for candidate in range(len(order)):
            if len(kept) == limit:
                break
            if not fallen[candidate]:
                kept.append(candidate)
                fallen |= falls[candidate]
        return order[kept]
    alive = np.arange(len(order))
    while alive.size and len(kept) < limit:
        first, rest = alive[0], alive[1:]
        kept.append(int(first))
        width = np.minimum(x2[first], x2[rest]) - np.maximum(x1[first], x1[rest])
        height = np.minimum(y2[first], y2[rest]) - np.maximum(y1[first], y1[rest])
        shared = np.maximum(width, np.float32(0)) * np.maximum(height, np.float32(0))
        with np.errstate(invalid="ignore", divide="ignore"):  # two boxes without area: 0 / 0 overlaps nothing
            overlap = shared / (areas[first] + areas[rest] - shared)
        alive = rest[~(overlap > threshold)]
    return order[kept]


def suppress_per_class(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.intp],
    *,
    iou: float,
    limit: int,
) -> NDArray[np.intp]:
    """Like `suppress`, but a box falls only to one of its own class."""
    apart = boxes + (class_ids.astype(np.float32) * CLASS_OFFSET)[:, None]
    return suppress(apart, scores, iou=iou, limit=limit)
