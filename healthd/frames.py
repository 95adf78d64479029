"""Images and frames: what a camera delivers and what healthd makes of it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from healthd.errors import BrokenPicture, CameraError, PictureError
from healthd.picture_headers import read_header

Image: TypeAlias = NDArray[np.uint8]
"""Pixels, shape (height, width, 3), uint8, BGR, C-contiguous."""
Decoded: TypeAlias = Callable[[float, bool], None]
"""Told how many seconds it took to make the pixels of a JPEG, and whether they could be made."""
MOST_JPEG_PIXELS = 50_000_000
"""A camera's JPEG with more is refused: its pixels would take over 150 MB."""


class JpegImage:
    """An image as its camera encoded it. A source may deliver one in place of pixels.

    Its bytes are served as they are, and its pixels made only if somebody needs them: once, however many ask, on the
    thread of the first who does, or in the camera's process if it has one. What is broken at first sight (no JPEG, no
    end, no size) is refused when it is made; what turns out broken later is an error of this one image.

    Raises:
        CameraError: it is no complete JPEG in grey or colours, or has more than 50 million pixels.
    """

    __slots__ = (
        "_broken",
        "_lock",
        "_pixels",
        "_scan_at",
        "_seconds",
        "_tell",
        "data",
        "height",
        "orientation",
        "width",
    )

    def __init__(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise CameraError(f"the plugin made a JPEG of {type(data).__name__}, not of bytes")
        try:
            header = read_header(data)
        except PictureError as exc:
            raise CameraError(f"the camera sent a broken picture: {exc}") from None
        if header.format != "JPEG" or header.components not in {1, 3}:
            raise CameraError(f"the camera sent a {header.format} of {header.components} components, not a plain JPEG")
        if header.width * header.height > MOST_JPEG_PIXELS:
            raise CameraError(
                f"the camera sent a JPEG of {header.width}x{header.height}: {MOST_JPEG_PIXELS:,} pixels at most"
            )
        self.data = data
        """The bytes, as the camera sent them."""
        self.width, self.height = header.width, header.height
        """In pixels, once it stands upright."""
        if header.orientation >= 5:
            self.width, self.height = self.height, self.width
        self.orientation = header.orientation
        """How it is to be turned, as EXIF says it; see `turned`."""
        self._scan_at = header.scan_at
        self._lock = threading.Lock()
        self._pixels: Image | None = None
        self._broken: str | None = None
        self._seconds: float | None = None
        self._tell: Decoded | None = None

    @property
    def upright(self) -> bool:
        """Whether it stands upright as it is, without what EXIF says of turning it."""
        return self.orientation == 1

    @property
    def fingerprint(self) -> bytes:
        """What of it changes when the picture does: its last scan, without the header, which may tell the time."""
        return self.data[self._scan_at :]

    @property
    def made(self) -> bool:
        """Whether its pixels were made, or could not be."""
        return self._seconds is not None

    @property
    def waits(self) -> bool:
        """Whether its pixels would have to be waited for now, for seconds if another process hangs."""
        return False

    def pixels(self) -> Image:
        """Return its pixels, read-only and upright; blocking, some milliseconds the first time, or as `waits` says.

        Raises:
            BrokenPicture: it cannot be decoded; whoever asks again is told the same.
        """
        with self._lock:
            if self._seconds is None:
                begun = time.perf_counter()
                self._decode()
                self._seconds = time.perf_counter() - begun
                if self._tell is not None:
                    self._tell(self._seconds, self._broken is None)
            if self._pixels is None:
                raise BrokenPicture(self._broken)
            return self._pixels

    def tell_of_decode(self, tell: Decoded) -> None:
        """Have `tell` called once, when its pixels have been made, on whatever thread; at once if that is over."""
        with self._lock:
            if self._seconds is not None and self._tell is None:
                tell(self._seconds, self._broken is None)
            self._tell = tell

    def make_pixels(self) -> Image | None:
        """Decode it; return the pixels, upright, or None where that fails. Raises BrokenPicture to say more."""
        return decoded_jpeg(self.data, self.orientation)

    def _decode(self) -> None:
        try:
            image = self.make_pixels()
        except BrokenPicture as exc:
            self._broken = str(exc)
            return
        if image is None or image.shape != (self.height, self.width, 3):
            self._broken = f"a JPEG of {self.width}x{self.height} pixels from the camera cannot be decoded"
            return
        image.flags.writeable = False
        self._pixels = image


def decoded_jpeg(data: bytes, orientation: int) -> Image | None:
    """Decode a JPEG and set it upright; None where it cannot be decoded."""
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        found = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if found is None else np.ascontiguousarray(turned(found, orientation))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a camera says of its own stream; every field may be unknown (None)."""

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    """Nominal frames per second, as declared by the stream: not measured."""
    codec: str | None = None
    """Four letters as FFmpeg names them, e.g. `h264`."""


@dataclass(frozen=True, slots=True)
class CapturedImage:
    """An image with what its camera knows of it. A source may return this in place of a bare image."""

    image: Image | JpegImage
    position_seconds: float | None = None
    """Time of the image on the stream's own clock; for a recording the position in the file."""
    info: StreamInfo | None = None
    """The stream it came from; the same object for every image of a session."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One image of one camera, numbered and stamped; its pixels are read-only."""

    camera: str
    frame_id: int
    """Starts at 1, never repeats or goes back while the process lives, also across reconnects."""
    delivered: Image | JpegImage
    """As the source delivered it: pixels, or the camera's own JPEG."""
    captured_at: datetime
    """Wall clock (UTC) at the moment the camera delivered it."""
    captured_monotonic: float
    """The same moment in seconds of the monotonic clock, for ages."""
    position_seconds: float | None = None

    @property
    def image(self) -> Image:
        """Its pixels. Of a camera that sends JPEGs they may have to be made first: never ask on the event loop.

        Raises:
            BrokenPicture: the camera's JPEG cannot be decoded.
        """
        delivered = self.delivered
        return delivered.pixels() if isinstance(delivered, JpegImage) else delivered

    @property
    def waits(self) -> bool:
        """Whether `image` would wait for another process now: let no thread wait there that others need."""
        return isinstance(self.delivered, JpegImage) and self.delivered.waits

    @property
    def own_jpeg(self) -> bytes | None:
        """The camera's own JPEG, where it sends any that can be shown as they are."""
        delivered = self.delivered
        return delivered.data if isinstance(delivered, JpegImage) and delivered.upright else None

    @property
    def width(self) -> int:
        """Width in pixels."""
        delivered = self.delivered
        return delivered.width if isinstance(delivered, JpegImage) else int(delivered.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        delivered = self.delivered
        return delivered.height if isinstance(delivered, JpegImage) else int(delivered.shape[0])


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands for what a plugin returned in another process, and that is no image; `published_image` raises it."""

    reason: str


def published_image(image: object, *, copy: bool = True) -> Image | JpegImage:
    """Check what a plugin delivered and return it as a read-only image that nobody else writes to.

    An array that owns its pixels is taken as it is (and becomes read-only: the plugin must not write to it again);
    a view of something else is copied, because the plugin may fill the same buffer with the next image. A JPEG was
    checked when it was made. `copy=False`: nobody writes to it, view or not, or it is copied elsewhere anyway; then it
    is returned as it is.

    Raises:
        CameraError: it is neither a JPEG nor a uint8 array of shape (height, width, 3) with at least one pixel.
    """
    if isinstance(image, JpegImage):
        return image
    if isinstance(image, Refused):
        raise CameraError(image.reason)
    if not isinstance(image, np.ndarray):
        raise CameraError(f"the plugin returned {type(image).__name__}, not an image: uint8 (height, width, 3) BGR")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise CameraError(
            f"the plugin returned {image.dtype} {image.shape}, not an image: uint8 (height, width, 3) BGR, not empty"
        )
    if not copy:
        return image
    own = image if image.base is None and image.flags.c_contiguous else np.array(image, order="C")
    own.flags.writeable = False
    return own


def turned(image: Image, orientation: int) -> Image:
    """Turn as EXIF says: 2 mirrored, 3 upside down, 4 both, 5 to 8 the same four with rows and columns exchanged."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in {2, 3, 6, 7}:
        image = image[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        image = image[::-1]
    return image
