"""Images and frames: what a camera delivers and what healthd makes of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from healthd.errors import CameraError

Image: TypeAlias = NDArray[np.uint8]
"""Pixels, shape (height, width, 3), uint8, BGR, C-contiguous."""


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

    image: Image
    position_seconds: float | None = None
    """Time of the image on the stream's own clock; for a recording the position in the file."""
    info: StreamInfo | None = None
    """The stream it came from; the same object for every image of a session."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One image of one camera, numbered and stamped; its image is read-only."""

    camera: str
    frame_id: int
    """Starts at 1, never repeats or goes back while the process lives, also across reconnects."""
    image: Image
    captured_at: datetime
    """Wall clock (UTC) at the moment the camera delivered it."""
    captured_monotonic: float
    """The same moment in seconds of the monotonic clock, for ages."""
    position_seconds: float | None = None

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.image.shape[0])


def published_image(image: object) -> Image:
    """Check what a plugin delivered and return it as a read-only image that nobody else writes to.

    An array that owns its pixels is taken as it is (and becomes read-only: the plugin must not write to it again);
    a view of something else is copied, because the plugin may fill the same buffer with the next image.

    Raises:
        CameraError: it is no uint8 array of shape (height, width, 3) with at least one pixel.
    """
    if not isinstance(image, np.ndarray):
        raise CameraError(f"the plugin returned {type(image).__name__}, not an image: uint8 (height, width, 3) BGR")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise CameraError(
            f"the plugin returned {image.dtype} {image.shape}, not an image: uint8 (height, width, 3) BGR, not empty"
        )
    own = image if image.base is None and image.flags.c_contiguous else np.array(image, order="C")
    own.flags.writeable = False
    return own
