"""How a process ended, in words."""

import contextlib
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Cause: TypeAlias = Literal["asked", "killed", "crashed", "out_of_memory", "exited", "unknown"]
"""asked: it closed when it was told to. killed: by whoever started it, because it did not. crashed: by a signal that
nobody here sent. exited: by itself, unasked."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a child."""

    cause: Cause
    status: int | None
    """Exit status; of a signal its number, negative; None where nobody knows."""
    last_output: tuple[str, ...] = ()
    """The last lines that it, or a library in it, printed; scrubbed."""

    def __str__(self) -> str:
        """Say it so that it can follow `the camera's process`."""
        if self.status is None:
            return "is gone, and nobody knows why"
        if self.cause == "asked":
            return "was closed"
        if self.status >= 0:
            return f"ended by itself with exit status {self.status}"
        memory = " (out of memory?)" if self.cause == "out_of_memory" else ""
        return f"was ended by {signal_name(-self.status)}{memory}"


def signal_name(number: int) -> str:
    """Return e.g. `SIGSEGV`."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def oom_kills(*, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processes the kernel has killed for want of memory, as far as it says; only changes mean much."""
    found = _counted(proc / "vmstat")
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if not controllers:
                places = [cgroup / path.lstrip("/") / "memory.events", cgroup / "memory.events"]
            elif "memory" in controllers.split(","):
                group = cgroup / "memory"
                places = [group / path.lstrip("/") / "memory.oom_control", group / "memory.oom_control"]
            else:
                continue
            found += next((_counted(place) for place in places if place.exists()), 0)
    return found


def _counted(place: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in place.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return 0
