"""A video in a process of its own: what somebody sent in may crash a decoder, not the daemon."""

import contextlib
import math
import os
from pathlib import Path
from typing import TypeVar

from healthd.channel import ChildBug
from healthd.children import NURSERY, Child, ChildEnded, ChildTimeout, Nursery, StartFailed
from healthd.errors import HealthdError
from healthd.frames import Image
from healthd.jobs.errors import MediaError
from healthd.jobs.video import Video
from healthd.jobs.video_child import Grab, Grabbed, Open, Opened, Request, Retrieve, Retrieved
from healthd.shared_images import SharedImages

T = TypeVar("T")
ENTRY = "healthd.jobs.video_child:main"
FRAME_SECONDS = 60.0
"""A frame that takes longer ends its video, and the process."""
CLOSE_SECONDS = 0.5


class IsolatedVideo(Video):
    """A video that is decoded in a child."""

    def __init__(self, path: Path, *, threads: int, nursery: Nursery = NURSERY) -> None:
        """Start the child and open the video there.

        Raises:
            MediaError: it cannot be opened, or no process could be had; the message says why.
        """
        self._frame = 0
        with contextlib.ExitStack() as held:
            try:
                self._images = SharedImages()
                held.callback(self._images.close)
                self._child = Child.start(ENTRY, name="video", descriptors=[self._images.descriptor], nursery=nursery)
            except (OSError, StartFailed) as exc:
                raise MediaError(f"no process to decode it could be had: {exc}") from None
            held.callback(self._child.stop, grace_seconds=CLOSE_SECONDS)
            opened = self._call(Open(os.fsencode(path.absolute()), threads), Opened)
            if opened.facts is None:
                raise MediaError(opened.reason)
            self.facts = opened.facts
            _check_numbers(*opened.facts)
            held.pop_all()

    def grab(self) -> float | None:
        """Have the next frame decoded."""
        position_ms = self._call(Grab(), Grabbed).position_ms
        self._frame += 1
        _check_numbers(position_ms or 0.0)
        return position_ms

    def retrieve(self) -> Image | None:
        """Have the frame written where it can be seen."""
        size = max(1, int(self.facts.width) * int(self.facts.height) * 3)
        while True:
            try:
                slot = self._images.room(size)
            except HealthdError as exc:
                raise MediaError(str(exc)) from None
            shape = self._call(Retrieve((slot.place.offset, slot.place.size)), Retrieved).shape
            if shape is None:
                self._images.free(slot)
                return None
            height, width = shape
            if height * width * 3 <= slot.place.size:
                return self._images.lease(slot, height, width)
            self._images.free(slot)
            size = height * width * 3  # larger than its header promised

    def close(self) -> None:
        """End the process."""
        self._child.stop(grace_seconds=CLOSE_SECONDS)
        self._images.close()

    def _call(self, request: Request, reply: type[T]) -> T:
        try:
            return self._child.call(request, reply=reply, timeout=FRAME_SECONDS)
        except ChildTimeout:
            self._child.stop(grace_seconds=0)
            raise MediaError(f"frame {self._frame} of the video was not decoded within {FRAME_SECONDS:g} s") from None
        except ChildEnded as exc:
            raise MediaError(f"the process that decodes the video {exc.ending}, at frame {self._frame}") from None
        except (HealthdError, ChildBug) as exc:
            raise MediaError(f"frame {self._frame} of the video cannot be decoded: {exc}") from None


def _check_numbers(*numbers: float) -> None:
    if not all(map(math.isfinite, numbers)):
        raise MediaError("the process that decodes the video said what cannot be: a number that is none")
