"""A real camera, opened by healthd itself, with a model that costs nothing and notes how often it was loaded."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from pydantic import Field

from healthd.cameras.capture import CaptureOptions, is_recording, open_camera
from healthd.cameras.source import CameraSource, Predict, Read
from healthd.frames import Image
from healthd.models.manager import ModelManager
from healthd.models.model import Prediction
from healthd_faulty.misdeeds import note


class CapturedOptions(CaptureOptions):
    """Where the model notes that it was loaded."""

    journal: str | None = Field(None, description="File in which it notes what it does.")


class CapturedCamera(CameraSource):
    """Not faulty at all: what is wrong with it is wrong with the camera."""

    options_model = CapturedOptions
    options: CapturedOptions

    @property
    def recording(self) -> bool:
        return self.url is not None and is_recording(self.url, self.options)

    def camera(self) -> AbstractContextManager[Read]:
        assert self.url is not None
        return open_camera(self.url, self.options)

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:
        note(self.options.journal, f"{self.name} loaded")

        def predict(image: Image) -> Prediction:
            height, width = image.shape[:2]
            return Prediction("nothing", 0.0, (), {"task": "none", "width": width, "height": height})

        yield predict
