"""Keeps ONE camera going: a reader task and a predictor task side by side, two retry loops, and its health.

One function never dies (`_keep`); the sessions it runs never catch.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import structlog

from healthd.cameras.control import Task
from healthd.cameras.health import State
from healthd.cameras.intensity import TASKS
from healthd.cameras.isolated import CameraLeft
from healthd.cameras.parts import CameraParts, Fitting
from healthd.cameras.records import Tuning
from healthd.cameras.source import CameraSource
from healthd.errors import EndOfStream, SettingsError
from healthd.models.model import InferenceParams
from healthd.settings import CameraSettings
from healthd.waiting import Backoff
from healthd.worker import EnterTimeout, WorkerTimeout

log = structlog.get_logger(__name__)
REFIT_SECONDS = 10.0
"""How long the sessions of a camera that is to be made of something else may take to end; then they are left behind."""
LOOK_SECONDS = 0.5
"""How often it is looked whether a stuck thread has come back."""


class CameraRunner(CameraParts):
    """One configured camera, from the start of the daemon, or from when it was added, to its end. Event loop only."""

    _pending: Fitting | None = None
    """What the camera is to be made of as soon as its sessions have ended."""
    _stopped_because: str | None = None
    _late: asyncio.TimerHandle | None = None
    """Ends the sessions of a camera that is to be made of something else, if they take too long."""
    _keeping: tuple[asyncio.Task[None], ...] = ()
    """What runs its sessions."""

    # -- what others order ---------------------------------------------------------------------------------------

    def release_waiters(self) -> None:
        """Let everybody go who waits for a frame, and let nobody wait any more; the camera itself goes on."""
        self.waits.release()
        self.published.notify_all()

    def request_stop(self, why: str | None = None) -> None:
        """Ask both tasks to end: the reader at the next frame, the predictor after the frame in hand."""
        self._control.stopping = True
        self._stopped_because = why
        self._wake(leaving=True)

    @property
    def configured_source(self) -> CameraSource | None:
        """What the camera is made of, or is about to be."""
        return self.source if self._pending is None else self._pending.source

    def pause(self) -> None:
        """Close the camera until `resume`; the model stays loaded. A camera that has failed stays `failed`."""
        if self._control.may_pause and not self._control.paused:
            self._control.paused = True
            self._forget_frames()
            self._health.set(State.PAUSED, "paused by request")
            self._wake(leaving=True)

    def resume(self) -> None:
        """Open a paused camera again."""
        if self._control.may_pause and self._control.paused and self._reader is not None:
            self._control.paused = False
            self._control.resumed += 1
            self._reader.backoff.reset()
            self._freeze.reset()
            self._health.set(State.ENDED if self._control.ended else State.STARTING)
            self._wake()

    def restart(self) -> None:
        """Leave both sessions and begin anew, also after `failed`, `ended` and `paused`."""
        if self._control.stopping or self._reader is None or self._predictor is None:
            return
        self._control.generation += 1
        self._control.paused = self._control.ended = False
        self._control.failure = None
        self._too_many_stuck = False
        self.intensity.forget()
        self._forget_frames()
        self._reader.backoff.reset()
        self._predictor.backoff.reset()
        self._freeze.reset()
        self._predictor.set_health("loading")
        self._health.set(State.STARTING, "restarted by request")
        self._wake(leaving=True)

    def tune(self, *, tuning: Tuning, thresholds: dict[str, Any]) -> None:
        """Change what can be changed while the camera runs; the next prediction and the next JPEG use it.

        Raises:
            SettingsError: this camera's plugin takes no thresholds.
        """
        if thresholds:
            if self.source is None or self.source.params is None:
                raise SettingsError(f"camera `{self.name}` has no {', '.join(thresholds)}: its plugin takes none")
            params = InferenceParams.model_validate({**self.source.params.model_dump(), **thresholds})
            for source in (self.source, self.configured_source):
                if source is not None and source.params is not None:
                    source.params = params
        self.tuning = tuning
        self._wake()

    def adapt(self, settings: CameraSettings) -> None:
        """Take settings for which neither the camera nor its model has to be left."""
        self.settings = settings
        if self._pending is not None:
            self._pending = replace(self._pending, settings=settings)
        self.attention.adapt(settings)
        if self._reader is not None and self._predictor is not None:
            self._reader.adapt(settings)
            self._predictor.adapt(settings)
        self._take_up([task for task in TASKS if self.intensity.has_given_up(task)])
        self._wake()

    def refit(self, fitting: Fitting) -> None:
        """Leave both sessions and make the camera of something else; its viewers and its frame ids go on.

        A camera that is paused stays so.
        """
        if self._control.stopping:
            return
        self._pending = fitting
        self._control.refitting = True
        self._control.generation += 1
        self._forget_frames()
        if self._health.current.state is not State.PAUSED:
            self._health.set(State.STARTING, "its configuration has changed")
        if self._late is not None:
            self._late.cancel()
        self._late = asyncio.get_running_loop().call_later(REFIT_SECONDS, self._cut_short)
        self._wake(leaving=True)

    def _cut_short(self) -> None:
        """Leave sessions to their threads that have not ended in time."""
        if self._control.refitting:
            for task in self._keeping:
                task.cancel()

    # -- the life of the camera ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `request_stop`, or until cancelled because it did not stop in time."""
        structlog.contextvars.bind_contextvars(camera=self.name)
        try:
            while not self._control.stopping:
                await self._run_parts()
                if self._pending is not None and not self._control.stopping:
                    self._begin_anew(self._pending)
        finally:
            self._control.stopping = True
            self._forget_frames()
            self._health.set(State.STOPPED, self._stopped_because)

    async def _run_parts(self) -> None:
        """Run until stop, or until the camera is to be made of something else."""
        if self._reader is not None and self._predictor is not None:
            async with asyncio.TaskGroup() as group:
                self._keeping = (
                    group.create_task(self._keep("reader", self._reader.session)),
                    group.create_task(self._keep("predictor", self._predictor.session)),
                )
        while not self._control.leaving:
            await self._control.changed.wait()

    def _begin_anew(self, fitting: Fitting) -> None:
        control, self._pending = self._control, None
        control.refitting = control.ended = self._too_many_stuck = False
        control.paused = control.paused and fitting.settings.enabled and fitting.source is not None
        control.failure = None
        self.intensity.forget()
        self.waits.release()  # who waits there waits for parts that are gone
        self._sessions_before += self._reader.sessions if self._reader is not None else 0
        self._fit(fitting, last_frame_id=self.newest_frame_id)
        self._wake()

    async def _keep(self, task: Task, session: Callable[[], Awaitable[None]]) -> None:
        """Run sessions until the end. The only place that catches: sorts the failure, notes it, waits, tries again."""
        while not self._control.leaving:
            if not self._control.wants(task) or self.intensity.has_given_up(task):
                await self._control.changed.wait(self._rest_seconds(task))
                self._try_again_with_free_threads()
                self._try_again_after_crashes()
                continue
            generation = self._control.generation_of(task)
            try:
                await session()
            except Exception as exc:  # noqa: BLE001  sorted by kind, and a bug must not end the camera
                self._sort(task, exc, current=generation == self._control.generation_of(task))
                if self._control.staying(task, generation):
                    await self._control.changed.wait(self._backoff(task).next())

    def _sort(self, task: Task, exc: Exception, *, current: bool) -> None:
        """Decide what a failed session means for the camera; nothing, if somebody has restarted it meanwhile."""
        if isinstance(exc, CameraLeft) and not (current and self._control.wants(task)):
            return
        if isinstance(exc, EndOfStream) and task == "reader" and self._reader is not None and self._reader.recording:
            if current:
                self._end()
            return
        reason = self.failures.note(task, exc, attempts=self._backoff(task).attempts)
        if not current:
            return
        if isinstance(exc, SettingsError):
            self._fail(reason)
        elif self.stuck_workers >= self.settings.max_abandoned_workers:
            self._too_many_stuck = True
            self._fail(self.abandoned.told(reason, isolated=self.isolated is not None))
        elif self.intensity.crashed(task, exc, good_seconds=self._good_seconds(task), settings=self.settings):
            self._give_up(task, reason)
        elif task == "predictor" and self._predictor is not None:
            self._predictor.note_failure(exc, reason)
        else:
            self._forget_frames()
            stalled = isinstance(exc, WorkerTimeout) and not isinstance(exc, EnterTimeout)
            if not self._control.paused:
                self._health.set(State.STALLED if stalled else State.RECONNECTING, reason)

    def _give_up(self, task: Task, last: str) -> None:
        """It crashes again and again. A camera without its model goes on showing pictures."""
        reason = self.intensity.reason(task, last, self.settings)
        log.error("crash_loop", task=task, reason=reason, cooldown_seconds=self.settings.crash_cooldown_seconds)
        if task == "reader":
            self._fail(reason)
        elif self._predictor is not None:
            self._predictor.set_health("failed", reason)
            self.published.notify_all()

    def _try_again_after_crashes(self) -> None:
        """Go on by itself once what was given up has rested for long enough."""
        self._take_up([task for task in TASKS if self.intensity.left(task, self.settings) == 0.0])

    def _take_up(self, tasks: list[Task]) -> None:
        """Try again what was given up because it crashed too often."""
        for task in tasks:
            self.intensity.forget(task)
            log.info("crash_loop_over", task=task)
            if task == "reader":
                self._control.failure = None
                self._health.set(State.RECONNECTING, "it crashed again and again, and is tried once more")
            self._backoff(task).reset()
            if self._predictor is not None and not self.intensity.has_given_up("predictor"):
                self._predictor.set_health("loading")
            self._wake()

    def _rest_seconds(self, task: Task) -> float | None:
        """Return after how long a task that has nothing to do is to look again; None: when something changes."""
        if self._too_many_stuck:
            return LOOK_SECONDS
        left = self.intensity.left(task, self.settings)
        return None if left is None else max(0.01, left)

    def _good_seconds(self, task: Task) -> float | None:
        keeper = self._reader if task == "reader" else self._predictor
        since = keeper.good_since if keeper is not None else None
        return None if since is None else self._clock.monotonic() - since

    def _try_again_with_free_threads(self) -> None:
        """Go on by itself once a thread has come back out of a call that was given up."""
        if self._too_many_stuck and self.stuck_workers < self.settings.max_abandoned_workers:
            self._too_many_stuck = False
            self._control.failure = None
            self._health.set(State.RECONNECTING, "a thread that was stuck is free again")
            if self._predictor is not None and self._predictor.health.state == "failed":
                self._predictor.set_health("loading")
            self._wake()

    def _end(self) -> None:
        """A recording has delivered its last frame."""
        self._control.ended = True
        self._forget_frames()
        if not self._control.paused:
            self._health.set(State.ENDED, "the recording has ended")

    def _backoff(self, task: Task) -> Backoff:
        keeper = self._reader if task == "reader" else self._predictor
        return keeper.backoff if keeper is not None else Backoff()
