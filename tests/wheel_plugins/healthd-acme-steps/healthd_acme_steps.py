"""A camera whose grey grows lighter step by step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from pydantic import Field

from healthd.cameras.source import CameraSource, Read, SourceOptions
from healthd.frames import Image


class StepsOptions(SourceOptions):
    step: int = Field(8, ge=1, le=255, description="How much lighter each picture is.")


class Steps(CameraSource):
    contract = 1
    options_model = StepsOptions
    options: StepsOptions

    @contextmanager
    def camera(self) -> Iterator[Read]:
        shade = 0

        def read() -> Image:
            nonlocal shade
            time.sleep(0.1)
            shade = (shade + self.options.step) % 256
            return np.full((120, 160, 3), shade, np.uint8)

        yield read
