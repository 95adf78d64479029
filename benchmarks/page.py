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
some parts. Exit code 1 means that a part broke, or that [the soak](#the-soak) missed a goal or could not be measured. A
goal of another part that is missed, or that needs something that is not installed, is a row and no failure: those goals
say how fast healthd is, those of the soak that nothing is broken.

{summary}

{table}

## The soak

`make soak` (`MINUTES=30`): 8 cameras, two models, 60 polling tiles, 20 streams that come and go, requests with a
picture, jobs and log-ins, a camera in trouble every few seconds and a fault each minute. Timers are short, so that a
day's worth of them passes: a hundred times the life of a log-in (18 s), fifty times that of a job (36 s), and each
minute a model that is unused for 20 s and a cut of the log (`copytruncate`). Each is looked at again after its time:
what is still there then is an answer that nobody should get. Not sped up: certificates that run out.

- The first 3 minutes do not count. Then the samples of each two minutes (every 5 s) become one block, their median:
  the faults of two minutes are inside each block. A straight line goes through the blocks. Its error is that of 95 %
  (Student's t), made wider by how much blocks that follow each other are alike.
- Waits are those of 20 snapshots a second, of somebody in a process of their own, each counted from when it was due.
  The 99th percentile of a minute is one sample. With each minute another of six kinds of faults begins, so a minute is
  held against those that had the same: a straight line goes through the logarithms, with a height for each kind. (Until
  November 2026 it went through medians of blocks: of two soaks that grew nothing the error was ± 150 and ± 170 %.)
  What 1 of 100 waits in a minute spreads by half of itself, so of half an hour the error is still some factor of 1.9:
  of soaks that grow nothing nearly every second one misses this goal by its error; of those of an hour one of ten.
- What is held against the goal is the growth *and* its error: memory at most 10 % from the first block to the last, the
  99th percentile of waits at most 100 %. Freezes, too: 1 of 100 snapshots of the second half may wait twice as long as
  in the first, all samples together. Half an hour cannot decide less: what is in hand makes the error of memory
  some 6 %. A longer run can: the error of the growth per hour, which is told beside it, falls faster than time grows.
- Threads, descriptors and processes: the median of the last block is at most one more than that of the first. Threads
  and descriptors count while no camera is away: one that is has no process, and nothing that a process holds.
- Of what the load asks for, where nobody ever waits and no camera is ever lost, a part must come that stands in the
  table: pictures (of the camera that was seen least), streams, frames, requests, jobs, log-ins. After the last trouble
  all cameras must be live with a fresh prediction, and a picture must be looked at, within a minute.
- With `MINUTES` below 13 there are too few blocks, and growth has no goal; that of waits has none below 21.

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
