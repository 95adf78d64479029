"""Facts about one camera, as its runner tells them to others."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from healthd.cameras.health import Health
from healthd.cameras.jpeg import Variant
from healthd.errors import HealthdError
from healthd.frames import Frame
from healthd.models.model import Prediction

ModelState: TypeAlias = Literal["none", "loading", "ready", "stalled", "retrying", "failed"]


class NotLive(HealthdError):  # noqa: N818  a state, not a mistake
    """There is no picture that could honestly be shown; carries the health that says why."""

    def __init__(self, health: Health) -> None:
        super().__init__(f"camera is {health.state}: {health.reason}" if health.reason else f"camera is {health.state}")
        self.health = health


@dataclass(frozen=True, slots=True)
class PredictedFrame:
    """A frame with what the model said of it."""

    frame: Frame
    prediction: Prediction
    predicted_at: datetime


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """The predictor's side of a camera."""

    model_id: str | None
    state: ModelState
    """`stalled`: it did not answer in time, and has not predicted since; `retrying`: it failed in another way."""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """What can be changed while the camera runs, the thresholds of its model aside."""

    predict_fps: float | None
    """Predictions per second at most; None: as many as the model can."""
    quality: int
    """JPEG quality of a snapshot that asks for none, 1 to 95."""
    quality_chosen: bool = True
    """False: it is only the default, so that the JPEGs of a camera that sends JPEGs are shown as they came."""

    def variant(self, frame: Frame, *, quality: int | None, width: int | None, overlay: bool) -> Variant:
        """Return how to show a frame to one who asks for this; None: it is all the same to him."""
        own_is_fine = quality is None and not self.quality_chosen
        return Variant(quality or self.quality, width, overlay).fitting(frame, or_own=own_is_fine)


@dataclass(frozen=True, slots=True)
class LoggedError:
    """One failure, for people."""

    at: datetime
    task: str
    reason: str
