"""How many processors this process may really use.

`os.cpu_count()` counts the machine. In a container with `cpu: 1` on a machine of 64, a model that starts 64 threads is
throttled most of the time; the quota of the control group is the honest number.
"""

import os
from pathlib import Path

_UNLIMITED = "max"
_asked = 0


def cpu_quota(*, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the processors that the control group grants, e.g. 1.5; None without a limit, or where none is found."""
    quotas = []
    for line in _read(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            quotas += [_quota_v2(folder) for folder in _up(cgroup, path)]
        elif "cpu" in controllers.split(","):
            quotas += [_quota_v1(folder) for folder in _up(cgroup / controllers, path) + _up(cgroup / "cpu", path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def usable_cpus() -> int:
    """Return how many threads can make progress at once: the quota, rounded down, within the affinity; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def set_thread_budget(threads: int) -> None:
    """Say how many threads this process may use at once, `performance.threads`; 0: what it turns out to have."""
    global _asked  # noqa: PLW0603  one process, one budget
    _asked = threads


def thread_budget() -> int:
    """Return how many threads those may use who would take all there are, at least 1."""
    return _asked or usable_cpus()


def _up(root: Path, path: str) -> list[Path]:
    """Return the folder of a group and of all groups above it: the tightest limit counts.

    Inside a container the path may be the host's, which does not exist there; the root then is the group itself.
    """
    folder = root / path.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]


def _quota_v2(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    return None if quota == _UNLIMITED else _ratio(quota, period)


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    try:
        microseconds, per = int(quota), int(period)
    except ValueError:
        return None
    return microseconds / per if microseconds > 0 and per > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
