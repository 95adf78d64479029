"""What the first bytes of a picture say of it: its format, its size, and how it is to be turned.

Read without decoding anything, so that a few kB that claim to be 30,000 x 30,000 pixels are refused for nothing, and
without the libraries that decode: those warn of what stands in a header, and some take the memory for the claim.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from healthd.errors import PictureError

Format: TypeAlias = Literal["JPEG", "PNG", "WebP", "BMP"]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
"""What makes the pixels of a PNG. The rest (texts, profiles, further frames) is nobody's business here."""
_NEXT_MARKER = re.compile(rb"\xff([^\x00\xff])")
_AFTER_SCAN = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_ALONE = {0x01, *range(0xD0, 0xD8)}
"""Markers of JPEG without a length."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SCAN = 0xDA
_MOST_SCANS = 100
"""A progressive JPEG has about ten. Each costs a walk over all pixels, and a few bytes are enough for one."""
_MOST_PARTS = 50_000
"""Segments or chunks; real pictures have some thousands at most, and each costs some time and memory."""
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture claims to be."""

    format: Format
    width: int
    height: int
    """As stored, before it is turned."""
    orientation: int = 1
    """EXIF: 1 to 8."""
    components: int = 3
    """Of a JPEG: 1 grey, 3 colours, 4 CMYK."""
    scan_at: int = 0
    """Of a JPEG: where the pixels of its last scan begin, and with them what is no header."""


def read_header(data: bytes | bytearray) -> Header:
    """Read what a picture claims to be.

    Raises:
        PictureError: it is none of the four formats, or its header is broken.
    """
    if not data:
        raise PictureError("the picture is empty: 0 bytes")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            header = _jpeg(data)
        elif data.startswith(_PNG):
            header = _png(data)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            header = _webp(data)
        elif data.startswith(b"BM"):
            header = _bmp(data)
        else:
            raise PictureError("this is no picture: JPEG, PNG, WebP and BMP are read")
    except (struct.error, IndexError):
        raise PictureError("the picture is cut short within its header") from None
    if header.width < 1 or header.height < 1:
        raise PictureError(f"the {header.format} picture says that it is {header.width}x{header.height} pixels")
    return header


def _jpeg(data: bytes | bytearray) -> Header:
    found: tuple[int, int, int] | None = None
    orientation, scans, scan_at = 1, 0, 0
    for marker, segment, end in _jpeg_segments(data):
        if marker in _FRAMES and found is None:
            height, width, components = struct.unpack_from(">HHB", segment, 1)
            found = width, height, components
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            orientation = exif_orientation(segment[6:])
        elif marker == _SCAN:
            scans, scan_at = scans + 1, end
            if scans > _MOST_SCANS:
                raise PictureError(f"the JPEG picture has more than {_MOST_SCANS} scans")
    if found is None or not scans:
        raise PictureError("the JPEG picture has no image in it")
    return Header("JPEG", *found[:2], orientation=orientation, components=found[2], scan_at=scan_at)


def _jpeg_segments(data: bytes | bytearray) -> Iterator[tuple[int, bytes | bytearray, int]]:
    """Give marker, content and end of all segments, over all scans to the end of the image (ITU T.81, annex B)."""
    position, pattern = 2, _NEXT_MARKER
    for _ in range(_MOST_PARTS):
        match = pattern.search(data, position)
        if match is None:
            raise PictureError("the JPEG picture is cut short: its end is missing")
        marker, position = match[1][0], match.end()
        if marker == 0xD9:
            return
        if marker in _ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        segment = data[position + 2 : position + length]
        if length < 2 or len(segment) < length - 2:
            raise PictureError("the JPEG picture is cut short")
        position += length
        if marker == _SCAN:
            pattern = _AFTER_SCAN
        yield marker, segment, position
    raise PictureError("the JPEG picture has too many segments")


def _png(data: bytes | bytearray) -> Header:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if kind != b"IHDR" or length != 13:
        raise PictureError("the PNG picture does not begin with its header")
    orientation = 1
    for chunk, start, end in _png_chunks(data):
        if chunk == b"eXIf":
            orientation = exif_orientation(data[start + 8 : end - 4])
    return Header("PNG", width, height, orientation=orientation)


def _png_chunks(data: bytes | bytearray) -> Iterator[tuple[bytes, int, int]]:
    """Give kind, start and end of all chunks up to the last one that is complete."""
    position = len(_PNG)
    for _ in range(_MOST_PARTS):
        if position + 12 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            return
        yield kind, position, end
        position = end
        if kind == b"IEND":
            return
    raise PictureError("the PNG picture has too many chunks")


def bare_png(data: bytes | bytearray) -> bytes:
    """Return a PNG with nothing in it but its first image.

    Raises:
        PictureError: a chunk of the image is broken, or its end is missing.
    """
    pieces: list[bytes | bytearray] = [_PNG]
    complete = False
    for kind, start, end in _png_chunks(data):
        if kind not in _PNG_KEPT:
            continue
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(memoryview(data)[start + 4 : end - 4]) != checksum:
            raise PictureError("the PNG picture is broken: a checksum is wrong")
        pieces.append(data[start:end])
        complete = kind == b"IEND"
    if not complete:
        raise PictureError("the PNG picture is cut short: its end is missing")
    return b"".join(pieces)


def _webp(data: bytes | bytearray) -> Header:
    """Read the first chunk (RFC 9649), and the EXIF one where there is any."""
    (riff,) = struct.unpack_from("<I", data, 4)
    if riff + 8 > len(data):
        raise PictureError("the WebP picture is cut short")
    kind = data[12:16]
    if kind == b"VP8X":
        first, second, third, fourth, fifth, sixth = struct.unpack_from("<6B", data, 24)
        width = 1 + (first | second << 8 | third << 16)
        height = 1 + (fourth | fifth << 8 | sixth << 16)
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise PictureError("the WebP picture does not begin with an image")
    return Header("WebP", width, height, orientation=_webp_orientation(data) if kind == b"VP8X" else 1)


def _webp_orientation(data: bytes | bytearray) -> int:
    position = 12
    for _ in range(_MOST_PARTS):
        if position + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return exif_orientation(data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0"))
        position += 8 + length + (length & 1)
    return 1


def _bmp(data: bytes | bytearray) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return Header("BMP", abs(width), abs(height))


def exif_orientation(exif: bytes | bytearray) -> int:
    """Return the orientation that stands in a block of EXIF; 1, as it lies, where none can be read."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(exif[:4]))
    if order is None:
        return 1
    try:
        (position,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, position)
        for entry in range(position + 2, position + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, entry)
            if tag == _ORIENTATION and kind == 3 and count == 1:
                (orientation,) = struct.unpack_from(f"{order}H", exif, entry + 8)
                return int(orientation) if 1 <= orientation <= 8 else 1
    except struct.error:
        pass
    return 1
