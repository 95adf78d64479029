"""A real daemon with a camera of large pictures, and what its log says of the sessions of its viewers."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from tests.process.daemon import INSTALLED, TESTS, Daemon

STREAM = "/api/v1/cameras/gym/stream"
EVENTS = "/api/v1/events/stream"
PLUGINS = (INSTALLED, TESTS / "stream_plugin")

SLACK_SECONDS = 1.5
"""What a machine that has other things to do may take longer."""


def daemon(
    folder: Path, *, streams: dict[str, Any] | None = None, camera: dict[str, Any] | None = None, **options: Any
) -> Daemon:
    """A daemon that watches one camera, `gym`; `options` are its plugin's."""
    gym = {"plugin": "noisy", **(camera or {}), "options": options}
    settings = {"streams": streams or {}, "cameras": {"gym": gym}}
    return Daemon(folder, settings, plugins=PLUGINS)


async def eventually(condition: Callable[[], object], *, seconds: float = 20.0, what: object = "") -> float:
    """Wait until the condition holds; return the seconds that took. Clients go on reading meanwhile."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() > begun + seconds:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what}")
        await asyncio.sleep(0.005)
    return time.monotonic() - begun


def epoch(event: dict[str, Any]) -> float:
    """When something was logged, as `time.time()` counts."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def ended(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """The sessions that have ended, by viewer; each was logged once."""
    events = daemon.events("viewer_ended")
    found = {event["viewer"]: event for event in events}
    assert len(found) == len(events), "a session has ended twice"
    return found


def opened(daemon: Daemon) -> list[str]:
    """The viewers that were let in, in order."""
    return [event["viewer"] for event in daemon.events("viewer_opened")]


async def samples(daemon: Daemon) -> dict[str, float]:
    """The metrics of the daemon."""
    return await asyncio.to_thread(daemon.samples)


async def cpu_share(daemon: Daemon, seconds: float) -> float:
    """Processor time per second, of the daemon, over so many seconds from now."""
    process = psutil.Process(daemon.pid)
    before, begun = process.cpu_times(), time.monotonic()
    await asyncio.sleep(seconds)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / (time.monotonic() - begun)
