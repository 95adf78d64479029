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
    """How long an open may take, and where the model notes that it was loaded."""

    open_seconds: float = Field(10, gt=0, description="How long opening may take.")
    journal: str | None = Field(None, description="File in which it notes what it does.")


class CapturedCamera(CameraSource):
    """Not faulty at all: what is wrong with it is wrong with the camera."""

    contract = 1
    options_model = CapturedOptions
    options: CapturedOptions

    @property
    def recording(self) -> bool:
        return self.url is not None and is_recording(self.url, self.options)

    def camera(self) -> AbstractContextManager[Read]:
        assert self.url is not None
        return open_camera(self.url, self.options, open_timeout_seconds=self.options.open_seconds)

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:
        note(self.options.journal, f"{self.name} loaded")

        def predict(image: Image) -> Prediction:
            height, width = image.shape[:2]
            return Prediction("nothing", 0.0, (), {"task": "none", "width": width, "height": height})

        yield predict
