"""The plugin contract: a camera source, on one page.

A plugin names a `CameraSource` class under the entry-point group `healthd.camera_sources`; the entry point's name is
the name used in the configuration. The smallest useful plugin is one class with one method:

    class Steps(CameraSource):
        contract = 1

        @contextmanager
        def camera(self):
            with open_the_thing() as thing:
                yield thing.next_image
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from healthd.frames import CapturedImage, Image, JpegImage
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Prediction
from healthd.redact import SourceUrl

Delivered: TypeAlias = Image | JpegImage | CapturedImage
"""Pixels, or a JPEG as the camera encoded it (served as it is, decoded only if somebody needs its pixels), or either
with what the camera knows of it."""

Read: TypeAlias = Callable[[], Delivered | None]
"""Waits for the next image. None: one came, but it is too old to be shown (counted as dropped, reason `backlog`)."""


class TwoStepRead(ABC):
    """A read in two steps, for a camera where waiting for an image is cheap and making its pixels is not.

    A source may yield one in place of a plain callable; a frame that nobody wants is then grabbed and never retrieved.
    """

    @abstractmethod
    def grab(self) -> bool:
        """Wait for the next image. False: it is too old to be shown (counted as dropped, reason `backlog`)."""

    @abstractmethod
    def retrieve(self) -> Delivered:
        """Return the image that was grabbed; called once at most, before the next grab."""

    def __call__(self) -> Delivered | None:
        """Read in one step, as any other."""
        return self.retrieve() if self.grab() else None


Predict: TypeAlias = Callable[[Image], Prediction]


class SourceOptions(BaseModel):
    """The settings under `[cameras.NAME.options]`. A plugin subclasses this; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PredictOptions(SourceOptions):
    """The thresholds of a camera with a model; they can be changed while it runs."""

    confidence: float = Field(0.25, ge=0, le=1, description="Detections below this confidence are left out.")
    iou: float = Field(0.45, ge=0, le=1, description="Overlap above which non-maximum suppression drops a detection.")
    max_det: int = Field(300, ge=1, le=1000, description="At most so many detections per frame.")
    classes: tuple[str, ...] | None = Field(None, description="Names of the classes to keep; all when absent.")

    def params(self) -> InferenceParams:
        """Return the thresholds as the object that goes to the model."""
        return InferenceParams(confidence=self.confidence, iou=self.iou, max_det=self.max_det, classes=self.classes)


class CameraSource(ABC):
    """One camera and, optionally, the model that watches it.

    Both methods are context managers that yield a *blocking* callable. healthd enters each on a thread of its own,
    calls it only from there and leaves it there: a plugin needs no asyncio, no lock and no retry loop.

    Errors: `CameraError` and `ModelError` may pass (tried again with backoff); `SettingsError` will not pass (the
    camera is `failed`, the others go on); anything else is a bug, logged with its traceback and tried again.

    A source is made from its camera's name and settings alone and does nothing in its constructor, so it can be built
    again, in another process too. It lives as long as its camera is configured; sessions come and go.
    """

    contract: ClassVar[int]
    """The version of this contract that the plugin was written for, in so many words: `contract = 1`."""
    options_model: ClassVar[type[SourceOptions]] = SourceOptions

    def __init__(self, name: str, *, url: SourceUrl | None = None, options: SourceOptions | None = None) -> None:
        self.name = name
        self.url = url
        self.options = options if options is not None else self.options_model()
        self.params: InferenceParams | None = (
            self.options.params() if isinstance(self.options, PredictOptions) else None
        )
        """Thresholds for the next prediction; replaced as a whole when somebody changes them. None: there are none."""
        self.open_timeout_seconds = 10.0
        """How long opening may take; from the camera's settings. Give up a little earlier, and say why."""
        self.stall_timeout_seconds = 5.0
        """How long one read may take; from the camera's settings."""

    @property
    def recording(self) -> bool:
        """False: live, the newest frame wins. True: every frame, in order, paced by the predictor, then `ended`."""
        return False

    @property
    def model_id(self) -> str | None:
        """Name of the model that watches the camera, for people; None without one."""
        return None

    @abstractmethod
    def camera(self) -> AbstractContextManager[Read]:
        """Open the camera; the callable returns the next image, raises EndOfStream or CameraError.

        The image returned belongs to healthd: it becomes read-only and the plugin must not write to it again.
        """

    def model(self, models: ModelManager) -> AbstractContextManager[Predict] | None:  # noqa: ARG002  part of the contract
        """Load or share the model (default: None, a camera nobody analyses)."""
        return None
