"""What may honestly be shown of one camera: the newest frame, the newest predicted one, or neither."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from healthd.cameras.attention import WATCHED_INTERVAL_SECONDS
from healthd.cameras.health import Health, State
from healthd.cameras.jpeg import Picture
from healthd.cameras.records import ModelHealth, NotLive, PredictedFrame
from healthd.clock import Clock
from healthd.frames import Frame


class Dated(Protocol):
    """A frame, or what is left of one whose image nobody needs any more."""

    @property
    def frame_id(self) -> int: ...  # noqa: D102  as that of a frame

    @property
    def captured_monotonic(self) -> float: ...  # noqa: D102  as that of a frame


class Shown:
    """The newest frames of one camera, forgotten when it is lost. Event loop only; lives as long as its runner."""

    def __init__(
        self,
        clock: Clock,
        *,
        stale_after_seconds: float,
        health: Callable[[], Health],
        model_health: Callable[[], ModelHealth],
        may_be_old: Callable[[], bool],
        newest_id: Callable[[], int],
    ) -> None:
        self.frame: Frame | None = None
        self.predicted: PredictedFrame | None = None
        self._clock = clock
        self._stale_after = stale_after_seconds
        self._recent = min(stale_after_seconds, 1.5 * WATCHED_INTERVAL_SECONDS)
        self._health = health
        self._model_health = model_health
        self._may_be_old = may_be_old
        self._newest_id = newest_id
        self._forgotten_id = 0
        """Frames up to this id belong to a camera that was lost or left since; they are never shown again."""

    def show_predicted(self, predicted: PredictedFrame) -> bool:
        """Take a new prediction; False when its frame belongs to a camera that was lost meanwhile."""
        if self.frame is None or predicted.frame.frame_id <= self._forgotten_id:
            return False
        self.predicted = predicted
        return True

    @property
    def health(self) -> Health:
        """How the camera is doing."""
        return self._health()

    @property
    def has_newest(self) -> bool:
        """Whether the frame is the newest that came: pixels that nobody wanted were never made."""
        return self.frame is not None and self.frame.frame_id == self._newest_id()

    @property
    def may_be_predicted(self) -> bool:
        """Whether the camera is live and its model works."""
        return self.health.state is State.LIVE and self._model_health().state == "ready"

    @property
    def may_be_predicted_anew(self) -> bool:
        """Whether the newest predicted frame is older than it is while somebody looks, and the model could look."""
        if self._model_health().state != "ready":
            return False
        return self.predicted is None or self.age_seconds(self.predicted.frame) > self._recent

    def forget(self, newest_id: int) -> None:
        """The camera is lost or left: nothing it showed, up to `newest_id`, may be shown any more."""
        self.frame = self.predicted = None
        self._forgotten_id = newest_id

    def age_seconds(self, frame: Dated) -> float:
        """Age of a frame in seconds."""
        return self._clock.monotonic() - frame.captured_monotonic

    def picture(self, *, overlay: bool) -> Picture:
        """Return the newest frame of a live camera, or the newest predicted one with its prediction.

        Raises:
            NotLive: the camera is not live, or the newest prediction is missing or too old.
        """
        if overlay:
            predicted = self.newest_predicted()
            return Picture(predicted.frame, predicted.prediction)
        health = self.health
        if health.state is not State.LIVE or self.frame is None:
            raise NotLive(health)
        if not self.has_newest:
            raise NotLive(replace(health, reason="nobody has looked for a while, and no new image has come since"))
        return Picture(self.frame)

    def newest_predicted(self) -> PredictedFrame:
        """Return the newest predicted frame of a live camera.

        Raises:
            NotLive: the camera is not live, or the newest prediction is missing or too old.
        """
        health, predicted, model = self.health, self.predicted, self._model_health()
        if health.state is not State.LIVE:
            raise NotLive(health)
        if predicted is None:
            reason = (
                "no model watches it" if model.state == "none" else f"no prediction yet, the model is {model.state}"
            )
        elif self._is_old(predicted.frame):
            age = self.age_seconds(predicted.frame)
            reason = f"the newest predicted frame is {age:.1f} s old, the model is {model.state}"
        else:
            return predicted
        raise NotLive(replace(health, reason=f"{reason}: {model.reason}" if model.reason else reason))

    def confirm(self, frame: Dated) -> None:
        """See that a frame which took a while to encode may still be shown.

        Raises:
            NotLive: the camera was lost, paused or stopped meanwhile, or the frame has grown too old.
        """
        health = self.health
        if health.state is not State.LIVE:
            raise NotLive(health)
        if frame.frame_id <= self._forgotten_id:
            raise NotLive(replace(health, reason="the camera was lost and found while its picture was encoded"))
        if self._is_old(frame):
            age = self.age_seconds(frame)
            raise NotLive(replace(health, reason=f"the picture is {age:.1f} s old: it took too long to encode"))

    def _is_old(self, frame: Dated) -> bool:
        """Whether a frame is too old; not those that a recording stands at, in line, in prediction and predicted."""
        stands_there = self._may_be_old() and frame.frame_id >= self._newest_id() - 2
        return self.age_seconds(frame) > self._stale_after and not stands_there
