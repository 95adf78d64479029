"""The predictor: from loading a model to leaving it. Straight lines that never catch; the runner does."""

import math
from collections.abc import Callable

import structlog

from healthd.cameras.accounting import Drop, FrameCounts
from healthd.cameras.attention import Attention
from healthd.cameras.control import Control
from healthd.cameras.demand import Demand
from healthd.cameras.health import RateWindow
from healthd.cameras.isolated_jpegs import PIXELS_SECONDS
from healthd.cameras.reader import CLOSE_SECONDS
from healthd.cameras.records import ModelHealth, ModelState, PredictedFrame, Tuning
from healthd.cameras.source import CameraSource, Predict
from healthd.clock import Clock
from healthd.errors import BrokenPicture, StalledError, WornOutError
from healthd.frames import Frame
from healthd.latest import Latest
from healthd.metrics import Metrics
from healthd.models.envelope import checked
from healthd.models.manager import ModelManager
from healthd.models.model import Prediction
from healthd.models.turns import GRACE_SECONDS, captured, patience
from healthd.redact import SCRUBBER
from healthd.settings import CameraSettings
from healthd.waiting import Backoff
from healthd.worker import EnterTimeout, Worker, WorkerTimeout, entered

log = structlog.get_logger(__name__)
STAYING: frozenset[ModelState] = frozenset({"retrying", "stalled", "failed"})
"""What is true until a prediction shows the contrary, also while the model is loaded anew."""


