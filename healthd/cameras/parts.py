"""The parts of ONE camera, made anew when its settings change, and what can be told of it. Event loop only."""

from dataclasses import dataclass

import structlog

from healthd.cameras.abandoned import Abandoned
from healthd.cameras.accounting import Drop, FrameCounts
from healthd.cameras.attention import Attention
from healthd.cameras.control import Control
from healthd.cameras.demand import Demand
from healthd.cameras.failures import Failures
from healthd.cameras.health import FreezeDetector, Health, HealthRecord, State
from healthd.cameras.intensity import Intensity
from healthd.cameras.isolated import IsolatedCamera
from healthd.cameras.jpeg import JpegCache, JpegEncoder, Picture
from healthd.cameras.predictor import Predictor
from healthd.cameras.reader import Reader
from healthd.cameras.records import ModelHealth, PredictedFrame, Tuning
from healthd.cameras.shown import Shown
from healthd.cameras.source import CameraSource
from healthd.cameras.waits import Waits
from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.frames import Frame, StreamInfo
from healthd.latest import Latest
from healthd.metrics import Metrics
from healthd.models.manager import ModelManager
from healthd.redact import SCRUBBER
from healthd.settings import CameraSettings
from healthd.waiting import Signal

log = structlog.get_logger("healthd.cameras.runner")


@dataclass(frozen=True, slots=True)
class Fitting:
    """What the parts of a camera are made for.

    A `failure` in place of a source: the camera cannot be made (broken plugin, wrong settings); it is `failed` from
    the start, and stays so until its configuration changes.
    """

    settings: CameraSettings
    source: CameraSource | None
    failure: str | None = None
    isolated: IsolatedCamera | None = None
    """Where the camera is read in a process of its own; None: on a thread."""


class CameraParts:
    """A camera's reader, predictor and records. What viewers hold on to stays the same when the camera is refitted."""

    def __init__(  # noqa: PLR0913  one typed value for each thing it uses
        self,
        name: str,
        *,
        settings: CameraSettings,
        source: CameraSource | None,
        failure: str | None = None,
        isolated: IsolatedCamera | None = None,
        models: ModelManager,
        encoder: JpegEncoder,
        metrics: Metrics,
        default_quality: int = 75,
        last_frame_id: int = 0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`last_frame_id`: of an earlier camera of this name; the first frame gets the one after it."""
        self.name = name
        self.counts = FrameCounts(metrics.decoded(name))
        self.jpegs = JpegCache(encoder, on_encoded=metrics.encode_seconds.labels(name).observe)
        self.tuning = Tuning(settings.predict_fps, settings.quality or default_quality, settings.quality is not None)
        self.failures = Failures(clock)
        self.abandoned = Abandoned()
        self.published = Signal()
        """Notified after every new frame, prediction and change of health."""
        self._models = models
        self._metrics = metrics
        self._clock = clock
        self._control = Control()
        self._latest: Latest[Frame] = Latest()
        self._health = HealthRecord(clock, self._health_changed)
        self.intensity = Intensity(clock)
        self._too_many_stuck = False
        self._sessions_before = 0
        """Of readers that were replaced."""
        self._fit(Fitting(settings, source, failure, isolated), last_frame_id=last_frame_id)

    def _fit(self, fitting: Fitting, *, last_frame_id: int) -> None:
        """Make the parts, in place of those that there were, which have ended."""
        settings, source = fitting.settings, fitting.source
        self.settings = settings
        self.source = source
        self.isolated = fitting.isolated
        self._freeze = FreezeDetector(self._clock, after_seconds=settings.frozen_after_seconds)
        self.shown = Shown(
            self._clock,
            stale_after_seconds=settings.stale_after_seconds,
            health=lambda: self.health,
            model_health=lambda: self.model_health,
            may_be_old=lambda: self._reader_waits,
            newest_id=lambda: self.newest_frame_id,
        )
        self.shown.forget(last_frame_id)
        self.attention = Attention(settings, recording=bool(source and source.recording), clock=self._clock)
        demand = Demand(self._clock, frozen_after_seconds=settings.frozen_after_seconds)
        self.waits = Waits(self.shown, self.published, attention=self.attention, demand=demand, control=self._control)
        self._reader: Reader | None = None
        self._predictor: Predictor | None = None
        self._last_frame_id = last_frame_id
        if self._control.paused:
            self._health.set(State.PAUSED, "paused by request")
        if not settings.enabled:
            self._health.set(State.STOPPED, "disabled in the configuration")
            return
        if source is None:
            self._fail(fitting.failure or "the camera cannot be made")
            return
        self._reader = Reader(
            source,
            settings=settings,
            control=self._control,
            latest=self._latest,
            counts=self.counts,
            attention=self.attention,
            demand=demand,
            clock=self._clock,
            on_frame=self._show,
            on_abandoned=self.abandoned.add,
            last_frame_id=last_frame_id,
            isolated=fitting.isolated,
        )
        self._predictor = Predictor(
            source,
            settings=settings,
            control=self._control,
            latest=self._latest,
            counts=self.counts,
            attention=self.attention,
            demand=demand,
            models=self._models,
            metrics=self._metrics,
            tuning=lambda: self.tuning,
            clock=self._clock,
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
        """The highest frame id given out so far, by earlier parts too; 0 before the first frame."""
        return self._reader.last_frame_id if self._reader else self._last_frame_id

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
        return max(0, self._sessions_before + (self._reader.sessions if self._reader else 0) - 1)

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

    def _wake(self, *, leaving: bool = False) -> None:
        if leaving and self.isolated is not None:
            self.isolated.leave()
        self._control.changed.notify_all()
        self._latest.interrupt()
        self.published.notify_all()

    def _health_changed(self, before: Health, after: Health) -> None:
        if before.state is not after.state:
            log.info(
                "camera_state", camera=self.name, state=after.state.value, was=before.state.value, reason=after.reason
            )
        self.published.notify_all()
