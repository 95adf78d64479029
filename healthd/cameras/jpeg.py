"""JPEGs of the newest frame: encoded once per variant however many ask, and never before somebody asks.

What the camera itself sent as JPEG is not encoded at all, unless it is asked for in another way.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2

from healthd.cameras.draw import draw_prediction
from healthd.errors import CameraError, HealthdError
from healthd.frames import Frame, Image
from healthd.models.model import Prediction
from healthd.worker import WorkerPool

VARIANT_KINDS = ("plain", "sized", "overlay", "sized_overlay")
MAX_ENCODES = 16
"""Encodes of one camera that may wait at a time; whoever asks for yet another variant is told to come back."""
MAX_VARIANTS = 16
"""Variants kept per frame; the one encoded longest ago leaves first."""


class Variant(NamedTuple):
    """How a frame is shown."""

    quality: int
    """JPEG quality, 1 to 95; 0: the camera's own JPEG, as it came."""
    width: int | None = None
    """Pixels; None, or more than the frame has: as it is. The height follows."""
    overlay: bool = False
    """With the prediction of that very frame drawn on it."""

    @property
    def kind(self) -> str:
        """One of `VARIANT_KINDS`: bounded, fit to be a metric's label."""
        return ("sized_overlay" if self.width else "overlay") if self.overlay else "sized" if self.width else "plain"

    def __str__(self) -> str:
        return f"q{self.quality}w{self.width or 0}{'o' if self.overlay else ''}" if self.quality else "own"

    def fitting(self, frame: Frame, *, or_own: bool = False) -> "Variant":
        """Return the one variant that stands for all that show this frame the same: nothing is ever enlarged.

        `or_own`: nobody has asked for this quality. Then the camera's own JPEG is as good, where it sends any.
        """
        fits = self if self.width is None or self.width < frame.width else self._replace(width=None)
        return OWN if or_own and fits.width is None and not fits.overlay and frame.own_jpeg is not None else fits


OWN = Variant(0)
"""The camera's own JPEG, as it came."""


class Picture(NamedTuple):
    """A frame to be encoded, with its prediction where that is to be drawn."""

    frame: Frame
    prediction: Prediction | None = None


class EncoderBusy(HealthdError):  # noqa: N818  a state, not a mistake
    """So many variants of one camera are being encoded that another would only wait."""


