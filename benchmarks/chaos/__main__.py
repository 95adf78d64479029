"""`python -m benchmarks.chaos [--list] [--only NAME,...] [--keep FILE]`: does faults, writes docs/reliability.md.

Each fault runs in a process of its own, which is killed with all that it has started when it takes too long. The page
is written when none is missing; with `--keep FILE` a run may be cut into several. Exit code 1: a bound was exceeded.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.chaos import page
from benchmarks.chaos.faults import Fault, Outcome, all_faults
from benchmarks.machine import machine

ROOT = Path(__file__).parent.parent.parent
PR_SET_CHILD_SUBREAPER = 36
CLEANUP_SECONDS = 15.0


def namespaces() -> list[str]:
    """Return the command that makes a network and mounts of one's own; raises OSError where it cannot be had."""
    for tool in ("unshare", "ip", "iptables"):
        if shutil.which(tool) is None:
            raise OSError(f"`{tool}` is not installed")
    command = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net", "--mount"]
    tried = subprocess.run([*command, "iptables", "-L", "-n"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise OSError(f"no network namespace can be made here: {tried.stderr.strip()}")
    return command


def become_reaper() -> None:
    """Become the parent of whatever a fault leaves, and end on SIGTERM as on Ctrl-C."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def run(fault: Fault, *, loud: bool) -> Outcome:
    """Run one fault in a process of its own, and leave nothing of it behind."""
    outcome = _outcome(fault, loud=loud)
    outcome.measured = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    return outcome


def _outcome(fault: Fault, *, loud: bool) -> Outcome:
    command = [sys.executable, "-m", "benchmarks.chaos.inside", fault.name]
    outcome = Outcome(fault.name)
    try:
        command = [*(namespaces() if fault.namespace else []), *command]
    except OSError as exc:
        outcome.skipped = str(exc)
        return outcome
    begun = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = ""
    try:
        told, said = process.communicate(timeout=fault.limit_seconds + CLEANUP_SECONDS)
        outcome = Outcome(**json.loads(told))
    except subprocess.TimeoutExpired:
        outcome.problems.append(f"did not end within {fault.limit_seconds + CLEANUP_SECONDS:g} s and was killed")
    except ValueError:
        outcome.problems.append(f"its process ended with {process.returncode}")
    finally:
        _end(process)
    if loud or outcome.problems:
        print(said, file=sys.stderr)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _end(process: "subprocess.Popen[str]") -> None:
    """End the process of a fault, which then tidies up, and whatever it has left: orphans are children of this one."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=CLEANUP_SECONDS)
    left = psutil.Process().children(recursive=True)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=5)


def chosen(only: str | None) -> Sequence[Fault]:
    """Return the faults that are asked for, by name or by group, in order."""
    faults = all_faults()
    asked = set(only.split(",")) if only else set(faults)
    for name in asked:
        if name not in faults and name not in {fault.group for fault in faults.values()}:
            raise argparse.ArgumentTypeError(f"there is no fault `{name}`: --list shows them")
    return [fault for fault in faults.values() if asked & {fault.name, fault.group}]


def kept(file: Path | None, outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    """Put what came of these faults into the file, beside that of others; return all of it, by name."""
    together = {}
    if file is not None and file.exists():
        together = {one["name"]: Outcome(**one) for one in json.loads(file.read_text(encoding="utf-8"))}
    together |= {outcome.name: outcome for outcome in outcomes}
    if file is not None:
        rows = [dataclasses.asdict(outcome) for outcome in together.values()]
        file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return together


def main() -> int:
    """Do the faults, print what came, write the page."""
    parser = argparse.ArgumentParser(prog="chaos")
    parser.add_argument("--list", action="store_true", help="say which faults there are")
    parser.add_argument("--only", metavar="NAME,...", help="some faults or groups; the page is left as it is")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep what comes there, beside that of other runs")
    parser.add_argument("--verbose", action="store_true", help="show what each fault's process says")
    asked = parser.parse_args()
    try:
        faults = chosen(asked.only)
    except argparse.ArgumentTypeError as exc:
        parser.error(str(exc))
    if asked.list:
        for fault in faults:
            print(f"{fault.group:8} {fault.name:28} {fault.title}")
        return 0
    become_reaper()
    about, outcomes = machine(), []
    for fault in faults:
        outcomes.append(run(fault, loud=asked.verbose))
        print(page.line(fault, outcomes[-1]), flush=True)
    together = kept(asked.keep, outcomes)
    if set(together) >= set(all_faults()):
        print(f"written: {page.write(together, about).name}", file=sys.stderr)
    return int(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
