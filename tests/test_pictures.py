"""Pictures that are sent in: every kind is read, what is broken or too large is refused, and nothing else is raised."""

import io
import resource
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps

from healthd.errors import PictureError, PictureTooLarge
from healthd.pictures import decode_picture
from tests.fuzzing import fuzzed

MANY = 50_000_000
SIZE = (64, 48)


def scene(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Pillow.Image:
    """A picture whose corners differ, smooth enough to survive JPEG."""
    across, down = np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1])
    red, green = np.meshgrid(across, down)
    pixels = np.stack([red, green, 255 - (red + green) / 2], axis=2).astype(np.uint8)
    return Pillow.fromarray(pixels, "RGB").convert(mode)


def saved(picture: Pillow.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def rgb(data: bytes) -> np.ndarray:
    return decode_picture(data, max_pixels=MANY)[:, :, ::-1]


def assert_scene(data: bytes, *, off: float = 3.0) -> None:
    found, wanted = rgb(data).astype(int), np.asarray(scene()).astype(int)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() <= off


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG written by hand."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


READ: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved(scene(), "JPEG", quality=95),
    "jpeg, progressive": lambda: saved(scene(), "JPEG", quality=95, progressive=True),
    "jpeg, cmyk": lambda: saved(scene("CMYK"), "JPEG", quality=95),
    "jpeg with junk after its end": lambda: saved(scene(), "JPEG", quality=95) + b"\0" * 1000,
    "jpeg with restart markers": lambda: saved(scene(), "JPEG", quality=95, restart_marker_blocks=2),
    "png": lambda: saved(scene(), "PNG"),
    "png, alpha": lambda: saved(scene("RGBA"), "PNG"),
    "png, interlaced palette": lambda: saved(scene().quantize(256), "PNG"),
    "png, animated": lambda: saved(scene(), "PNG", save_all=True, append_images=[scene("L").convert("RGB")]),
    "webp": lambda: saved(scene(), "WEBP", quality=95),
    "webp, lossless with alpha": lambda: saved(scene("RGBA"), "WEBP", lossless=True),
    "webp, animated": lambda: saved(
        scene(), "WEBP", save_all=True, append_images=[scene("L").convert("RGB")], lossless=True
    ),
    "bmp": lambda: saved(scene(), "BMP"),
    "bmp, palette": lambda: saved(scene().quantize(256), "BMP"),
}
FILES = {name: make() for name, make in READ.items()}


