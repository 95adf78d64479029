"""Decodes pictures off the event loop, on a few threads that everybody shares, and no more than memory is for."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from healthd.cpus import thread_budget
from healthd.crew import Crew
from healthd.errors import BusyError
from healthd.frames import Image
from healthd.pictures import decode_picture
from healthd.waiting import Signal

T = TypeVar("T")
MOST_THREADS = 4
HELD_PICTURES = 2
"""While decoded pictures with so many times `inference.max_pixels` wait for their models, no further one is decoded."""


class PictureDecoder:
    """Lives as long as the daemon; event loop only."""

    def __init__(self, *, max_pixels: int, observe: Callable[[float], object]) -> None:
        """Take the limit on pixels, and whoever wants to know the seconds of each picture."""
        self.max_pixels = max_pixels
        self._observe = observe
        self._threads = min(MOST_THREADS, thread_budget())
        self._crew = Crew("picture", threads=self._threads)
        self._decoding = 0
        self._held = 0
        """Pixels of the pictures that somebody holds."""
        self._freed = Signal()

    @asynccontextmanager
    async def decoded(
        self, data: bytes | bytearray, *, before: Callable[[], asyncio.Timeout] = lambda: asyncio.timeout(None)
    ) -> AsyncIterator[Image]:
        """Decode a picture, and count its memory for as long as the block lasts; waits until there is room for it.

        Raises:
            BusyError: there was no room for it in time.
            PictureTooLarge, PictureError: as `decode_picture` does.
        """
        try:
            async with before():
                while not self._has_room():
                    await self._freed.wait()
        except TimeoutError:
            raise BusyError("no room for another picture: too many large ones wait for their models") from None
        self._decoding += 1
        pixels = 0
        try:
            try:
                image, seconds = await self._crew.run(lambda: _timed(data, self.max_pixels))
                pixels = image.shape[0] * image.shape[1]
                self._held += pixels
            finally:
                self._decoding -= 1
                self._freed.notify_all()
            self._observe(seconds)
            yield image
        finally:
            self._held -= pixels
            self._freed.notify_all()

    def _has_room(self) -> bool:
        return self._decoding < self._threads and self._held < HELD_PICTURES * self.max_pixels

    async def run(self, function: Callable[[], T]) -> T:
        """Return what `function` returns: something else to do with a picture, as short."""
        return await self._crew.run(function)


def _timed(data: bytes | bytearray, max_pixels: int) -> tuple[Image, float]:
    begun = time.perf_counter()
    image = decode_picture(data, max_pixels=max_pixels)
    return image, time.perf_counter() - begun
