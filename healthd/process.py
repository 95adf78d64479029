"""What this process takes of the machine, read at the moment of asking; without /proc, what Python knows."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/self")
_THREADS, _RESIDENT_PAGES = 17, 21  # of the fields behind the name, see proc_pid_stat(5)


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """CPU time since the start, and what is held now; None where this system does not tell."""

    cpu_seconds: float
    resident_memory_bytes: int | None
    threads: int | None
    """Native ones too, not Python's alone."""
    open_fds: int | None


def process_usage(proc: Path = PROC) -> ProcessUsage:
    """Look at this process. Two short reads of a file system in memory: fit for the event loop."""
    try:
        # The name of the process comes first, in parentheses, and may hold spaces and parentheses.
        fields = (proc / "stat").read_bytes().rpartition(b")")[2].split()
        resident, threads = int(fields[_RESIDENT_PAGES]) * os.sysconf("SC_PAGE_SIZE"), int(fields[_THREADS])
    except (OSError, ValueError, IndexError):
        resident = threads = None
    try:
        open_fds = len(os.listdir(proc / "fd")) - 1  # one of them was opened to list them
    except OSError:
        open_fds = None
    return ProcessUsage(time.process_time(), resident, threads, open_fds)
