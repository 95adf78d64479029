"""Pictures that are sent in: bytes of any origin become an image, or a reason why not.

Pillow decodes, and OpenCV what it decodes faster: JPEGs whose end was seen. Either gets only what the header has been
checked for, by the class of the one format, never by trying what might fit.
"""

import io
from collections.abc import Callable
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from healthd.errors import PictureError, PictureTooLarge
from healthd.frames import Image, turned
from healthd.picture_headers import Format, Header, bare_png, read_header


class _QuietJpeg(JpegImageFile):
    """Looks for no resolution in the EXIF block, of which it would warn when it is broken."""

    def _read_dpi_from_exif(self) -> None:
        pass


_CLASSES: dict[Format, Callable[[IO[bytes]], ImageFile]] = {
    "JPEG": _QuietJpeg,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
}


def decode_picture(data: bytes | bytearray | IO[bytes], *, max_pixels: int) -> Image:
    """Decode a JPEG, PNG, WebP or BMP; blocking, a few milliseconds.

    The image is read-only and stands as its EXIF orientation says; of an animation it is the first frame. What is
    transparent is white; 16 bits become 8.

    Raises:
        PictureTooLarge: it has more than `max_pixels`; found out before anything is decoded.
        PictureError: it is no picture, broken, or cut short: there is no half of one.
    """
    if not isinstance(data, (bytes, bytearray)):
        data = data.read()
    header = read_header(data)
    pixels = header.width * header.height
    if pixels > max_pixels:
        size = f"{header.width}x{header.height}"
        raise PictureTooLarge(f"the picture has {size} pixels, {pixels:,} in all: at most {max_pixels:,} are taken")
    try:
        fast = header.format == "JPEG" and header.components in {1, 3}
        image = _by_opencv(data) if fast else _by_pillow(data, header)
    except PictureError:
        raise
    except MemoryError:
        raise PictureTooLarge(f"no memory for a picture of {header.width}x{header.height} pixels") from None
    except Exception as exc:
        why = "" if isinstance(exc, cv2.error) else f": {exc}"
        raise PictureError(f"the {header.format} picture is broken or cut short{why}") from exc
    if image is None or image.shape != (header.height, header.width, 3):
        raise PictureError(f"the {header.format} picture is broken or cut short")
    upright = np.ascontiguousarray(turned(image, header.orientation))
    upright.flags.writeable = False
    return upright


def _by_opencv(data: bytes | bytearray) -> Image | None:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)  # type: ignore[return-value]


def _by_pillow(data: bytes | bytearray, header: Header) -> Image:
    if header.format == "PNG":
        data = bare_png(data)
    with _CLASSES[header.format](io.BytesIO(data)) as picture:
        if picture.size != (header.width, header.height):
            raise PictureError(f"the {header.format} picture contradicts its own header")
        picture.load()
        return _bgr(picture)


def _bgr(picture: Pillow.Image) -> Image:
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return _converted(grey, cv2.COLOR_GRAY2BGR)
    if picture.mode in {"1", "L"} and "transparency" not in picture.info:
        return _converted(np.asarray(picture.convert("L")), cv2.COLOR_GRAY2BGR)
    if picture.has_transparency_data:
        whole = picture.convert("RGBA")
        picture = Pillow.new("RGBA", whole.size, (255, 255, 255, 255))
        picture.alpha_composite(whole)
    return _converted(np.asarray(picture.convert("RGB")), cv2.COLOR_RGB2BGR)


def _converted(pixels: NDArray[np.uint8], how: int) -> Image:
    return cv2.cvtColor(pixels, how)  # type: ignore[return-value]