@pytest.mark.parametrize("name", READ)
def test_every_kind_is_read_right(name: str) -> None:
    assert_scene(FILES[name], off=12 if "palette" in name else 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_grey_is_grey_in_three_channels(kind: str) -> None:
    found = rgb(saved(scene("L"), kind)).astype(int)
    assert np.abs(found - np.asarray(scene("L").convert("RGB")).astype(int)).mean() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_one_pixel_is_a_picture(kind: str) -> None:
    found = rgb(saved(Pillow.new("RGB", (1, 1), (200, 100, 50)), kind))
    assert found.shape == (1, 1, 3)
    assert np.abs(found[0, 0].astype(int) - (200, 100, 50)).max() <= 4


def test_an_image_is_ours_read_only_and_in_one_piece() -> None:
    for name, data in FILES.items():
        image = decode_picture(io.BytesIO(data), max_pixels=MANY)
        assert (image.dtype, image.shape) == (np.uint8, (48, 64, 3)), name
        assert image.flags.c_contiguous, name
        assert not image.flags.writeable, name


@pytest.mark.parametrize("colour", [0, 2, 4, 6], ids=["grey", "rgb", "grey alpha", "rgb alpha"])
def test_sixteen_bits_become_eight(colour: int) -> None:
    values, channels = [0, 257, 0x8080, 0xFF00, 0xFFFF], {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    row = b"".join(
        struct.pack(">H", value) * (channels - (colour >= 4)) + (b"\xff\xff" if colour >= 4 else b"")
        for value in values
    )
    found = rgb(png(5, 1, depth=16, colour=colour, rows=b"\0" + row))
    assert np.abs(found[0].astype(int) - np.array([0, 1, 128, 255, 255])[:, None]).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_become_eight(depth: int) -> None:
    found = rgb(png(2, 1, depth=depth, colour=0, rows=b"\0" + bytes([(2**depth - 1) << (8 - 2 * depth)])))
    assert found[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    picture = Pillow.new("RGBA", SIZE, (255, 0, 0, 0))
    options = {"transparency": 0} if mode == "P" else {}
    data = saved(Pillow.new("P", SIZE, 0) if mode == "P" else picture.convert(mode), "PNG", **options)
    assert rgb(data).min() == 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_picture_is_honoured(kind: str, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = saved(scene(), kind, quality=95, exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))).convert("RGB"))
    found = rgb(data)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() <= 1


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_a_broken_block_of_exif_turns_nothing_and_says_nothing(exif: bytes) -> None:
    data = FILES["jpeg"]
    for given_data in (data, FILES["jpeg, cmyk"]):
        block = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
        assert_scene(given_data[:2] + block + given_data[2:])


@pytest.mark.parametrize("name", READ)
def test_a_picture_that_is_cut_short_is_refused_wherever_it_is_cut(name: str) -> None:
    data = FILES[name].rstrip(b"\0") if "junk" in name else FILES[name]
    for length in sorted({*range(1, len(data) - 1, max(1, len(data) // 150)), len(data) - 2}):
        with pytest.raises(PictureError):
            decode_picture(data[:length], max_pixels=MANY)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "0 bytes"),
        (b"no picture at all", "no picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture"),
        (b"GIF89a" + b"\0" * 100, "no picture"),
        (b"\xff\xd8\xff", "cut short"),
        (b"\xff\xd8\xff\xd9", "no image"),
        (b"\xff\xd8" + b"\xff" * 5_000_000, "cut short"),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 1_000_000, "too many"),
        (b"\x89PNG\r\n\x1a\n", "cut short"),
        (b"BM", "cut short"),
        (b"BM" + b"\0" * 100, "0x0"),
        (b"RIFF\x04\0\0\0WEBP", "begin"),
        (png(4, 4, rows=b"\0"), "broken"),
        (png(0, 4), "0x4"),
        (png(4, 4, rows=(b"\0" + b"\1" * 12) * 4, more=chunk(b"IDAT", b"") * 60_000), "too many"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_is_refused_with_a_reason_and_soon(data: bytes, said: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(PictureError, match=said):
        decode_picture(data, max_pixels=MANY)
    assert time.perf_counter() - begun < 2


def bombs() -> dict[str, bytes]:
    side = 30_000
    jpeg = bytearray(FILES["jpeg"])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
    bmp = bytearray(FILES["bmp"])
    bmp[18:26] = struct.pack("<ii", side, side)
    webp = bytearray(FILES["webp, animated"])
    webp[24:30] = (16_382).to_bytes(3, "little") * 2
    return {
        "png": png(side, side, colour=0, depth=1, rows=b"\0" * ((side // 8 + 1) * side)),
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "webp": bytes(webp),
    }


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "webp"])
def test_a_bomb_is_refused_before_it_is_decoded(kind: str) -> None:
    data = bombs()[kind]
    assert len(data) < 200_000
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(PictureTooLarge, match="at most 50,000,000"):
        decode_picture(data, max_pixels=MANY)
    assert time.perf_counter() - begun < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_the_limit_on_pixels_is_a_limit() -> None:
    for data in FILES.values():
        assert decode_picture(data, max_pixels=64 * 48).shape == (48, 64, 3)
        with pytest.raises(PictureTooLarge):
            decode_picture(data, max_pixels=64 * 48 - 1)


def test_texts_and_profiles_of_a_png_are_not_even_unpacked() -> None:
    rows = (b"\0" + b"\1\2\3" * 4) * 4
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 50_000_000)) * 3 + chunk(b"acTL", b"\0" * 8)
    assert rgb(png(4, 4, rows=rows, more=bomb)).tolist() == [[[1, 2, 3]] * 4] * 4


def test_libraries_do_not_warn_of_what_strangers_send() -> None:
    picture = Pillow.new("P", SIZE, 0)
    data = saved(picture, "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_picture(data, max_pixels=MANY)
        decode_picture(png(10_000, 9_000, colour=0, depth=1, rows=b"\0" * (1251 * 9000)), max_pixels=100_000_000)


@fuzzed(400)
@given(st.data())
def test_a_broken_picture_raises_nothing_else(data: st.DataObject) -> None:
    picture = bytearray(FILES[data.draw(st.sampled_from(sorted(FILES)))])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.one_of(st.integers(0, min(200, len(picture) - 1)), st.integers(0, len(picture) - 1)))
        match data.draw(st.sampled_from(["flip", "drop", "double", "zero"])):
            case "flip":
                picture[at] = data.draw(st.integers(0, 255))
            case "drop" if len(picture) > 40:
                del picture[at : at + data.draw(st.integers(1, 16))]
            case "double":
                picture[at:at] = picture[at : at + 16]
            case _:
                picture[at : at + 4] = b"\0" * len(picture[at : at + 4])
        if not picture:
            break
    refused, image = "", None
    try:
        image = decode_picture(bytes(picture), max_pixels=1_000_000)
    except PictureError as exc:
        refused = str(exc)
    assert (image is None) is bool(refused)
    assert " at 0x" not in refused
    assert image is None or (image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3)


@pytest.mark.assets
def test_a_jpeg_of_720p_takes_a_few_milliseconds(assets: Any) -> None:
    _, frame = cv2.VideoCapture(str(assets / "clips" / "people_walking_720p.mp4")).read()
    data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    assert np.abs(decode_picture(data, max_pixels=MANY).astype(int) - frame).mean() < 4
    bare, ours = [], []
    for _ in range(15):
        begun = time.perf_counter()
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        bare.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        decode_picture(data, max_pixels=MANY)
        ours.append(time.perf_counter() - begun)
    assert min(ours) < 2 * min(bare) + 0.001
