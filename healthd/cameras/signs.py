"""Pictures that say in words that there is no picture, and why: what a stream shows when a camera is not live."""

import asyncio
import textwrap
from typing import NamedTuple

import cv2
import numpy as np

from healthd.cameras.jpeg import JpegEncoder, encode_image
from healthd.frames import Image

SIGN_QUALITY = 80
SIGN_WIDTH = 640
FRESH_SECONDS = 0.9
"""A sign whose reason changes (`no image for 7.2 s`) is drawn anew no more often than this."""

MAX_SIGNS = 64
"""Signs kept; the one asked for longest ago leaves first."""


class _Sign(NamedTuple):
    reason: str | None
    made_at: float
    task: "asyncio.Task[bytes]"

    @property
    def failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


class SignCache:
    """The signs of all cameras. Event loop only.

    However many look, a sign is drawn once; again only when its reason has changed, and then at most once a second.
    """

    def __init__(self, encoder: JpegEncoder) -> None:
        self._encoder = encoder
        self._signs: dict[tuple[str, str, int], _Sign] = {}
        self.encodes = 0

    async def get(self, camera: str, title: str, reason: str | None, *, width: int | None) -> bytes:
        """Return the sign of a camera with this title; a reason that has just changed may be a second old."""
        wide = min(max(width or SIGN_WIDTH, 16), 2 * SIGN_WIDTH)
        now = asyncio.get_running_loop().time()
        key = (camera, title, wide)
        sign = self._signs.pop(key, None)
        if sign is None or sign.failed or (sign.reason != reason and now - sign.made_at >= FRESH_SECONDS):
            self.encodes += 1
            task = asyncio.create_task(
                self._encoder.run(lambda: encode_image(draw_sign(camera, title, reason, width=wide), SIGN_QUALITY))
            )
            sign = _Sign(reason, now, task)
        self._signs[key] = sign
        while len(self._signs) > MAX_SIGNS:
            del self._signs[next(iter(self._signs))]
        return await asyncio.shield(sign.task)


def draw_sign(name: str, title: str, reason: str | None, *, width: int) -> Image:
    """Return a neutral picture, 16:9: the name of the camera, in a word why it is not seen, and the reason."""
    height = max(9, width * 9 // 16)
    image = np.full((height, width, 3), 56, np.uint8)
    lines = [(name, 1.6, (235, 235, 235)), (title.upper(), 1.3, (90, 180, 255))]
    lines += [(line, 0.7, (190, 190, 190)) for line in textwrap.wrap(reason or "", 48)[:3]]
    row = height * 0.36
    for words, size, colour in lines:
        text, scale = _fitted(_plain(words), size * width / 900, width=width)
        text_width, text_height = _measured(text, scale)
        place = (max(2, (width - text_width) // 2), round(row))
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, _thickness(scale), cv2.LINE_AA)
        row += text_height * 2.0
    return image


def _fitted(text: str, scale: float, *, width: int) -> tuple[str, float]:
    """Return words that fit in: smaller, and where letters cannot get smaller any more, fewer."""
    room = max(1, width - 8)
    text_width, _ = _measured(text, scale)
    if text_width > room:
        scale *= room / text_width
    while text and _measured(text, scale)[0] > room:
        text = text[:-1]
    return text, scale


def _measured(text: str, scale: float) -> tuple[int, int]:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, _thickness(scale))
    return width, height


def _thickness(scale: float) -> int:
    return max(1, round(2 * scale))


def _plain(text: str) -> str:
    """OpenCV's letters are ASCII."""
    return text.encode("ascii", "replace").decode()
