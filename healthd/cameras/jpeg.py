"""JPEGs of the newest frame: encoded once per variant however many ask, and never before somebody asks."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2

from healthd.cameras.draw import draw_prediction, no_signal_image
from healthd.errors import CameraError
from healthd.frames import Frame, Image
from healthd.models.model import Prediction

NO_SIGNAL_QUALITY = 80
NO_SIGNAL_WIDTH = 640
SIGN_SECONDS = 0.9
VARIANT_KINDS = ("plain", "sized", "overlay", "sized_overlay")
MAX_VARIANTS = 16
"""Variants kept per frame; the one encoded longest ago leaves first."""


class Variant(NamedTuple):
    """How a frame is shown."""

    quality: int
    """JPEG quality, 1 to 95."""
    width: int | None = None
    """Pixels; None, or more than the frame has: as it is. The height follows."""
    overlay: bool = False
    """With the prediction of that very frame drawn on it."""

    @property
    def kind(self) -> str:
        """One of `VARIANT_KINDS`: bounded, fit to be a metric's label."""
        return ("sized_overlay" if self.width else "overlay") if self.overlay else "sized" if self.width else "plain"

    def __str__(self) -> str:
        return f"q{self.quality}w{self.width or 0}{'o' if self.overlay else ''}"


class Picture(NamedTuple):
    """A frame to be encoded, with its prediction where that is to be drawn."""

    frame: Frame
    prediction: Prediction | None = None


class JpegEncoder:
    """Threads that encode, shared by all cameras. Encoding always ends, so an ordinary pool will do here."""

    def __init__(self, *, threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="jpeg")

    async def encode(self, picture: Picture, variant: Variant) -> tuple[bytes, float]:
        """Return the JPEG and the seconds it took; off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, _timed, picture, variant)

    async def encode_no_signal(self, name: str, state: str, reason: str | None, *, width: int) -> bytes:
        """Return the JPEG of a picture that says that a camera is not live; off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, _no_signal, name, state, reason, width)

    def close(self) -> None:
        """End the threads; what still waits is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class SignCache:
    """The pictures that say that a camera is not live: one encode a second per state and width, however many look."""

    def __init__(self, encoder: JpegEncoder, name: str) -> None:
        self._encoder = encoder
        self._name = name
        self._signs: dict[tuple[str, int], tuple[float, asyncio.Task[bytes]]] = {}

    async def get(self, state: str, reason: str | None, *, width: int | None) -> bytes:
        """Return the picture for a state; its reason may be up to a second old."""
        wide = min(max(width or NO_SIGNAL_WIDTH, 16), 2 * NO_SIGNAL_WIDTH)
        now = asyncio.get_running_loop().time()
        made, task = self._signs.get((state, wide), (float("-inf"), None))
        if task is None or now - made >= SIGN_SECONDS:
            task = asyncio.create_task(self._encoder.encode_no_signal(self._name, state, reason, width=wide))
            self._signs = {key: sign for key, sign in self._signs.items() if now - sign[0] < SIGN_SECONDS}
            self._signs[state, wide] = (now, task)
        return await asyncio.shield(task)


class JpegCache:
    """(frame_id, variant) -> JPEG, of one camera. Event loop only.

    Only the newest frame's variants are kept; the overlay shows the newest *predicted* frame, which is an older one, so
    the two kinds are kept apart.
    """

    def __init__(self, encoder: JpegEncoder, *, on_encoded: Callable[[float], None] | None = None) -> None:
        self._encoder = encoder
        self._on_encoded = on_encoded
        self._done: dict[tuple[int, Variant], bytes] = {}
        self._running: dict[tuple[int, Variant], asyncio.Task[bytes]] = {}
        self._newest = {False: 0, True: 0}
        self.hits = 0
        self.encodes: Counter[str] = Counter(dict.fromkeys(VARIANT_KINDS, 0))

    def get(self, frame_id: int, variant: Variant) -> bytes | None:
        """Return the JPEG if it was encoded already."""
        jpeg = self._done.get((frame_id, variant))
        if jpeg is not None:
            self.hits += 1
        return jpeg

    async def get_or_encode(self, picture: Picture, variant: Variant) -> bytes:
        """Return the JPEG of a picture; who asks for the same at the same time shares one encode.

        Raises:
            CameraError: the frame cannot be encoded.
        """
        key = (picture.frame.frame_id, variant)
        jpeg = self.get(*key)
        if jpeg is not None:
            return jpeg
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._encode(key, picture, variant))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)  # one viewer who leaves must not take the picture from the others

    def drop(self) -> None:
        """Forget every JPEG: the camera is lost."""
        self._done.clear()

    def __len__(self) -> int:
        return len(self._done)

    async def _encode(self, key: tuple[int, Variant], picture: Picture, variant: Variant) -> bytes:
        self.encodes[variant.kind] += 1
        jpeg, seconds = await self._encoder.encode(picture, variant)
        if self._on_encoded is not None:
            self._on_encoded(seconds)
        self._keep(key, jpeg)
        return jpeg

    def _keep(self, key: tuple[int, Variant], jpeg: bytes) -> None:
        frame_id, variant = key
        if frame_id < self._newest[variant.overlay]:
            return  # a newer frame was encoded meanwhile
        if frame_id > self._newest[variant.overlay]:
            self._newest[variant.overlay] = frame_id
            for old in [old for old in self._done if old[1].overlay == variant.overlay]:
                del self._done[old]
        while len(self._done) >= MAX_VARIANTS:
            del self._done[next(iter(self._done))]
        self._done[key] = jpeg


def _no_signal(name: str, state: str, reason: str | None, width: int) -> bytes:
    return _jpeg(no_signal_image(name, state, reason, width=width), NO_SIGNAL_QUALITY)


def _timed(picture: Picture, variant: Variant) -> tuple[bytes, float]:
    begun = time.perf_counter()
    jpeg = encode_picture(picture, variant)
    return jpeg, time.perf_counter() - begun


def encode_picture(picture: Picture, variant: Variant) -> bytes:
    """Resize, draw and encode; blocking, a few milliseconds.

    Raises:
        CameraError: OpenCV cannot encode it.
    """
    image = picture.frame.image
    height, width = image.shape[:2]
    scale = 1.0
    if variant.width is not None and variant.width < width:
        scale = variant.width / width
        size = (variant.width, max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if variant.overlay and picture.prediction is not None:
        if image is picture.frame.image:
            image = image.copy()
        draw_prediction(image, picture.prediction, scale=scale)
    return _jpeg(image, variant.quality)


def _jpeg(image: Image, quality: int) -> bytes:
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise CameraError(f"a frame of {image.shape[1]}x{image.shape[0]} pixels cannot be encoded as JPEG")
    return data.tobytes()
