"""docs/benchmarks.md: the table, the plots and the machine of one run."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figures import Figure, table
from benchmarks.plots import draw

DOCS = Path(__file__).parent.parent / "docs"
TEXT = """# Benchmarks

Written by `make bench` on {day}; do not edit. All figures are from one machine, described [below](#the-machine), and
{runs}. Absolute times depend on it; what stands beside a figure was measured in the same run. The peers are in
`benchmarks/peers/` (nginx: `benchmarks/snapshots.py`): small programs, each as its users would write it. Where the
time of a frame goes, and what was tried where a goal is missed, stands in [performance.md](performance.md). `make
bench-quick` takes three minutes, is less exact and writes nothing; `python -m benchmarks --only engine,soak` measures
some parts.

{summary}

{table}

## Plots

{plots}

## The machine

| | |
| --- | --- |
{machine}
"""


def summary(figures: Sequence[Figure]) -> str:
    """Say in a sentence how many goals are reached."""
    goals = [figure for figure in figures if figure.goal is not None]
    reached, missed = (sum(figure.reached is way for figure in goals) for way in (True, False))
    return (
        f"Of {len(goals)} goals {reached} are reached, {missed} missed, {len(goals) - reached - missed} not measured."
    )


def runs(older: Mapping[str, Sequence[str]]) -> str:
    """Say which parts are not from the newest run; `older`: their names, by the beginning of their run."""
    told = (f"{', '.join(f'`{name}`' for name in names)} from one of {begun} UTC" for begun, names in older.items())
    return " and ".join(["from one run", *told])


def write(
    figures: Sequence[Figure], machine: Mapping[str, str], docs: Path = DOCS, *, older: Mapping[str, Sequence[str]]
) -> Path:
    """Write the page and its plots; return the page. `older`: as of `runs`."""
    try:
        drawn = draw(figures, docs / "benchmarks")
        plots = "\n\n".join(f"![{title}](benchmarks/{path.name})\n\n*{title}*" for title, path in drawn)
    except ImportError:
        plots = "None: matplotlib is not installed (`pip install -e '.[dev]'`)."
    rows = "\n".join(f"| {name} | {value} |" for name, value in machine.items())
    page = docs / "benchmarks.md"
    text = TEXT.format(
        day=datetime.now(UTC).date(),
        runs=runs(older),
        summary=summary(figures),
        table=table(figures),
        plots=plots,
        machine=rows,
    )
    page.write_text(text, encoding="utf-8")
    return page
