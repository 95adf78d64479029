"""What a fault is, what came of it, and the list of all.

A fault is a function that takes a `Stage` (see `stage.py`) and does it to a daemon; its docstring says how, in words
for people, and stands in the table. `@fault(...)` puts it into the list.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypedDict, Unpack

if TYPE_CHECKING:
    from benchmarks.chaos.stage import Stage

Run: TypeAlias = Callable[["Stage"], None]

GROUPS: Mapping[str, str] = {
    "rtsp": "RTSP cameras",
    "mjpeg": "HTTP cameras (Motion JPEG)",
    "device": "Devices",
    "files": "Files",
    "isolation": "Processes of cameras",
    "host": "Host",
    "starts": "Start and stop",
    "models": "Models",
    "clients": "Clients",
    "sockets": "Viewers and WebSockets",
}
"""Module of the faults, and what stands above their table. A group more is a module more and a line here."""


class SkippedError(Exception):
    """The fault cannot be done on this machine; the message says why."""


class LateError(Exception):
    """What was waited for has not come, long after its bound."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and its bounds."""

    name: str
    group: str
    title: str
    """In a few words."""
    how: str
    """In a sentence or two: what is done, and what must come of it."""
    run: Run
    noticed_within: float | None
    """Seconds; None: there is nothing to notice."""
    recovered_within: float | None
    """Seconds after it is mended; None: there is nothing to recover from."""
    limit_seconds: float
    """When it is given up, whatever it does."""
    event: str | None = "session_failed"
    """Event of the log that tells of it."""
    reason: str = ""
    """Regular expression that must be found in what that event says."""
    metric: str | None = 'healthd_camera_failures_total{camera="patient",task="reader"}'
    """Name of a sample of `/metrics` that must have grown, or how it begins; with labels, those that it has."""
    unseen: str = ""
    """Why the log or the metrics tell nothing of it, where `event` or `metric` is None."""
    errors: tuple[str, ...] = ()
    """More events that may be errors of the log: any other one is a problem."""
    namespace: bool = False
    """It has a network and mounts of its own."""


class Told(TypedDict, total=False):
    """What of a fault has a default; see there."""

    event: str | None
    reason: str
    metric: str | None
    unseen: str
    errors: tuple[str, ...]
    namespace: bool


@dataclass(slots=True)
class Outcome:
    """What came of a fault; JSON on its way from the process that has done it."""

    name: str
    noticed: float | None = None
    recovered: float | None = None
    others: dict[str, float] = field(default_factory=dict)
    """See `beside.Beside.compared`."""
    lost: dict[str, float] = field(default_factory=dict)
    log: str = ""
    metric: str = ""
    notes: list[str] = field(default_factory=list)
    """What else is worth knowing."""
    problems: list[str] = field(default_factory=list)
    """Bounds that were exceeded, and what else must not be."""
    skipped: str = ""
    seconds: float = 0.0
    measured: str = ""
    """When it was done, in UTC: 2026-01-31 18:20."""


FAULTS: dict[str, Fault] = {}
"""By name, in the order of the groups and of their modules."""


def fault(
    title: str, *, noticed: float | None, recovered: float | None, limit: float = 60.0, **told: Unpack[Told]
) -> Callable[[Run], Run]:
    """Put a fault into the list; it is called as its function, and its group as the function's module."""

    def listed(run: Run) -> Run:
        name = run.__name__.replace("_", "-")
        FAULTS[name] = Fault(
            name=name,
            group=run.__module__.rpartition(".")[2],
            title=title,
            how=" ".join((run.__doc__ or "").split()),
            run=run,
            noticed_within=noticed,
            recovered_within=recovered,
            limit_seconds=limit,
            **told,
        )
        return run

    return listed


def all_faults() -> dict[str, Fault]:
    """Return every fault by its name."""
    for group in GROUPS:
        importlib.import_module(f"benchmarks.chaos.{group}")
    return FAULTS
