"""`python -m benchmarks [--quick]`: measures everything, prints one table, writes docs/benchmarks.md."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import idle, infer, leaving, pictures, pipeline, polling, process, snapshots, streams
from benchmarks.figures import machine, table

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
TEXT = """# Benchmarks

Measured by `make bench` on {day}, all in one run on one machine: {machine}.
Absolute times depend on the machine; what stands beside a figure was measured in the same run. `make bench-quick` takes
three minutes and writes nothing.

{table}
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter runs; docs/benchmarks.md stays as it is"
    )
    quick = parser.parse_args().quick
    figures = [
        figure
        for part in (pipeline, pictures, process, streams, leaving, infer, snapshots, polling, idle)
        for figure in part.measure(quick=quick)
    ]
    text = table(figures)
    print(text)
    if not quick:
        PAGE.write_text(TEXT.format(day=datetime.now(UTC).date(), machine=machine(), table=text), encoding="utf-8")


if __name__ == "__main__":
    main()
