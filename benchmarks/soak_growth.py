"""What a series of half an hour shows for certain: its growth, and how far that may be wrong.

What a daemon holds at a moment depends on what is in hand and on what has just broken, so samples that follow each
other are alike and any two of them say little. The samples of a block of two minutes (a fault each minute: two in each)
become their median; a straight line goes through the blocks.

What 1 of 100 waits is decided by what has just broken: there a minute is held against the minutes that had the same
fault, and by its logarithm, as waits become so many times longer. (In a soak kinds of faults differed by 1.5 times, and
minutes with the same one by as much: most of the error is chance.)
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK_MINUTES = 2.0
FEWEST_BLOCKS = 5
"""With fewer a line says nothing."""
MOST_ALIKE = 0.8
_Z = 1.96


@dataclass(frozen=True, slots=True)
class Growth:
    """By how much a straight line through blocks rises, and the error of that (95 %), each in two units."""

    percent: float
    """From the first block to the last, of what it was in the first."""
    percent_error: float
    per_hour: float
    """In the unit of what was measured."""
    per_hour_error: float

    @property
    def at_most(self) -> float:
        """What it has grown by in percent, if all of the error was in its favour."""
        return self.percent + self.percent_error


@dataclass(frozen=True, slots=True)
class Multiplied:
    """How many times as much the last of a series is as the first, and between which that lies (95 %)."""

    times: float
    at_least: float
    at_most: float
    per_hour: tuple[float, float, float]
    """The same three, of an hour."""


def blocks(samples: Sequence[tuple[float, float]], first: float, last: float) -> list[tuple[float, float]]:
    """Return minute and median of each block that is whole; `samples`: minute and value."""
    number = int((last - first + 1e-9) / BLOCK_MINUTES)
    inside: dict[int, list[float]] = defaultdict(list)
    for minute, value in samples:
        if first <= minute < first + number * BLOCK_MINUTES:
            inside[int((minute - first) / BLOCK_MINUTES)].append(value)
    return [
        (first + (block + 0.5) * BLOCK_MINUTES, float(np.median(values))) for block, values in sorted(inside.items())
    ]


def growth(series: Sequence[tuple[float, float]]) -> Growth | None:
    """Return the growth of blocks, None where there are too few."""
    if len(series) < FEWEST_BLOCKS:
        return None
    times, sizes = np.array(series).T
    # Memory of minutes that follow each other is alike, which makes it worse: some 4 / n, found by trying.
    slope, error, start = _line(times, sizes, np.ones((len(times), 1)), kept=4 / len(times))
    percent = 100 * (times[-1] - times[0]) / (slope * times[0] + start)
    return Growth(float(slope * percent), float(error * abs(percent)), float(slope * 60), float(error * 60))


def multiplied(series: Sequence[tuple[float, float]], kinds: int) -> Multiplied | None:
    """Return by how much a series rises in which only each `kinds`-th value is comparable, None where it is too short.

    A line through the logarithms, with a height of its own for each kind: least squares, the error as of `growth`.

    Args:
        series: minute and value (more than 0), as many apart as the one before; the kind is that of the whole minute.
        kinds: after how many the same kind comes again.
    """
    if len(series) < 3 * kinds:
        return None
    times, values = np.array(series).T
    kind = times.astype(int) % kinds
    slope, error, _ = _line(times, np.log(values), np.equal.outer(kind, np.unique(kind)).astype(float))
    span, slopes = times[-1] - times[0], np.array([slope, slope - error, slope + error])
    grown, least, most = (float(one) for one in np.exp(span * slopes))
    of_an_hour, least_of_one, most_of_one = (float(one) for one in np.exp(60 * slopes))
    return Multiplied(grown, least, most, (of_an_hour, least_of_one, most_of_one))


def _line(
    times: np.ndarray, sizes: np.ndarray, heights: np.ndarray, *, kept: float | None = None
) -> tuple[float, float, float]:
    """Return slope, its error and the first height of the line whose height is one of those (a column of 0 and 1 each).

    The error is Student's for so few values, and wider by how much those that follow each other are still alike: the
    first autocorrelation of what the line leaves over. That is told too small, since the line takes what is alike with
    it: by `kept`; by what is so of values that have nothing to do with each other where that is None.
    """
    number = len(times)
    matrix = np.column_stack([times, heights])
    left = np.eye(number) - matrix @ np.linalg.pinv(matrix)
    fitted = np.linalg.lstsq(matrix, sizes, rcond=None)[0]
    rest = sizes - matrix @ fitted
    beside = times - heights @ np.linalg.lstsq(heights, times, rcond=None)[0]
    free, squares = number - matrix.shape[1], float(rest @ rest)
    if kept is None:
        kept = -float(np.diag(left, 1).sum() / np.trace(left))
    alike = float(rest[1:] @ rest[:-1]) / squares + kept if squares > 0 else 0.0
    alike = min(max(alike, 0.0), MOST_ALIKE)
    error = _student(free) * np.sqrt(squares / free / float(beside @ beside) * (1 + alike) / (1 - alike))
    return float(fitted[0]), float(error), float(fitted[1])


def _student(free: int) -> float:
    """Return the 97.5 % quantile of Student's t; 0.1 too small at 3 degrees of freedom, right from 5 on."""
    first, second = (_Z**3 + _Z) / 4, (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    return _Z + first / free + second / free**2
