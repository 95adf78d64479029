"""What this process takes of the machine, read at the moment of asking; without /proc, what Python knows."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/self")
DISTRIBUTIONS = (
    *("litestar", "uvicorn", "opencv-python-headless", "numpy", "pydantic", "msgspec", "huey", "redis"),
    *("healthd-yolo", "openvino", "ultralytics", "torch"),
)
"""Whose versions people are asked for when something is wrong; those that are not installed are left out."""
MOST_FILES = 65_536
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
    resident: int | None = None
    threads: int | None = None
    open_fds: int | None = None
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name of the process comes first, in parentheses, and may hold spaces and parentheses.
        fields = (proc / "stat").read_bytes().rpartition(b")")[2].split()
        resident, threads = int(fields[_RESIDENT_PAGES]) * os.sysconf("SC_PAGE_SIZE"), int(fields[_THREADS])
    with contextlib.suppress(OSError):
        open_fds = sum(1 for _ in (proc / "fd").iterdir()) - 1  # one of them was opened to list them
    return ProcessUsage(time.process_time(), resident, threads, open_fds)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of what this process is made of. Reads the disk once."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def raise_file_limit() -> int:
    """Let this process open as many files as it may at all; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return file_limit()
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return file_limit()


def file_limit() -> int:
    """Return how many files this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft
