"""The plots of docs/benchmarks.md: SVG, readable on white and on black, the same bytes for the same figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Figure, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, LINES, GOOD, BAD = "#7d8590", ("#3b82c4", "#d9822b", "#5a9e6f", "#a66bbe"), "#5a9e6f", "#d0574e"
"""Middle tones: each has a contrast of 3 or more on white and on the black of dark pages."""
STYLE: dict[str, Any] = {
    "svg.hashsalt": "healthd",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
}
MOST_OF_GOAL = 10.0
LONGEST_NAME = 80


def draw(figures: Sequence[Figure], folder: Path) -> list[tuple[str, Path]]:
    """Draw all plots into a folder, in place of those that are there; return title and file of each.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415  a table needs none

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    drawn = []
    with mpl.rc_context(STYLE):
        scores = [(figure.what, figure.of_goal) for figure in figures]
        known = [(what, score) for what, score in scores if score is not None]
        if known:
            title = "How much of each goal is reached (1: all of it; logarithmic)"
            drawn.append(
                (title, _save(folder / "goals.svg", 0.24 * len(known) + 0.9, lambda axes: _goals(axes, known)))
            )
        for plot in (figure.plot for figure in figures if figure.plot is not None):
            high = 0.34 * len(plot.bars) + 0.9 if plot.bars else 3.0
            drawn.append((plot.title, _save(folder / f"{plot.name}.svg", high, lambda axes, it=plot: _one(axes, it))))
    return drawn


def _save(path: Path, high: float, fill: Any) -> Path:
    from matplotlib.figure import Figure as Sheet  # noqa: PLC0415

    sheet = Sheet(figsize=(9.0, high), layout="constrained")
    fill(sheet.add_subplot())
    sheet.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return path


def _goals(axes: "Axes", scores: Sequence[tuple[str, float]]) -> None:
    names = [what if len(what) <= LONGEST_NAME else what[: LONGEST_NAME - 1] + "…" for what, _ in scores]
    places = range(len(scores))
    shown = [min(score, MOST_OF_GOAL) for _, score in scores]
    axes.barh(places, [value - 1 for value in shown], left=1, color=[GOOD if value >= 1 else BAD for value in shown])
    axes.set_xscale("log")
    lowest = min(0.5, *shown)
    axes.set_xlim(lowest * 0.9, MOST_OF_GOAL * 1.6)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10) if tick >= lowest * 0.9]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    for place, (_, score) in zip(places, scores, strict=True):
        many = f"{score:.2f}" if score < MOST_OF_GOAL else f"> {MOST_OF_GOAL:g}"
        axes.text(max(min(score, MOST_OF_GOAL), 1) * 1.04, place, many, va="center", fontsize=8)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(places, names)
    axes.set_ylim(len(scores) - 0.4, -0.6)


def _one(axes: "Axes", plot: Plot) -> None:
    if plot.bars:
        places = range(len(plot.bars))
        held = axes.barh(places, list(plot.bars.values()), color=LINES[0])
        axes.bar_label(held, fmt="%.3g", padding=3, color=INK)
        axes.set_yticks(places, list(plot.bars))
        axes.set_ylim(len(plot.bars) - 0.4, -0.6)
        axes.set_xlabel(plot.y)
        axes.margins(x=0.1)
        return
    for colour, (name, points) in zip(LINES, (plot.lines or {}).items(), strict=False):
        marker = "o" if len(points) < 20 else None
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, label=name, marker=marker, markersize=4)
    axes.set(xlabel=plot.x, ylabel=plot.y)
    axes.set_ylim(0, 1.08 * max(y for points in (plot.lines or {}).values() for _, y in points))
    axes.grid(color=INK, alpha=0.25)
    if len(plot.lines or {}) > 1:
        axes.legend(frameon=False)
