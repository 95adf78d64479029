"""`python -m benchmarks [--quick] [--only PART,...]`: measures, prints one table, writes docs/benchmarks.md.

With `--keep FILE` a run may be cut into several: what was measured is kept there, each part under its name, and the
page is written when none is missing.

Exit code 1: a part broke, or one whose goals must hold (`MUST_HOLD`) missed one of them or could not be measured. A
goal that another part misses is a row of the table.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from benchmarks import kept, page
from benchmarks.figures import Figure, NotMeasuredError, not_measured, table
from benchmarks.machine import machine

PARTS = (
    "engine",
    "footprint",
    "held",
    "glass",
    "pipeline",
    "pictures",
    "process",
    "wall",
    "streams",
    "leaving",
    "infer",
    "snapshots",
    "polling",
    "idle",
    "isolation",
    "soak",
)
SLOW = {"held", "streams", "leaving", "isolation", "soak"}
"""Parts that tell nothing in a few seconds: left out when in a hurry, unless they are asked for by name."""
MUST_HOLD = {"soak"}
"""Parts whose goals say that nothing is broken; those of the others say how fast it is."""


def measured(name: str, *, quick: bool) -> list[Figure]:
    """Run one part; what fails gives a row that says why, and ends nothing else."""
    begun, what = time.perf_counter(), name
    try:
        part = importlib.import_module(f"benchmarks.{name}")
        what = str(part.__doc__).partition("\n")[0].rstrip(".")
        figures: list[Figure] = part.measure(quick=quick)
    except NotMeasuredError as exc:
        figures = [not_measured(what, exc)]
    except Exception as exc:  # noqa: BLE001  whatever a part breaks on, the others have figures to give
        figures = [not_measured(what, repr(exc), failed=True)]
    if not figures:
        figures = [not_measured(what, "something it needs is not installed")]
    print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    return figures


def holds(name: str, figures: Sequence[Figure]) -> bool:
    """Whether a part has run, and reached its goals where it must."""
    if any(figure.failed for figure in figures):
        return False
    return name not in MUST_HOLD or not any(
        figure.missing or (figure.goal is not None and not figure.reached) for figure in figures
    )


def chosen(only: str | None) -> Sequence[str]:
    """Return the parts that are asked for, in order."""
    asked = only.split(",") if only else PARTS
    for name in asked:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"there is no part `{name}`: {', '.join(PARTS)}")
    return [name for name in PARTS if name in asked]


def main() -> int:
    """Measure, print, write; return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs; nothing is written")
    parser.add_argument(
        "--only", type=chosen, metavar="PART,...", help=f"some of {', '.join(PARTS)}; nothing is written"
    )
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep the figures there, beside those of other parts")
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    about, begun = machine(), f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    names = asked.only or [name for name in PARTS if not (asked.quick and name in SLOW)]
    parts = {name: kept.Part(begun=begun, figures=measured(name, quick=asked.quick)) for name in names}
    failed = [name for name in names if not holds(name, parts[name].figures)]
    if asked.keep is not None and not asked.quick:
        parts = kept.beside(asked.keep, parts)
    names = [name for name in PARTS if name in parts]
    figures = [figure for name in names for figure in parts[name].figures]
    print(table(figures))
    left_out = f" Left out: {', '.join(sorted(set(PARTS) - set(names)))}." if len(names) < len(PARTS) else ""
    print(page.summary(figures) + left_out)
    if not asked.quick and names == list(PARTS):
        print(f"written: {page.write(figures, about, older=kept.other_runs(parts)).name}", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
