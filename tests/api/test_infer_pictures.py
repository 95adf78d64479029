"""What is sent in place of a picture: each has its one status, in JSON, and the next request is answered."""

import io
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image as Pillow

from tests.api.families import ToldFamily, models_folder
from tests.api.house import House, assert_error, open_house
from tests.fakes import picture
from tests.test_pictures import png

INFER = "/api/v1/infer"
JPEG = cv2.imencode(".jpg", picture(7, size=(48, 64)))[1].tobytes()
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def told() -> AsyncIterator[ToldFamily]:
    yield ToldFamily()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(told: ToldFamily, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    models = models_folder(tmp_path_factory.mktemp("models"), "boxes")
    async with open_house(family=told, models=models) as opened:
        yield opened


async def post(house: House, content: bytes, **options: Any) -> httpx.Response:
    return await house.client.post(INFER, files={"file": ("picture.jpg", content, "image/jpeg")}, **options)


def saved(picture: Pillow.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 400, "0 bytes"),
        (b"I am a picture, honestly", 400, "no picture"),
        (JPEG[: len(JPEG) // 2], 400, "cut short"),
        (JPEG[:-2], 400, "cut short"),
        (b"\0" * 1000, 400, "no picture"),
        (png(30_000, 30_000, depth=1, colour=0, rows=b"\0" * (3751 * 30_000)), 413, "30000x30000"),
        (png(10, 10, rows=b"\0"), 400, "broken"),
    ],
    ids=["nothing", "text", "half a jpeg", "a jpeg without its end", "zeros", "a bomb", "half a png"],
)
async def test_what_is_no_picture_is_refused_and_the_model_never_sees_it(
    house: House, told: ToldFamily, content: bytes, status: int, said: str
) -> None:
    seen, begun = len(told.seen), time.perf_counter()
    body = assert_error(await post(house, content), status)
    assert time.perf_counter() - begun < 1
    assert said in body["detail"]
    assert len(told.seen) == seen
    info = (await house.get("/api/v1/models/boxes.told")).json()
    assert (info["users"], info["waiting"]) == (0, 0)
    assert (await post(house, JPEG)).status_code == 200


async def test_pictures_of_every_kind_reach_the_model_as_eight_bits_of_three_colours(
    house: House, told: ToldFamily
) -> None:
    deep = struct.pack(">H", 0x8080) * 3
    pictures = {
        "grey of 16 bits": png(1, 1, depth=16, colour=0, rows=b"\0\x80\x80"),
        "colours of 16 bits": png(2, 1, depth=16, rows=b"\0" + deep * 2),
        "cmyk": saved(Pillow.new("RGB", (8, 8), (128, 128, 128)).convert("CMYK"), "JPEG"),
        "one pixel": saved(Pillow.new("RGB", (1, 1), (128, 128, 128)), "JPEG"),
        "palette": saved(Pillow.new("RGB", (8, 8), (128, 128, 128)).quantize(2), "PNG"),
        "webp": saved(Pillow.new("RGB", (8, 8), (128, 128, 128)), "WEBP"),
        "bmp": saved(Pillow.new("RGB", (8, 8), (128, 128, 128)), "BMP"),
    }
    for name, content in pictures.items():
        answer = await post(house, content)
        assert answer.status_code == 200, name
        image = told.images[-1]
        assert (image.dtype, image.shape[2]) == (np.uint8, 3), name
        assert np.abs(image.astype(int) - 128).max() <= 3, name


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ({}, 415, "multipart/form-data"),
        ({"content": b"{}", "headers": {"Content-Type": "application/json"}}, 415, "application/json"),
        ({"content": JPEG, "headers": {"Content-Type": "image/gif"}}, 415, "image/gif"),
        ({"data": {"conf": "0.5"}}, 415, "x-www-form-urlencoded"),
        ({"files": {"image": ("a.jpg", JPEG)}}, 422, "file"),
        ({"files": [("file", ("a.jpg", JPEG)), ("file", ("b.jpg", JPEG))]}, 422, "twice"),
        ({"files": {"file": ("a.jpg", JPEG)}, "data": {"question": "x" * 20_000}}, 422, "question"),
        ({"files": {"file": ("a.jpg", JPEG)}, "data": {"text_queries": ["x"] * 200}}, 400, "too many parts"),
        ({"content": JPEG, "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"content": b"", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "boundary"),
        ({"content": JPEG, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "boundary"),
        (
            {
                "content": b'--a\r\nContent-Disposition: form-data; name="file"\r\n\r\nxyz\r\n--a--\r\n',
                "headers": {"Content-Type": "multipart/form-data; boundary=b"},
            },
            400,
            "boundary",
        ),
        (
            {
                "content": b'--a\r\nContent-Disposition: form-data; name="file"\r\n\r\nxyz',
                "headers": {"Content-Type": "multipart/form-data; boundary=a"},
            },
            400,
            "boundary",
        ),
        (
            {
                "content": b"--a\r\nContent-Disposition: form-data; name=question\r\n\r\n\xff\xfe\r\n--a--\r\n",
                "headers": {"Content-Type": "multipart/form-data; boundary=a"},
            },
            422,
            "UTF-8",
        ),
        ({"content": b"", "headers": {"Content-Type": "image/jpeg"}}, 400, "0 bytes"),
    ],
)
async def test_a_body_that_is_not_what_it_says_is_refused_with_the_reason(
    house: House, options: dict[str, Any], status: int, said: str
) -> None:
    assert said in assert_error(await house.client.post(INFER, **options), status)["detail"]
    assert (await post(house, JPEG)).status_code == 200


async def test_a_form_of_a_simple_client_will_do(house: House) -> None:
    body = b'ignored\r\n--a\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + JPEG + b"\r\n--a--\r\nignored too"
    answer = await house.client.post(INFER, content=body, headers={"Content-Type": "multipart/form-data; boundary=a"})
    assert answer.status_code == 200


async def test_the_limit_on_pixels_is_that_of_the_configuration(tmp_path: Any) -> None:
    limits = {"max_pixels": 64 * 48 - 1}
    async with open_house(family=ToldFamily(), models=models_folder(tmp_path, "boxes"), inference=limits) as small:
        assert "3,072" in assert_error(await post(small, JPEG), 413)["detail"]