class JpegEncoder:
    """Threads that encode, shared by all cameras. Encoding always ends, so an ordinary pool will do here.

    A frame that `waits` must not come here: its camera's process may hang, and the threads are everybody's.
    """

    def __init__(self, *, threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="jpeg")

    async def encode(self, picture: Picture, variant: Variant) -> tuple[bytes, float]:
        """Return the JPEG and the seconds it took; off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, _timed, picture, variant)

    async def run(self, make: Callable[[], bytes]) -> bytes:
        """Return what `make` makes, a picture that shows no frame; off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, make)

    def close(self) -> None:
        """End the threads; what still waits is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)


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
        self._drops = 0
        self._threads = WorkerPool("pixels", keep=0)
        self._thread = asyncio.Lock()
        """Held by who has a thread that waits for pixels: a process that hangs costs one, however many ask."""
        self.hits = 0
        self.passed = 0
        """The camera's own JPEGs served as they came."""
        self.encodes_by_kind: Counter[str] = Counter(dict.fromkeys(VARIANT_KINDS, 0))

    @property
    def encodes(self) -> int:
        """JPEGs encoded so far."""
        return self.encodes_by_kind.total()

    def get(self, frame: Frame, variant: Variant) -> bytes | None:
        """Return the JPEG if it was encoded already, by us or by the camera."""
        jpeg = self.peek(frame, variant)
        if jpeg is not None:
            self.count_served(variant)
        return jpeg

    def peek(self, frame: Frame, variant: Variant) -> bytes | None:
        """Return the same; it was not served yet."""
        return frame.own_jpeg if variant == OWN else self._done.get((frame.frame_id, variant))

    def count_served(self, variant: Variant) -> None:
        """Count one that was served without an encode."""
        if variant == OWN:
            self.passed += 1
        else:
            self.hits += 1

    async def get_or_encode(self, picture: Picture, variant: Variant) -> bytes:
        """Return the JPEG of a picture; who asks for the same at the same time shares one encode.

        The camera may be lost meanwhile: ask whether the picture may still be shown.

        Raises:
            CameraError: the frame cannot be encoded.
            EncoderBusy: too many other variants are being encoded.
        """
        jpeg = self.get(picture.frame, variant)
        if jpeg is not None:
            return jpeg
        return await asyncio.shield(self.encoding(picture, variant))  # one who leaves must not take it from the others

    def encoding(self, picture: Picture, variant: Variant) -> "asyncio.Task[bytes]":
        """Begin to encode a picture, unless that has begun already; what comes of it is no one caller's to cancel.

        Raises:
            EncoderBusy: too many other variants are being encoded.
        """
        key = (picture.frame.frame_id, variant)
        task = self._running.get(key)
        if task is None:
            if len(self._running) >= MAX_ENCODES:
                raise EncoderBusy(f"{MAX_ENCODES} other variants of this camera are being encoded")
            task = asyncio.create_task(self._encode(key, picture, variant))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return task

    def older(self, frame_id: int, variant: Variant) -> "asyncio.Task[bytes] | None":
        """Return what encodes an older frame in the same way, while nobody encodes this one.

        Who waits for its end before he asks for the newest frame leaves out those in between: where encoding takes
        longer than the camera takes for a frame, they would only queue up.
        """
        key = (frame_id, variant)
        if key in self._done or key in self._running:
            return None
        return next((task for (other, how), task in self._running.items() if how == variant and other < frame_id), None)

    def drop(self) -> None:
        """Forget every JPEG, those that are still being encoded too: the camera is lost."""
        self._drops += 1
        self._done.clear()

    def __len__(self) -> int:
        return len(self._done)

    async def _encode(self, key: tuple[int, Variant], picture: Picture, variant: Variant) -> bytes:
        self.encodes_by_kind[variant.kind] += 1
        drops = self._drops
        if picture.frame.waits:
            await self._make_pixels(picture.frame)
        jpeg, seconds = await self._encoder.encode(picture, variant)
        if self._on_encoded is not None:
            self._on_encoded(seconds)
        if drops == self._drops:
            self._keep(key, jpeg)
        return jpeg

    async def _make_pixels(self, frame: Frame) -> None:
        """Wait for the pixels of a frame that are made in the camera's process, on no thread that others need."""
        async with self._thread:
            if frame.waits:  # who had the thread before may have wanted the same
                await self._threads.call(lambda: frame.image, timeout=None)  # the lane to the process has its bound

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


def _timed(picture: Picture, variant: Variant) -> tuple[bytes, float]:
    begun = time.perf_counter()
    jpeg = encode_picture(picture, variant)
    return jpeg, time.perf_counter() - begun


def encode_picture(picture: Picture, variant: Variant) -> bytes:
    """Resize, draw and encode; blocking, a few milliseconds. What the camera sent as JPEG is decoded first.

    Raises:
        CameraError: OpenCV cannot encode it, or not decode what the camera sent.
    """
    image = frame_image = picture.frame.image
    height, width = image.shape[:2]
    scale = 1.0
    if variant.width is not None and variant.width < width:
        scale = variant.width / width
        size = (variant.width, max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if variant.overlay and picture.prediction is not None:
        if image is frame_image:
            image = image.copy()
        draw_prediction(image, picture.prediction, scale=scale)
    return encode_image(image, variant.quality)


def encode_image(image: Image, quality: int) -> bytes:
    """Return an image as JPEG; blocking, a few milliseconds.

    Raises:
        CameraError: OpenCV cannot encode it.
    """
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise CameraError(f"a frame of {image.shape[1]}x{image.shape[0]} pixels cannot be encoded as JPEG")
    return data.tobytes()
