"""The camera sources `yolo-pose` and `yolo-detect`: any camera that OpenCV opens, watched by a YOLO network."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from healthd.cameras.capture import is_recording, open_camera
from healthd.cameras.source import CameraSource, Predict, Read, SourceOptions
from healthd.errors import SettingsError
from healthd.frames import Image
from healthd.models.manager import ModelManager
from healthd.models.model import Prediction
from healthd.redact import SourceUrl
from healthd_yolo.labels import class_ids
from healthd_yolo.options import YoloOptions


class YoloSource(CameraSource):
    """A camera and the YOLO model that watches it. Lives as long as its camera is configured."""

    contract = 1
    options_model: ClassVar[type[SourceOptions]] = YoloOptions
    options: YoloOptions
    task: ClassVar[str]
    """The task that the model must have."""

    @property
    def recording(self) -> bool:
        """Whether the URL names a file that is read at the predictor's pace."""
        return self.url is not None and is_recording(self.url, self.options)

    @property
    def model_id(self) -> str:
        """The model as the configuration names it."""
        return self.options.model

    def camera(self) -> AbstractContextManager[Read]:
        """Open the camera; the callable returns the next image, raises EndOfStream or CameraError."""
        return open_camera(
            self._required_url(),
            self.options,
            open_timeout_seconds=self.open_timeout_seconds,
            read_timeout_seconds=self.options.read_timeout_seconds or self.stall_timeout_seconds,
        )

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:
        """Load or share the model.

        Raises:
            SettingsError: the model cannot be loaded, has another task, or lacks a class named in `classes`.
            ModelError: it cannot be loaded now.
        """
        with models.use("yolo", self.options.model, self.options.model_options()) as shared:
            if shared.task != self.task:
                raise SettingsError(
                    f"{self.options.model} is a `{shared.task}` model and plugin yolo-{self.task} needs a"
                    f" `{self.task}` model: change the model, or use plugin `yolo-{shared.task}`"
                )
            class_ids(shared.labels, self.options.classes)

            def predict(image: Image) -> Prediction:
                return shared.predict(image, self.params or self.options.params())

            yield predict

    def _required_url(self) -> SourceUrl:
        if self.url is None:
            raise SettingsError("url: a yolo camera needs one, e.g. `rtsp://camera.lan/stream1` or a video file")
        return self.url


class YoloPose(YoloSource):
    """People and their keypoints."""

    task = "pose"


class YoloDetect(YoloSource):
    """Objects in boxes."""

    task = "detect"
