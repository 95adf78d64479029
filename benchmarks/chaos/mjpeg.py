"""Faults of HTTP cameras: what comes is no Motion JPEG as it should be."""

import time

from benchmarks.chaos.faults import fault
from benchmarks.chaos.stage import HUNG_RECOVERED_SECONDS, NOTICED_SECONDS, Stage, patient

FAULT_SECONDS = 6.0
MOST_GROWN_MB = 300.0
"""Of the daemon and its children, while a camera sends what has no end."""


def _misbehaves(stage: Stage, name: str) -> None:
    """Have a camera misbehave in the middle of a stream, and watch what memory does."""
    camera = stage.camera("mjpeg")
    stage.open({"patient": patient(camera.url)})
    before = stage.memory_mb()
    stage.broken()
    camera.tell(f"do {name}")
    stage.noticed()
    most, end = before, time.monotonic() + FAULT_SECONDS
    while time.monotonic() < end:
        most = max(most, stage.memory_mb())
        time.sleep(0.1)
    camera.tell("do")
    stage.recovered()
    stage.note(f"Memory rose by {most - before:.0f} MB at most.")
    if most - before > MOST_GROWN_MB:
        stage.problem(f"memory rose by {most - before:.0f} MB, bound {MOST_GROWN_MB:g} MB")


@fault("endless header", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS)
def endless_header(stage: Stage) -> None:
    """In place of a part comes a header that has no end, as fast as it can be read, also to new connections."""
    _misbehaves(stage, "endless-header")


@fault("missing boundary", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS)
def missing_boundary(stage: Stage) -> None:
    """JPEGs follow each other without a boundary or a header between them."""
    _misbehaves(stage, "missing-boundary")


@fault("gigantic part", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS)
def gigantic_part(stage: Stage) -> None:
    """A part says that it is 2 GB long, and begins to send them as fast as they can be read."""
    _misbehaves(stage, "gigantic-part")


@fault("wrong length, too short", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS)
def length_too_short(stage: Stage) -> None:
    """Each part says that it is half as long as it is."""
    _misbehaves(stage, "short-length")


@fault("wrong length, too long", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS)
def length_too_long(stage: Stage) -> None:
    """Each part says that it is three times as long as it is."""
    _misbehaves(stage, "long-length")


@fault("slow drip", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS)
def slow_drip(stage: Stage) -> None:
    """Five bytes come in a second: never a timeout of the socket, never a picture."""
    _misbehaves(stage, "slow-drip")
