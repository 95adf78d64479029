"""What a benchmark gives: figures with the goal and the peer of the same run beside them."""

import operator
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_COMPARE: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


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

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        return None if self.goal is None else _COMPARE[self.goal[0]](self.value, self.goal[1])

    def row(self) -> tuple[str, ...]:
        """Return the cells of a table."""
        goal = f"{self.goal[0]} {self.goal[1]:g} {self.unit}".strip() if self.goal else "-"
        verdict = {True: "reached", False: "**missed**", None: ""}[self.reached]
        return (self.what, f"{self.value:.4g} {self.unit}".strip(), goal, verdict, self.peer or "-", self.detail or "-")


HEAD = ("what", "measured", "goal", "", "beside it, in the same run", "how")


def machine() -> str:
    """Describe the machine without naming it."""
    cpu = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    cores = len([1 for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "processor" in line])
    names = ("litestar", "uvicorn", "opencv-python-headless", "numpy", "openvino")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{cpu}, {cores} cores, {platform.system()}, Python {platform.python_version()}; {packages}"


def table(figures: list[Figure]) -> str:
    """Return a Markdown table."""
    rows = [HEAD, ("---",) * len(HEAD), *(figure.row() for figure in figures)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
