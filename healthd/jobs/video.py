"""A video, frame by frame: opened by OpenCV and FFmpeg, here or in a process of its own."""

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from healthd.frames import Image
from healthd.jobs.errors import MediaError
from healthd.utf8 import is_utf8


class VideoFacts(NamedTuple):
    """What the header of a video says. What it does not say is 0."""

    width: float
    """In pixels."""
    height: float
    frames: float
    fps: float


class Video(ABC):
    """An open video; one thread at a time."""

    facts: VideoFacts

    @abstractmethod
    def grab(self) -> float | None:
        """Decode the next frame; return its time in ms from the beginning, 0.0 where none is known; None at the end.

        Raises:
            MediaError: it cannot be read any further.
        """

    @abstractmethod
    def retrieve(self) -> Image | None:
        """Return the frame that was grabbed, read-only; None where its pixels cannot be made. Raises as `grab`."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


class OpenCvVideo(Video):
    """A video that is decoded in this process."""

    def __init__(self, path: Path, *, threads: int) -> None:
        """Open it with so many decoder threads; raises MediaError where that fails."""
        if not is_utf8(str(path)):
            raise MediaError("the name of the video is not UTF-8: rename the file")
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
        if not self._capture.isOpened():
            raise MediaError("the video cannot be opened: it is broken, cut off, or in a format that is not known here")
        said = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)
        self.facts = VideoFacts(*(_finite(self._capture.get(number)) for number in said))

    def grab(self) -> float | None:
        """Decode the next frame."""
        return _finite(self._capture.get(cv2.CAP_PROP_POS_MSEC)) if self._capture.grab() else None

    def retrieve(self) -> Image | None:
        """Return the frame that was grabbed."""
        decoded, image = self._capture.retrieve()
        if not decoded or image is None or image.dtype != np.uint8 or image.ndim != 3:
            return None
        owned: Image = np.array(image, dtype=np.uint8, order="C")
        owned.flags.writeable = False
        return owned

    def close(self) -> None:
        """Let go of the file."""
        self._capture.release()


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0
