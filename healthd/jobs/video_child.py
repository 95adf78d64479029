"""The process of one video: decodes it, and writes the frames that are asked for where it is told to."""

import os
from contextlib import closing
from pathlib import Path
from typing import Annotated, TypeAlias

import cv2
import msgspec

from healthd.child_side import Parent
from healthd.frames import Image
from healthd.jobs.errors import MediaError
from healthd.jobs.video import OpenCvVideo, Video, VideoFacts
from healthd.shared_images import Place, SharedMemory


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Open a video; answered by `Opened`."""

    path: bytes
    threads: int


class Opened(msgspec.Struct, frozen=True):
    """What its header says; None: why it cannot be opened stands in `reason`."""

    facts: VideoFacts | None = None
    reason: str = ""


class Grab(msgspec.Struct, frozen=True, tag="grab"):
    """Decode the next frame; answered by `Grabbed`."""


class Grabbed(msgspec.Struct, frozen=True):
    """Its time; None: the video has ended."""

    position_ms: float | None


class Retrieve(msgspec.Struct, frozen=True, tag="retrieve"):
    """Write the pixels of that frame; answered by `Retrieved`.

    What does not fit is not written: to be asked again, with more room, before the next `Grab`.
    """

    place: tuple[int, int]
    """Offset and size of where they are to be written."""


Side: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


class Retrieved(msgspec.Struct, frozen=True):
    """Height and width; None: the pixels cannot be made."""

    shape: tuple[Side, Side] | None


Request: TypeAlias = Open | Grab | Retrieve
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)


def main(parent: Parent) -> None:
    """Serve one video; the entry of its process."""
    cv2.setNumThreads(1)
    with closing(_Server(SharedMemory(parent.descriptors[0]))) as server:
        parent.serve(lambda request: server.answer(_requests.decode(request)))


class _Server:
    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._video: Video | None = None
        self._image: Image | None = None

    def answer(self, request: Request) -> Opened | Grabbed | Retrieved:
        if isinstance(request, Open):
            try:
                self._video = OpenCvVideo(Path(os.fsdecode(request.path)), threads=request.threads)
            except MediaError as exc:
                return Opened(reason=str(exc))
            return Opened(self._video.facts)
        if self._video is None:
            raise ValueError("no video is open")
        if isinstance(request, Grab):
            self._image = None
            return Grabbed(self._video.grab())
        if self._image is None:
            self._image = self._video.retrieve()
        if self._image is None:
            return Retrieved(None)
        place = Place(*request.place)
        if self._image.nbytes <= place.size:
            self._memory.write(place, self._image)
        height, width, _ = self._image.shape
        return Retrieved((height, width))

    def close(self) -> None:
        if self._video is not None:
            self._video.close()
