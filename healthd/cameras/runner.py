"""Keeps ONE camera going: a reader task and a predictor task side by side, two retry loops, and its health.

One function never dies (`_keep`); the sessions it runs never catch.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from healthd.cameras.abandoned import Abandoned
from healthd.cameras.accounting import Drop, FrameCounts
from healthd.cameras.attention import Attention
from healthd.cameras.control import Control, Task
from healthd.cameras.demand import Demand
from healthd.cameras.failures import Failures
from healthd.cameras.health import FreezeDetector, Health, HealthRecord, State
from healthd.cameras.isolated import CameraLeft, IsolatedCamera
from healthd.cameras.jpeg import JpegCache, JpegEncoder, Picture
from healthd.cameras.predictor import Predictor
from healthd.cameras.reader import Reader
from healthd.cameras.records import ModelHealth, PredictedFrame, Tuning
from healthd.cameras.shown import Shown
from healthd.cameras.source import CameraSource
from healthd.cameras.waits import Waits
from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.errors import EndOfStream, SettingsError
from healthd.frames import Frame, StreamInfo
from healthd.latest import Latest
from healthd.metrics import Metrics
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams
from healthd.redact import SCRUBBER
from healthd.settings import CameraSettings
from healthd.waiting import Backoff, Signal
from healthd.worker import EnterTimeout, WorkerTimeout

log = structlog.get_logger(__name__)
LOOK_SECONDS = 0.5
"""How often it is looked whether a stuck thread has come back."""


class CameraRunner:
    """One configured camera, from the daemon's start to its stop. Event loop only.

    A `failure` in place of a source: the camera cannot be made (broken plugin, wrong settings); it is `failed` from
    the start, and stays so until the daemon is started anew.
    """

    def __init__(  # noqa: PLR0913  one typed value for each thing it uses
        self,
        name: str,
        *,
        settings: CameraSettings,
        source: CameraSource | None,
        isolated: IsolatedCamera | None = None,
        failure: str | None = None,
        models: ModelManager,
        encoder: JpegEncoder,
        metrics: Metrics,
        default_quality: int = 75,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.settings = settings
        self.source = source
        self.counts = FrameCounts(metrics.decoded(name))
        self.jpegs = JpegCache(encoder, on_encoded=metrics.encode_seconds.labels(name).observe)
        self.tuning = Tuning(settings.predict_fps, settings.quality or default_quality, settings.quality is not None)
        self.failures = Failures(clock)
        self.isolated = isolated
        """Where the camera is read in a process of its own; None: on a thread."""
        self.abandoned = Abandoned()
        self.published = Signal()
        """Notified after every new frame, prediction and change of health."""
        self._clock = clock
        self._control = Control()
        self._latest: Latest[Frame] = Latest()
        self._health = HealthRecord(clock, self._health_changed)
        self._freeze = FreezeDetector(clock, after_seconds=settings.frozen_after_seconds)
        self.shown = Shown(
            clock,
            stale_after_seconds=settings.stale_after_seconds,
            health=lambda: self.health,
            model_health=lambda: self.model_health,
            may_be_old=lambda: self._reader_waits,
            newest_id=lambda: self.newest_frame_id,
        )
        self.attention = Attention(settings, recording=bool(source and source.recording), clock=clock)
        demand = Demand(clock, frozen_after_seconds=settings.frozen_after_seconds)
        self.waits = Waits(self.shown, self.published, attention=self.attention, demand=demand, control=self._control)
        self._too_many_stuck = False
        self._reader: Reader | None = None
        self._predictor: Predictor | None = None
        if not settings.enabled:
            self._health.set(State.STOPPED, "disabled in the configuration")
            return
        if source is None:
            self._fail(failure or "the camera cannot be made")
            return
        self._reader = Reader(
            source,
            settings=settings,
            control=self._control,
            latest=self._latest,
            counts=self.counts,
            attention=self.attention,
            demand=demand,
            clock=clock,
            on_frame=self._show,
            on_abandoned=self.abandoned.add,
            isolated=isolated,
        )
        self._predictor = Predictor(
            source,
            settings=settings,
            control=self._control,
            latest=self._latest,
            counts=self.counts,
            attention=self.attention,
            demand=demand,
            models=models,
            metrics=metrics,
            tuning=lambda: self.tuning,
            clock=clock,
            on_predicted=self._show_predicted,
            on_abandoned=self.abandoned.add,
        )

    @property
    def health(self) -> Health:
        """State, since and reason; a camera whose newest frame is too old is `stalled`, whatever it was before."""
        health, frame, age = self._health.current, self.shown.frame, self.frame_age_seconds or 0.0
        old = age > self.settings.stale_after_seconds and not self._reader_waits
        if frame is not None and old and health.connected:
            return Health(State.STALLED, frame.captured_at, f"no image for {age:.1f} s")
        return health

    @property
    def model_health(self) -> ModelHealth:
        """How the model that watches the camera is doing."""
        return self._predictor.health if self._predictor else ModelHealth(None, "none")

    @property
    def frame(self) -> Frame | None:
        """The newest frame of a camera that is not lost, whether it may be shown or not."""
        return self.shown.frame

    @property
    def newest_frame_id(self) -> int:
        """The highest frame id given out so far; 0 before the first frame."""
        return self._reader.last_frame_id if self._reader else 0

    @property
    def frame_age_seconds(self) -> float | None:
        """Age of the newest frame in seconds; None when there is none."""
        return self._clock.monotonic() - self._reader.arrived_at if self.shown.frame and self._reader else None

    @property
    def has_frame(self) -> bool:
        """Whether there is a picture that can be shown now."""
        return self.shown.frame is not None and self.health.state is State.LIVE

    @property
    def info(self) -> StreamInfo:
        """What the camera says of its stream."""
        return self._reader.info if self._reader else StreamInfo()

    @property
    def fps(self) -> float:
        """Published frames per second."""
        return self._reader.rate.rate() if self._reader else 0.0

    @property
    def predicted_fps(self) -> float:
        """Predictions per second."""
        return self._predictor.rate.rate() if self._predictor else 0.0

    @property
    def reconnects(self) -> int:
        """Sessions after the first one."""
        return max(0, self._reader.sessions - 1) if self._reader else 0

    @property
    def _reader_waits(self) -> bool:
        """Whether a recording stands still because its model, which works, is not done with the frame before."""
        return self._reader is not None and self._reader.waits_for_predictor and self.model_health.state == "ready"

    @property
    def stuck_workers(self) -> int:
        """Threads given up in a stuck call that have not come back."""
        return self.abandoned.stuck

    @property
    def waiting_for(self) -> str | None:
        """What stands between the camera and a first result, good or bad, in words; None when it has one."""
        if self._health.current.state is State.STARTING:
            return f"{self.name}: first image"
        if self._control.active and self.model_health.state == "loading":
            return f"{self.name}: model {self.model_health.model_id or 'of its plugin'} is loading"
        return None

    def picture(self, *, overlay: bool) -> Picture:
        """Return the newest frame, or the newest predicted one with its prediction; raise NotLive without one."""
        return self.shown.picture(overlay=overlay)

    def predicted_frame(self) -> PredictedFrame:
        """Return the newest predicted frame of a live camera, or raise NotLive."""
        return self.shown.newest_predicted()

    async def wait_newer(self, frame_id: int, *, overlay: bool, timeout: float) -> bool:  # noqa: ASYNC109
        """Wait for a frame newer than `frame_id`; False when time ran out, or at once when the camera is lost."""
        return await self.waits.newer(frame_id, overlay=overlay, timeout=timeout)

    async def wait_fresh(self, *, overlay: bool) -> None:
        """Say that somebody looks, and wait, a moment at most, for what is made only then."""
        await self.waits.fresh(overlay=overlay)

    # -- what others order ---------------------------------------------------------------------------------------

    def release_waiters(self) -> None:
        """Let everybody go who waits for a frame, and let nobody wait any more; the camera itself goes on."""
        self.waits.release()
        self.published.notify_all()

    def request_stop(self) -> None:
        """Ask both tasks to end: the reader at the next frame, the predictor after the frame in hand."""
        self._control.stopping = True
        self._wake(leaving=True)

    def pause(self) -> None:
        """Close the camera until `resume`; the model stays loaded. A camera that has failed stays `failed`."""
        if self._control.active and not self._control.paused:
            self._control.paused = True
            self._forget_frames()
            self._health.set(State.PAUSED, "paused by request")
            self._wake(leaving=True)

    def resume(self) -> None:
        """Open a paused camera again."""
        if self._control.active and self._control.paused and self._reader is not None:
            self._control.paused = False
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
            self.source.params = InferenceParams.model_validate({**self.source.params.model_dump(), **thresholds})
        self.tuning = tuning
        self._wake()

    # -- the life of the camera ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `request_stop`, or until cancelled because it did not stop in time."""
        structlog.contextvars.bind_contextvars(camera=self.name)
        try:
            if self._reader is not None and self._predictor is not None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._keep("reader", self._reader.session))
                    group.create_task(self._keep("predictor", self._predictor.session))
            while not self._control.stopping:
                await self._control.changed.wait()
        finally:
            self._control.stopping = True
            self._forget_frames()
            self._health.set(State.STOPPED)

    async def _keep(self, task: Task, session: Callable[[], Awaitable[None]]) -> None:
        """Run sessions until stop. The only place that catches: sorts the failure, notes it, waits, tries again."""
        while not self._control.stopping:
            if not self._control.wants(task):
                await self._control.changed.wait(LOOK_SECONDS if self._too_many_stuck else None)
                self._try_again_with_free_threads()
                continue
            generation = self._control.generation
            try:
                await session()
            except Exception as exc:  # noqa: BLE001  sorted by kind, and a bug must not end the camera
                self._sort(task, exc, current=generation == self._control.generation)
                if self._control.staying(task, generation):
                    await self._control.changed.wait(self._backoff(task).next())

    def _sort(self, task: Task, exc: Exception, *, current: bool) -> None:
        """Decide what a failed session means for the camera; nothing, if somebody has restarted it meanwhile."""
        if isinstance(exc, CameraLeft):
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
        elif task == "predictor" and self._predictor is not None:
            self._predictor.note_failure(exc, reason)
        else:
            self._forget_frames()
            stalled = isinstance(exc, WorkerTimeout) and not isinstance(exc, EnterTimeout)
            if not self._control.paused:
                self._health.set(State.STALLED if stalled else State.RECONNECTING, reason)

    # -- what happened -------------------------------------------------------------------------------------------

    def _show(self, frame: Frame) -> None:
        """A new frame: the newest from now on."""
        self.shown.frame = frame
        frozen = self._freeze.frozen_seconds(frame.delivered)
        if frozen is None:
            self._health.set(State.LIVE)
        elif self._health.current.state is not State.FROZEN:
            self._health.set(State.FROZEN, f"the picture has not changed for {frozen:.0f} s")
        self.published.notify_all()

    def _show_predicted(self, predicted: PredictedFrame) -> None:
        """A new prediction; of a camera that was lost meanwhile it is no longer shown."""
        if self.shown.show_predicted(predicted):
            self.published.notify_all()

    def _forget_frames(self) -> None:
        """The camera is lost or left: nothing it showed may be shown any more."""
        if self._latest.take_nowait() is not None:
            self.counts.drop(Drop.LOST)
        self.shown.forget(self.newest_frame_id)
        if self._reader is not None:
            self._reader.rate.clear()
        self.jpegs.drop()

    def _fail(self, reason: str) -> None:
        """It will not pass by itself: both tasks park until somebody restarts the camera."""
        self._control.failure = SCRUBBER.scrub(reason)
        self._forget_frames()
        if self._predictor is not None and self._predictor.health.state != "none":
            self._predictor.set_health("failed", reason)
        self._health.set(State.FAILED, self._control.failure)
        self._wake()

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

    def _wake(self, *, leaving: bool = False) -> None:
        if leaving and self.isolated is not None:
            self.isolated.leave()
        self._control.changed.notify_all()
        self._latest.interrupt()
        self.published.notify_all()

    def _health_changed(self, before: Health, after: Health) -> None:
        if before.state is not after.state:
            log.info("camera_state", state=after.state.value, was=before.state.value, reason=after.reason)
        self.published.notify_all()
