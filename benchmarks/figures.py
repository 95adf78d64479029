"""What a benchmark gives: figures with the goal and the peer of the same run beside them."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_COMPARE: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


class NotMeasuredError(Exception):
    """Something that a measurement needs is not here; the message says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Plot:
    """What a figure looks like as a picture: lines over numbers, or bars over names."""

    name: str
    """Of the file, without its ending."""
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]] | None = None
    bars: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value."""

    what: str
    value: float
    unit: str
    goal: tuple[str, float] | None = None
    """Comparison and bound, e.g. `("<=", 3.0)`."""
    peer: str = ""
    """The peer of the same run, in words with its own figure."""
    detail: str = ""
    plot: Plot | None = None
    missing: str = ""
    """Why there is no value; empty when there is one."""
    failed: bool = False
    """There is no value because the measurement broke, not because something for it is not here."""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal, or a value."""
        if self.goal is None or self.missing:
            return None
        return _COMPARE[self.goal[0]](self.value, self.goal[1])

    @property
    def of_goal(self) -> float | None:
        """How much of its goal is reached, 1 or more: all; None without a goal that can be divided by."""
        if self.goal is None or self.missing or self.goal[1] <= 0:
            return None
        if self.goal[0] == "<=":
            return self.goal[1] / self.value if self.value > 0 else math.inf
        return self.value / self.goal[1]

    def row(self) -> tuple[str, ...]:
        """Return the cells of a table."""
        goal = f"{self.goal[0]} {self.goal[1]:g} {self.unit}".strip() if self.goal else "-"
        verdict = {True: "reached", False: "**missed**", None: ""}[self.reached]
        value = f"not measured: {self.missing}" if self.missing else f"{self.value:.4g} {self.unit}".strip()
        return (self.what, value, goal, verdict, self.peer or "-", self.detail or "-")


def not_measured(what: str, why: object, goal: tuple[str, float] | None = None, *, failed: bool = False) -> Figure:
    """Return the row of something that could not be measured."""
    reason = " ".join(str(why).split()).replace("|", "/") or type(why).__name__
    return Figure(what, float("nan"), "", goal, missing=reason, failed=failed)


HEAD = ("what", "measured", "goal", "", "beside it, in the same run", "how")


def table(figures: Sequence[Figure]) -> str:
    """Return a Markdown table."""
    rows = [HEAD, ("---",) * len(HEAD), *(figure.row() for figure in figures)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