class Predictor:
    """Predicts on the newest frame of one camera. Event loop only; lives as long as its runner."""

    def __init__(  # noqa: PLR0913  it stands between the frames, the model and everybody who wants predictions
        self,
        source: CameraSource,
        *,
        settings: CameraSettings,
        control: Control,
        latest: Latest[Frame],
        counts: FrameCounts,
        attention: Attention,
        demand: Demand,
        models: ModelManager,
        metrics: Metrics,
        tuning: Callable[[], Tuning],
        clock: Clock,
        on_predicted: Callable[[PredictedFrame], None],
        on_abandoned: Callable[[Worker], None],
    ) -> None:
        self.health = ModelHealth(source.model_id, "loading")
        self.backoff = Backoff(longest_seconds=settings.reconnect_max_seconds)
        self.rate = RateWindow(clock)
        self.good_since: float | None = None
        """When this session, which has predicted, had its model, in seconds of the monotonic clock; None: not yet."""
        self._opened_at = -math.inf
        self._source = source
        self._settings = settings
        self._control = control
        self._latest = latest
        self._counts = counts
        self._attention = attention
        self._demand = demand
        self._models = models.patient(settings.predict_timeout_seconds)
        self._tuning = tuning
        self._clock = clock
        self._on_predicted = on_predicted
        self._on_abandoned = on_abandoned
        self._seconds = metrics.predict_seconds.labels(source.name)
        self._broken = False
        """The newest picture that came to its turn could not be decoded: that is logged once in a row."""
        self._start_age_seconds = metrics.predict_start_age_seconds.labels(source.name)

    def adapt(self, settings: CameraSettings) -> None:
        """Take settings that do not need a new session."""
        self._settings = settings
        self.backoff.longest_seconds = settings.reconnect_max_seconds

    def set_health(self, state: ModelState, reason: str | None = None) -> None:
        """Say how the model is doing."""
        if (self.health.state, self.health.reason) != (state, reason):
            self.health = ModelHealth(self._source.model_id, state, SCRUBBER.scrub(reason) if reason else None)

    def note_failure(self, exc: Exception, reason: str) -> None:
        """Say that a session has failed, and will be tried again."""
        if isinstance(exc, WornOutError):
            self.set_health("failed", reason)
        elif isinstance(exc, StalledError) or (isinstance(exc, WorkerTimeout) and not isinstance(exc, EnterTimeout)):
            self.set_health("stalled", reason)
        else:
            self.set_health("retrying", reason)

    async def session(self) -> None:
        """Predict from loading the model to leaving it on order. Losing the camera does not leave it."""
        generation, self.good_since = self._control.generation, None
        if self.health.state not in STAYING:
            self.set_health("loading")
        async with entered(
            f"{self._source.name}-predictor",
            lambda: self._source.model(self._models),
            enter_timeout=self._models.load_timeout_seconds,
            enter_grace=GRACE_SECONDS,
            exit_timeout=CLOSE_SECONDS,
            on_abandoned=self._on_abandoned,
            late="the model was not loaded",
            patient=True,
        ) as (worker, predict):
            if predict is None:
                self.set_health("none")
                await self._drop_all(generation)
                return
            if not callable(predict):
                raise TypeError(f"the plugin's model() yielded {type(predict).__name__}, not something to call")
            if self.health.state == "loading":
                self.set_health("ready")
            self._opened_at = self._clock.monotonic()
            self._attention.begin()
            try:
                await self._keep_predicting(worker, predict, generation)
            finally:
                self._demand.predict_from = math.inf

    async def _keep_predicting(self, worker: Worker, predict: Predict, generation: int) -> None:
        due = self._clock.monotonic()
        while self._control.staying("predictor", generation):
            self._demand.predict_from = due
            await self._wait_until(due - self._early())
            if not self._control.staying("predictor", generation):
                return  # the order came while it waited: nobody will wake it a second time
            self._demand.predict_from = -math.inf
            frame = await self._latest.take()
            if frame is not None and not self._attention.wants(frame):
                self._counts.drop(Drop.STILL)
            elif frame is not None:
                self._demand.predict_from = due = self._next_due(due)
                await self._predict(worker, predict, frame)

    async def _predict(self, worker: Worker, predict: Predict, frame: Frame) -> None:
        begun = self._clock.monotonic()
        self._start_age_seconds.observe(begun - frame.captured_monotonic)
        prediction: Prediction | None = None
        lost_as = Drop.FAILED
        captured.set(frame.captured_monotonic)  # the worker takes it along; the task predicts one frame at a time
        patience.set(self._settings.predict_timeout_seconds)
        try:
            if frame.waits:  # its camera may hang: that is not the model's fault
                await worker.call(lambda: frame.image, timeout=PIXELS_SECONDS, late="no pixels", grace=GRACE_SECONDS)
            prediction = await worker.call(
                lambda: checked(predict(frame.image), "the plugin's model()"),
                timeout=self._settings.predict_timeout_seconds,
                late="predictor stalled: no prediction",
                grace=GRACE_SECONDS,
            )
        except BrokenPicture as exc:
            lost_as = Drop.INVALID
            if not self._broken:
                log.warning("picture_broken", frame_id=frame.frame_id, reason=str(exc))
            self._broken = True
            return
        finally:
            if prediction is None:
                self._counts.drop(lost_as)
        self._broken = False
        self.good_since = self._opened_at
        self._counts.predict()
        seconds = self._clock.monotonic() - begun
        self._counts.predict_seconds += seconds
        self._seconds.observe(seconds)
        self.rate.add()
        self.backoff.reset()
        self.set_health("ready")
        self._attention.predicted(frame, prediction)
        self._on_predicted(PredictedFrame(frame, prediction, self._clock.now()))

    async def _wait_until(self, due: float) -> None:
        """Wait until the next prediction is due; a change of `predict_fps` counts at once."""
        while (limit := self._tuning().predict_fps) is not None and self._control.active:
            now = self._clock.monotonic()
            wait = min(due, now + 1.0 / limit) - now
            if wait <= 0 or not await self._control.changed.wait(wait):
                return

    def _early(self) -> float:
        """Say how long before its time a prediction may begin: the frame nearest to it does not wait for it."""
        limit = self._tuning().predict_fps
        return 0.0 if limit is None else min(self._demand.interval, 1.0 / limit) / 2

    def _next_due(self, due: float) -> float:
        """Say when the prediction after this one is due.

        A little lateness is caught up, so that the rate asked for is the rate given; a long pause is not.
        """
        now, limit = self._clock.monotonic(), self._tuning().predict_fps
        return now if limit is None else max(due, now - 0.5 / limit) + 1.0 / limit

    async def _drop_all(self, generation: int) -> None:
        """Nobody analyses this camera: its frames are for viewers only."""
        while self._control.staying("predictor", generation):
            if await self._latest.take() is not None:
                self._counts.drop(Drop.NO_MODEL)
