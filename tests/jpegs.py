"""JPEGs as cameras send them: whole, cut short, lying on their side, and broken where it shows only when decoded."""

import struct
import threading

import cv2
import numpy as np

from healthd.frames import Image, JpegImage
from tests.fakes import picture


def jpeg(number: int = 1, *, size: tuple[int, int] = (48, 64), quality: int = 90) -> bytes:
    """A JPEG that differs from every other number's."""
    ok, data = cv2.imencode(".jpg", picture(40 * number, size=size), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return bytes(data)


def turned_jpeg(number: int, orientation: int) -> bytes:
    """The same with an EXIF block that says how to turn it."""
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x0112, 3, 1, orientation, 0)
    block = b"Exif\0\0" + tiff
    whole = jpeg(number)
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + whole[2:]


def undecodable_jpeg(number: int = 1) -> bytes:
    """One that begins, has a size and ends, but no quantization table."""
    whole = jpeg(number)
    while (at := whole.find(b"\xff\xdb")) >= 0:
        (length,) = struct.unpack_from(">H", whole, at + 2)
        whole = whole[:at] + whole[at + 2 + length :]
    return whole


def dated_jpeg(number: int, date: str) -> bytes:
    """The same picture with another comment in its header."""
    whole, comment = jpeg(number), date.encode()
    return whole[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + whole[2:]


def pixels(data: bytes) -> np.ndarray:
    """Decode it."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


class ElsewhereJpeg(JpegImage):
    """Its pixels are made by another process, so to speak, once `gate` is set."""

    def __init__(self, data: bytes, *, gate: threading.Event | None = None) -> None:
        super().__init__(data)
        self.gate = gate or threading.Event()
        self.asked = threading.Event()

    @property
    def waits(self) -> bool:
        return not self.made

    def make_pixels(self) -> Image | None:
        self.asked.set()
        self.gate.wait(20)
        return super().make_pixels()
