"""Cameras for the benchmarks: a steady one, and one whose read never returns."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from healthd.cameras.source import CameraSource, Read


class Steady(CameraSource):
    """720p at 15 frames per second."""

    @contextmanager
    def camera(self) -> Iterator[Read]:
        """Open nothing; pace by the wall clock."""
        due = time.monotonic()
        shade = 0

        def read() -> np.ndarray:
            nonlocal due, shade
            due += 1 / 15
            time.sleep(max(0.0, due - time.monotonic()))
            shade = (shade + 1) % 256
            return np.full((720, 1280, 3), shade, np.uint8)

        yield read


class Hung(Steady):
    """Delivers one second of pictures, then never answers again."""

    @contextmanager
    def camera(self) -> Iterator[Read]:
        """Open nothing."""
        with super().camera() as read:
            left = 15

            def hang() -> np.ndarray:
                nonlocal left
                left -= 1
                if left < 0:
                    threading.Event().wait()
                return read()  # type: ignore[return-value]

            yield hang
