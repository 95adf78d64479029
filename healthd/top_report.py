"""What `healthd top` shows: the newest answer of a daemon, rates against the one before, or why there is none.

The shapes here are what `--json` prints; their names are a promise (docs/operations.md).
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from healthd import top_client as wire
from healthd.clock import SYSTEM_CLOCK, Clock


class Daemon(Struct, frozen=True, kw_only=True):
    """The daemon as a whole."""

    version: str
    status: str
    waiting_for: list[str]
    started_at: datetime
    uptime_seconds: float
    cpu_percent: float | None
    """100 is one core; None until there are two answers to compare."""
    cpu_seconds: float | None
    resident_memory_bytes: int | None
    threads: int | None
    open_fds: int | None
    cameras_by_state: dict[str, int]
    viewers: int
    models_loaded: int


class Camera(Struct, frozen=True, kw_only=True):
    """One camera."""

    name: str
    plugin: str
    state: str
    reason: str | None
    since: datetime
    state_seconds: float
    """For how long it has been in this state."""
    fps: float
    predicted_fps: float
    frame_age_ms: float | None
    dropped_per_second: float | None
    """None until there are two answers to compare."""
    dropped_per_second_by_reason: dict[str, float] | None
    dropped: int
    dropped_by_reason: dict[str, int]
    reconnects: int
    viewers: int
    isolation: str | None
    """`process` or `thread`."""
    process_memory_bytes: int | None
    process_ends: dict[str, int]
    """How often its process ended in the middle of a session, by reason."""
    model: wire.CameraModel


class Viewer(Struct, frozen=True, kw_only=True):
    """One open viewer."""

    id: str
    kind: str
    camera: str | None
    client: str
    since: datetime
    open_seconds: float
    sent: int
    sent_per_second: float | None
    """None until there are two answers to compare."""
    skipped: int
    quality: int | None
    last_write_age_ms: float


class Report(Struct, frozen=True, kw_only=True):
    """One look at a daemon."""

    at: datetime
    """By the clock of this machine."""
    url: str
    problem: str | None
    """Why there is no answer; then there are no daemon, cameras and viewers."""
    answer_age_seconds: float | None
    """Since the last complete answer; None: there was none."""
    daemon: Daemon | None
    cameras: list[Camera]
    viewers: list[Viewer]


class Asker(Protocol):
    """Who asks the daemon."""

    address: str

    async def ask(self) -> wire.Answer:
        """Ask once."""
        ...


class Monitor:
    """Asks a daemon, and keeps the newest answer and the one before. Event loop only."""

    def __init__(self, client: Asker, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._client = client
        self._clock = clock
        self._before: wire.Answer | None = None
        self._newest: wire.Answer | None = None
        self._answered_at: float | None = None
        self._problem: str | None = "no answer yet"

    async def ask(self) -> bool:
        """Ask once, and tell whether there was an answer."""
        try:
            answer = await self._client.ask()
        except wire.NoAnswer as exc:
            self._problem = str(exc)
            return False
        self._before, self._newest = self._newest, answer
        self._answered_at, self._problem = self._clock.monotonic(), None
        return True

    def report(self) -> Report:
        """Tell how things stand now. After a problem nothing old is told."""
        age = self._clock.monotonic() - self._answered_at if self._answered_at is not None else None
        newest = self._newest if self._problem is None else None
        rates = _Rates(self._before, newest) if newest else None
        return Report(
            at=self._clock.now(),
            url=self._client.address,
            problem=self._problem,
            answer_age_seconds=round(age, 3) if age is not None else None,
            daemon=_daemon(newest.state, rates) if newest and rates else None,
            cameras=[_camera(camera, newest, rates) for camera in newest.cameras] if newest and rates else [],
            viewers=[_viewer(viewer, newest, rates) for viewer in newest.viewers] if newest and rates else [],
        )


async def look_once(monitor: Monitor, *, interval_seconds: float) -> Report:
    """Ask twice, so that there are rates; a question without an answer ends it."""
    if await monitor.ask():
        await asyncio.sleep(interval_seconds)
        await monitor.ask()
    return monitor.report()


async def watch(monitor: Monitor, *, interval_seconds: float) -> AsyncGenerator[Report]:
    """Yield a report each interval, for ever, also while an answer is late."""
    loop = asyncio.get_running_loop()
    asking: asyncio.Task[bool] | None = None
    try:
        while True:
            due = loop.time() + interval_seconds
            asking = asking or asyncio.create_task(monitor.ask(), name="ask")
            done, _ = await asyncio.wait([asking], timeout=interval_seconds)
            if done:
                asking.result()  # whatever it raised is a bug
                asking = None
            yield monitor.report()
            await asyncio.sleep(due - loop.time())
    finally:
        if asking is not None:
            asking.cancel()
            await asyncio.wait([asking], timeout=1)


class _Rates:
    """Growth per second between two answers of one run of a daemon; None where there are no two."""

    def __init__(self, before: wire.Answer | None, newest: wire.Answer) -> None:
        same_run = before is not None and before.state.started_at == newest.state.started_at
        self._before = before if same_run else None
        self._seconds = newest.state.uptime_seconds - before.state.uptime_seconds if before and same_run else 0.0

    def cpu(self, now: float) -> float | None:
        before = self._before.state.process if self._before else None
        return self._rate(now, before.cpu_seconds if before else None)

    def dropped(self, camera: str, now: Mapping[str, int]) -> dict[str, float] | None:
        """Return the drops per second by reason, without the reasons that did not occur."""
        before = next((seen for seen in self._before.cameras if seen.name == camera), None) if self._before else None
        if before is None:
            return None
        rates = {reason: self._rate(count, before.frames.dropped.get(reason, 0)) for reason, count in now.items()}
        return {reason: round(rate, 2) for reason, rate in rates.items() if rate}

    def sent(self, viewer: str, now: int) -> float | None:
        before = next((seen for seen in self._before.viewers if seen.id == viewer), None) if self._before else None
        return self._rate(now, before.sent if before else None)

    def _rate(self, now: float, before: float | None) -> float | None:
        if before is None or now < before or self._seconds <= 0:
            return None
        return (now - before) / self._seconds


def _daemon(state: wire.DaemonState, rates: _Rates) -> Daemon:
    process = state.process
    load = rates.cpu(process.cpu_seconds) if process else None
    return Daemon(
        version=state.version,
        status=state.status,
        waiting_for=state.waiting_for,
        started_at=state.started_at,
        uptime_seconds=state.uptime_seconds,
        cpu_percent=round(100 * load, 1) if load is not None else None,
        cpu_seconds=process.cpu_seconds if process else None,
        resident_memory_bytes=process.resident_memory_bytes if process else None,
        threads=process.threads if process else None,
        open_fds=process.open_fds if process else None,
        cameras_by_state=state.cameras,
        viewers=state.viewers,
        models_loaded=state.models_loaded,
    )


def _camera(camera: wire.Camera, answer: wire.Answer, rates: _Rates) -> Camera:
    dropped = {reason: count for reason, count in camera.frames.dropped.items() if count}
    by_reason = rates.dropped(camera.name, camera.frames.dropped)
    return Camera(
        name=camera.name,
        plugin=camera.plugin,
        state=camera.state,
        reason=camera.reason,
        since=camera.since,
        state_seconds=_since(camera.since, answer),
        fps=camera.fps,
        predicted_fps=camera.predicted_fps,
        frame_age_ms=camera.frame_age_ms,
        dropped_per_second=round(sum(by_reason.values(), start=0.0), 2) if by_reason is not None else None,
        dropped_per_second_by_reason=by_reason,
        dropped=sum(dropped.values()),
        dropped_by_reason=dropped,
        reconnects=camera.reconnects,
        viewers=camera.viewers,
        isolation=camera.isolation,
        process_memory_bytes=camera.process.memory_bytes if camera.process else None,
        process_ends={reason: count for reason, count in camera.process.ends.items() if count}
        if camera.process
        else {},
        model=camera.model,
    )


def _viewer(viewer: wire.Viewer, answer: wire.Answer, rates: _Rates) -> Viewer:
    rate = rates.sent(viewer.id, viewer.sent)
    return Viewer(
        id=viewer.id,
        kind=viewer.kind,
        camera=viewer.camera,
        client=viewer.client,
        since=viewer.since,
        open_seconds=_since(viewer.since, answer),
        sent=viewer.sent,
        sent_per_second=round(rate, 2) if rate is not None else None,
        skipped=viewer.skipped,
        quality=viewer.quality,
        last_write_age_ms=viewer.last_write_age_ms,
    )


def _since(moment: datetime, answer: wire.Answer) -> float:
    """Return the seconds since then, by the daemon's own clock."""
    return max(0.0, round((answer.at - moment).total_seconds(), 1))
