"""Cameras for the benchmarks: a steady one, a room, a film, and one whose read never returns."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import cv2
import numpy as np

from healthd.cameras.capture import CaptureOptions, open_camera
from healthd.cameras.source import CameraSource, Read


class Steady(CameraSource):
    """720p at 15 frames per second."""

    contract = 1

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


def room_picture(number: int) -> np.ndarray:
    """A 720p picture with as much detail as a room has: soft shapes and a little noise."""
    rng = np.random.default_rng(number)
    soft = cv2.resize(rng.integers(0, 255, (18, 32, 3), np.uint8), (1280, 720), interpolation=cv2.INTER_CUBIC)
    return cv2.add(soft, rng.integers(0, 6, soft.shape, np.uint8))


class Room(Steady):
    """The same rate, with pictures that are worth encoding."""

    @contextmanager
    def camera(self) -> Iterator[Read]:
        """Open nothing."""
        pictures = [room_picture(number) for number in range(8)]
        number = 0
        with super().camera() as read:

            def show() -> np.ndarray:
                nonlocal number
                number += 1
                read()
                return pictures[number % len(pictures)].copy()

            yield show


class Film(CameraSource):
    """A file played as a camera, watched by no model."""

    contract = 1
    options_model = CaptureOptions
    options: CaptureOptions

    def camera(self) -> AbstractContextManager[Read]:
        """Open the file."""
        assert self.url is not None
        return open_camera(self.url, self.options)


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
