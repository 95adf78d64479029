"""Decodes pictures off the event loop, on a few threads that everybody shares."""

import time
from collections.abc import Callable
from typing import TypeVar

from healthd.cpus import usable_cpus
from healthd.crew import Crew
from healthd.frames import Image
from healthd.pictures import decode_picture

T = TypeVar("T")
MOST_THREADS = 4


class PictureDecoder:
    """Lives as long as the daemon; event loop only."""

    def __init__(self, *, max_pixels: int, observe: Callable[[float], object]) -> None:
        """Take the limit on pixels, and whoever wants to know the seconds of each picture."""
        self._max_pixels = max_pixels
        self._observe = observe
        self._crew = Crew("picture", threads=min(MOST_THREADS, usable_cpus()))

    async def decode(self, data: bytes | bytearray) -> Image:
        """Decode a picture.

        Raises:
            PictureTooLarge, PictureError: as `decode_picture` does.
        """
        image, seconds = await self._crew.run(lambda: _timed(data, self._max_pixels))
        self._observe(seconds)
        return image

    async def run(self, function: Callable[[], T]) -> T:
        """Return what `function` returns: something else to do with a picture, as short."""
        return await self._crew.run(function)


def _timed(data: bytes | bytearray, max_pixels: int) -> tuple[Image, float]:
    begun = time.perf_counter()
    image = decode_picture(data, max_pixels=max_pixels)
    return image, time.perf_counter() - begun
