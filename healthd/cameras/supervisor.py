"""Keeps all runners: starts them, asks them to stop, and waits for them no longer than it was told to."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import get_args

import structlog

from healthd.cameras.health import State
from healthd.cameras.intensity import TASKS
from healthd.cameras.records import ModelState
from healthd.cameras.runner import CameraRunner
from healthd.metrics import Sample

log = structlog.get_logger(__name__)
CANCEL_SECONDS = 0.25
"""How long a cancelled runner gets to hand its workers over before nobody waits for it any more."""
REMOVED = "removed from the configuration"


class Supervisor:
    """All cameras of the daemon, in the order of the configuration. Lives as long as the daemon. Event loop only."""

    def __init__(self, runners: Iterable[CameraRunner]) -> None:
        self._runners = {runner.name: runner for runner in runners}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        """Those that were removed and have not ended; the newest of each name, which waits for those before it."""
        self._last_frame_ids: dict[str, int] = {}
        """Of cameras that were removed: no id comes twice while the process lives."""
        self.on_added: Callable[[CameraRunner], None] = lambda _runner: None

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
            self._start(runner)

    def _start(self, runner: CameraRunner) -> None:
        task = asyncio.create_task(_run(runner, self._leaving.get(runner.name)), name=f"camera-{runner.name}")
        task.add_done_callback(lambda done: self._ended(runner.name, done))
        self._tasks[runner.name] = task

    def last_frame_id(self, name: str) -> int:
        """Return the highest frame id that a removed camera of this name gave out; 0: there was none."""
        return self._last_frame_ids.get(name, 0)

    def add(self, runner: CameraRunner) -> None:
        """Start one more camera; one of the same name that was removed is left first."""
        self._runners[runner.name] = runner
        self.on_added(runner)
        self._start(runner)

    def remove(self, name: str, *, within_seconds: float) -> None:
        """Forget a camera at once; it has so long to end, then it is abandoned."""
        runner = self._runners.pop(name)
        runner.release_waiters()
        runner.request_stop(REMOVED)
        self._last_frame_ids[name] = runner.newest_frame_id
        task = self._tasks.pop(name, None)
        if task is not None:
            self._leaving[name] = task
            late = asyncio.get_running_loop().call_later(within_seconds, _give_up, name, task, within_seconds)
            task.add_done_callback(lambda _: late.cancel())

    def put_in_order(self, names: Sequence[str]) -> None:
        """Show the cameras in this order; it names all of them."""
        self._runners = {name: self._runners[name] for name in names}

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
        tasks = {**self._leaving, **self._tasks}
        if not tasks:
            return ()
        _, late = await asyncio.wait({*self._leaving.values(), *self._tasks.values()}, timeout=deadline_seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_SECONDS)
        abandoned = tuple(name for name, task in tasks.items() if task in late)
        for name in abandoned:
            log.warning("camera_abandoned", camera=name, deadline_seconds=deadline_seconds)
        return abandoned

    def measure(self) -> None:
        """Look how much memory each camera's process holds. Blocks for some milliseconds each; on any thread."""
        for runner in tuple(self._runners.values()):  # a reload may change them meanwhile
            if (isolated := runner.isolated) is not None:
                isolated.measure()

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
        if self._leaving.get(name) is task:
            del self._leaving[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("camera_task_died", camera=name, exc_info=error)


def _give_up(name: str, task: "asyncio.Task[None]", deadline_seconds: float) -> None:
    log.warning("camera_abandoned", camera=name, deadline_seconds=deadline_seconds)
    task.cancel()


async def _run(runner: CameraRunner, before: "asyncio.Task[None] | None") -> None:
    """Run a camera, once another that may hold the same device has ended."""
    if before is not None:
        await asyncio.wait([before])
    await runner.run()


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
    for task in TASKS:
        yield Sample("healthd_camera_failures_total", runner.failures.sessions[task], {**camera, "task": task})
        yield Sample("healthd_camera_bugs_total", runner.failures.bugs[task], {**camera, "task": task})
        yield Sample("healthd_camera_crash_loops_total", runner.intensity.total[task], {**camera, "task": task})
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
