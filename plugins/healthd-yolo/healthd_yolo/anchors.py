"""The tables of anchors that an export for one size has baked in: recognized, and written anew for another size.

A head of stride s has one anchor per s x s pixels, row by row, level after level. Whatever arithmetic the exporter has
folded into such a table, each of its rows is `a * base + b * scale`, where base is the column, the row or 1 of the
cell, times 1 or the stride. A row that is not, to the last bit, is no such table.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from healthd_yolo.letterbox import Size

LEVELS: tuple[tuple[int, ...], ...] = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (16, 32), (8, 16))
"""The strides of the heads that YOLOv8, YOLO11 and YOLO26 are built with."""

_COARSEST = 1024
"""The factors of a table are halves, wholes and their products with strides: multiples of one part in so many."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AnchorGrid:
    """The anchors of one head on one size of input."""

    strides: tuple[int, ...]
    size: Size

    @classmethod
    def of(cls, size: Size, anchors: int) -> "AnchorGrid | None":
        """Find the head that has so many anchors on this size; None: none does."""
        grids = (cls(strides, size) for strides in LEVELS)
        return next((grid for grid in grids if grid.fits and grid.count == anchors), None)

    @property
    def fits(self) -> bool:
        """Whether the sides are whole strides."""
        return all(side % self.strides[-1] == 0 for side in self.size)

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of cells of each level."""
        return tuple((self.size[0] // stride, self.size[1] // stride) for stride in self.strides)

    @property
    def count(self) -> int:
        """How many anchors all levels have together."""
        return sum(rows * columns for rows, columns in self.levels)

    def resized(self, size: Size) -> "AnchorGrid":
        """Return the anchors of the same head on another size of input."""
        return AnchorGrid(self.strides, size)

    def bases(self) -> tuple[Floats, ...]:
        """Return what tables are made of, each (2, count): a base and its scale."""
        levels = tuple(zip(self.strides, self.levels, strict=True))
        column = np.concatenate([np.tile(np.arange(columns), rows) for _, (rows, columns) in levels]).astype(float)
        row = np.concatenate([np.repeat(np.arange(rows), columns) for _, (rows, columns) in levels]).astype(float)
        stride = np.concatenate([np.full(rows * columns, stride) for stride, (rows, columns) in levels]).astype(float)
        one = np.ones_like(stride)
        return tuple(
            np.stack(pair)
            for pair in (
                (stride, one),
                (column, one),
                (row, one),
                (column * stride, stride),
                (row * stride, stride),
            )
        )


def rebuilt(table: NDArray[np.generic], old: AnchorGrid, new: AnchorGrid) -> NDArray[np.generic] | None:
    """Write a table (..., old.count) anew for the other grid, shape (..., new.count); None: it is none of anchors."""
    before, after = old.bases(), new.bases()
    rows = [_rebuilt_row(row, before, after) for row in table.reshape(-1, old.count)]
    if any(row is None for row in rows):
        return None
    found = np.stack([row for row in rows if row is not None])
    return found.reshape(*table.shape[:-1], new.count)


def _rebuilt_row(
    row: NDArray[np.generic], before: tuple[Floats, ...], after: tuple[Floats, ...]
) -> NDArray[np.generic] | None:
    values = row.astype(float)
    for old, new in zip(before, after, strict=True):
        factors = np.round(np.linalg.lstsq(old.T, values, rcond=None)[0] * _COARSEST) / _COARSEST
        if np.array_equal((factors @ old).astype(row.dtype), row):
            rewritten: NDArray[np.generic] = (factors @ new).astype(row.dtype)
            return rewritten
    return None
