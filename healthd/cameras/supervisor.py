"""Keeps all runners: starts them, asks them to stop, and waits for them no longer than it was told to."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

import structlog

from healthd.cameras.health import State
from healthd.cameras.records import ModelState
from healthd.cameras.runner import CameraRunner
from healthd.metrics import Sample

log = structlog.get_logger(__name__)
CANCEL_SECONDS = 0.25
"""How long a cancelled runner gets to hand its workers over before nobody waits for it any more."""


class Supervisor:
    """All cameras of the daemon, in the order of the configuration. Lives as long as the daemon. Event loop only."""

    def __init__(self, runners: Iterable[CameraRunner]) -> None:
        self._runners = {runner.name: runner for runner in runners}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[CameraRunner]:
        return iter(self._runners.values())

    def __len__(self) -> int:
        return len(self._runners)

    def get(self, name: str) -> CameraRunner | None:
        """Return the runner of a camera, or None."""
        return self._runners.get(name)

    def start(self) -> None:
        """Start all cameras; each runs in a task of its own that no other camera can end."""
        for runner in self:
            task = asyncio.create_task(runner.run(), name=f"camera-{runner.name}")
            task.add_done_callback(lambda done, name=runner.name: self._ended(name, done))  # type: ignore[misc]
            self._tasks[runner.name] = task

    def release_waiters(self) -> None:
        """Let everybody go who waits for a frame of any camera."""
        for runner in self:
            runner.release_waiters()

    def request_stop(self) -> None:
        """Ask all cameras to end; returns at once."""
        for runner in self:
            runner.request_stop()

    async def drain(self, deadline_seconds: float) -> tuple[str, ...]:
        """Wait until all cameras have ended, at most so long; return the names of those that had to be abandoned."""
        self.request_stop()
        if not self._tasks:
            return ()
        _, late = await asyncio.wait(self._tasks.values(), timeout=deadline_seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_SECONDS)
        abandoned = tuple(name for name, task in self._tasks.items() if task in late)
        for name in abandoned:
            log.warning("camera_abandoned", camera=name, deadline_seconds=deadline_seconds)
        return abandoned

    def measure(self) -> None:
        """Look how much memory each camera's process holds. Blocks for some milliseconds each; on any thread."""
        for runner in self:
            if runner.isolated is not None:
                runner.isolated.measure()

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """What cameras still have to do before each has come to a first result, good or bad."""
        return tuple(reason for runner in self if (reason := runner.waiting_for) is not None)

    @property
    def stuck_workers(self) -> int:
        """Threads of all cameras that hang in a call that never returned."""
        return sum(runner.stuck_workers for runner in self)

    def by_state(self) -> Mapping[str, int]:
        """Count the cameras in each state; every state is named."""
        counted = Counter(runner.health.state.value for runner in self)
        return {state.value: counted[state.value] for state in State}

    def samples(self) -> Iterator[Sample]:
        """Give the values of all cameras' metrics, as they are now."""
        for runner in self:
            yield from _samples(runner)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("camera_task_died", camera=name, exc_info=error)


def _samples(runner: CameraRunner) -> Iterator[Sample]:
    camera = {"camera": runner.name}
    state, counts = runner.health.state, runner.counts
    for known in State:
        yield Sample("healthd_camera_state", float(known is state), {**camera, "state": known.value})
    for word in get_args(ModelState):
        yield Sample("healthd_camera_model_state", float(runner.model_health.state == word), {**camera, "state": word})
    yield Sample("healthd_camera_frames_read_total", counts.read, camera)
    yield Sample("healthd_camera_frames_predicted_total", counts.predicted, camera)
    for reason, number in counts.dropped.items():
        yield Sample("healthd_camera_frames_dropped_total", number, {**camera, "reason": reason})
    yield Sample("healthd_camera_frames_in_hand", counts.in_hand, camera)
    yield Sample("healthd_camera_fps", runner.fps, camera)
    yield Sample("healthd_camera_predicted_fps", runner.predicted_fps, camera)
    yield Sample("healthd_camera_idle", float(runner.waits.model_rests), camera)
    if runner.frame_age_seconds is not None:
        yield Sample("healthd_camera_frame_age_seconds", runner.frame_age_seconds, camera)
    yield Sample("healthd_camera_reconnects_total", runner.reconnects, camera)
    for task in ("reader", "predictor"):
        yield Sample("healthd_camera_failures_total", runner.failures.sessions[task], {**camera, "task": task})
        yield Sample("healthd_camera_bugs_total", runner.failures.bugs[task], {**camera, "task": task})
    yield Sample("healthd_camera_workers_abandoned_total", runner.abandoned.total, camera)
    yield Sample("healthd_camera_workers_stuck", runner.stuck_workers, camera)
    if runner.isolated is not None:
        facts = runner.isolated.facts
        for reason, number in facts.ends.items():
            yield Sample("healthd_camera_process_ends_total", number, {**camera, "reason": reason})
        yield Sample("healthd_camera_images_copied_total", facts.copied, camera)
        if facts.memory_bytes is not None:
            yield Sample("healthd_camera_process_memory_bytes", facts.memory_bytes, camera)
    for kind, number in runner.jpegs.encodes_by_kind.items():
        yield Sample("healthd_jpeg_encodes_total", number, {**camera, "variant": kind})
    yield Sample("healthd_jpeg_hits_total", runner.jpegs.hits, camera)
    yield Sample("healthd_jpeg_passed_total", runner.jpegs.passed, camera)
