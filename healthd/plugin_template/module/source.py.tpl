"""The camera source `{{plugin}}`.

For now it is a grey picture that grows lighter.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
from healthd.cameras.source import CameraSource, Read, SourceOptions
from healthd.frames import Image
from pydantic import Field


class {{class}}Settings(SourceOptions):
    """The settings under `[cameras.NAME.options]`."""

    step: int = Field(8, ge=1, le=255, description="How much lighter each picture is.")
    fps: float = Field(25, gt=0, le=60, description="Pictures per second.")


class {{class}}Camera(CameraSource):
    """One camera. It does nothing before it is opened."""

    contract = 1
    options_model: ClassVar[type[SourceOptions]] = {{class}}Settings
    options: {{class}}Settings

    @contextmanager
    def camera(self) -> Iterator[Read]:
        """Open the camera; yield what waits for the next image.

        Raise CameraError for what may pass (healthd tries again), SettingsError for what will not.
        """
        shade = 0

        def read() -> Image:
            nonlocal shade
            time.sleep(1 / self.options.fps)
            shade = (shade + self.options.step) % 256
            return np.full((120, 160, 3), shade, np.uint8)

        yield read  # what stands after it, in a `finally`, closes the camera
