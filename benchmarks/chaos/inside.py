"""Does one fault, and nothing else: `python -m benchmarks.chaos.inside NAME`; says as JSON what came of it.

Where the fault wants namespaces, this process is in them already: its own network, in which loopback is still down,
and its own mounts.
"""

import dataclasses
import json
import signal
import subprocess
import sys
import time
import traceback

import pytest

from benchmarks.chaos.faults import Fault, LateError, Outcome, SkippedError, all_faults
from benchmarks.chaos.stage import Stage

SKIPPED = (SkippedError, pytest.skip.Exception)
"""The second: helpers of the tests say so."""


class GivenUpError(Exception):
    """It took longer than it may."""


def _given_up(number: int, _: object) -> None:
    raise GivenUpError(signal.Signals(number).name)


def done(fault: Fault) -> Outcome:
    """Do it, and return what came of it; never raises for what the fault does."""
    with Stage(fault) as stage:
        begun = time.monotonic()
        try:
            try:
                fault.run(stage)
            except LateError as exc:
                stage.problem(str(exc))
            stage.close()
        except SKIPPED as exc:
            stage.outcome.skipped = str(exc)
        except GivenUpError as exc:
            stage.problem(f"given up after {time.monotonic() - begun:.0f} s ({exc})")
        except Exception as exc:  # noqa: BLE001  whatever a fault breaks on, the others have something to tell
            traceback.print_exc()
            stage.problem(f"could not be done: {type(exc).__name__}: {str(exc).partition(chr(10))[0]}")
        stage.outcome.seconds = time.monotonic() - begun
        if stage.outcome.problems and stage.daemon is not None:
            print(stage.daemon.story(), file=sys.stderr)
    return stage.outcome


def main() -> None:
    """Do the fault that is named."""
    fault = all_faults()[sys.argv[1]]
    signal.signal(signal.SIGALRM, _given_up)
    signal.signal(signal.SIGTERM, _given_up)
    signal.alarm(int(fault.limit_seconds))
    if fault.namespace:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    print(json.dumps(dataclasses.asdict(done(fault))))


if __name__ == "__main__":
    main()
