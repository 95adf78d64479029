"""Uploads: refused while they arrive, bounded in number and time, and freed when their client leaves."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import pytest

from tests.api.families import ToldFamily, models_folder
from tests.api.house import House, assert_error, open_house
from tests.eventually import eventually
from tests.fakes import picture

INFER = "/api/v1/infer"
JPEG = cv2.imencode(".jpg", picture(7, size=(48, 64)))[1].tobytes()
MB = 1_000_000
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
TAIL = b"\r\n--x--\r\n"
FORM = HEAD + JPEG + TAIL


@asynccontextmanager
async def opened(folder: Path, *names: str, **sections: Any) -> AsyncIterator[tuple[House, ToldFamily]]:
    told = ToldFamily()
    try:
        async with open_house(family=told, models=models_folder(folder, *(names or ("boxes",))), **sections) as house:
            yield house, told
    finally:
        told.gate.set()


@asynccontextmanager
async def connected(house: House) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def head(*lines: str, path: str = INFER) -> bytes:
    kind = "Content-Type: multipart/form-data; boundary=x"
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", kind, *lines, "", ""]).encode()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    top = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in top[1:] if line)}
    return int(top[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def outcomes(house: House) -> dict[str, float]:
    lines = (await house.get("/metrics")).text.splitlines()
    found = [line for line in lines if line.startswith("healthd_infer_requests_total{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in found}


def waiting(house: House) -> int:
    return house.services.uploads.open


async def assert_works(house: House) -> None:
    assert (await house.client.post(INFER, files={"file": ("a.jpg", JPEG)})).status_code == 200


# -- too large ---------------------------------------------------------------------------------------------------------


async def test_a_size_that_is_announced_is_refused_before_a_byte_of_it_is_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as (house, _), connected(house) as (reader, writer):
        writer.write(head(f"Content-Length: {50 * MB}"))
        status, headers, body = await read_answer(reader)
        assert (status, headers["connection"]) == (413, "close")
        assert b"inference.max_upload_bytes" in body
        assert waiting(house) == 0
        await assert_works(house)


async def test_a_client_that_asks_before_it_sends_is_told_not_to(tmp_path: Path) -> None:
    async with opened(tmp_path) as (house, _), connected(house) as (reader, writer):
        begun = time.perf_counter()
        writer.write(head(f"Content-Length: {50 * MB}", "Expect: 100-continue"))
        status, _, _ = await read_answer(reader)
        assert status == 413
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert time.perf_counter() - begun < 1
    async with opened(tmp_path) as (house, _), connected(house) as (reader, writer):
        writer.write(head(f"Content-Length: {len(FORM)}", "Expect: 100-continue"))
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(FORM)
        assert (await read_answer(reader))[0] == 200


async def test_a_size_that_is_not_announced_is_refused_while_it_arrives(tmp_path: Path) -> None:
    async with opened(tmp_path, inference={"max_upload_bytes": MB}) as (house, _), connected(house) as (reader, writer):
        writer.write(head("Transfer-Encoding: chunked"))
        sent = 0
        answer = asyncio.create_task(read_answer(reader))
        chunk = b"%x\r\n%b\r\n" % (50_000, b"\xff" * 50_000)
        writer.write(b"%x\r\n%b\r\n" % (len(HEAD), HEAD))
        while not answer.done() and sent < 50 * MB:
            writer.write(chunk)
            sent += 50_000
            await writer.drain()
            await asyncio.sleep(0)
        status, headers, _ = await answer
        assert (status, headers["connection"]) == (413, "close")
        assert sent < 10 * MB
        assert waiting(house) == 0


@pytest.mark.parametrize("announced", [True, False])
async def test_an_ordinary_client_reads_why_although_it_has_not_sent_everything(
    tmp_path: Path,
    *,
    announced: bool,
) -> None:
    async with opened(tmp_path) as (house, _):

        async def pieces() -> AsyncIterator[bytes]:
            yield HEAD
            for _ in range(50):
                yield b"\xff" * MB
            yield TAIL

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        if announced:
            headers["Content-Length"] = str(len(HEAD) + 50 * MB + len(TAIL))
        for _ in range(2):
            answer = await house.client.post(INFER, content=pieces(), headers=headers)
            assert "max_upload_bytes" in assert_error(answer, 413)["detail"]
        await assert_works(house)
        assert (await outcomes(house))["too_large"] == 2


def test_a_blocking_client_reads_why_too(tmp_path: Path) -> None:
    """One that reads nothing before it has sent everything, as most do."""

    def send(url: str) -> bytes:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(head(f"Content-Length: {50 * MB}") + HEAD + b"\xff" * (50 * MB - len(HEAD)))
            return client.recv(100)

    async def run() -> bytes:
        async with opened(tmp_path) as (house, _):
            return await asyncio.to_thread(send, house.url)

    assert asyncio.run(run()).startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_never_ends_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("healthd.api.unread.LINGER_SECONDS", 0.2)
    async with opened(tmp_path) as (house, _), connected(house) as (reader, writer):
        begun = time.perf_counter()
        writer.write(head("Transfer-Encoding: chunked", path="/api/v1/auth/login"))
        with pytest.raises((ConnectionError, OSError)):
            while time.perf_counter() - begun < 10:
                writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
                await writer.drain()
        assert time.perf_counter() - begun < 8
        assert reader is not None
        await assert_works(house)


async def test_a_picture_of_exactly_the_limit_is_taken(tmp_path: Path) -> None:
    async with opened(tmp_path, inference={"max_upload_bytes": 2000}) as (house, _):
        for content, status in ((JPEG + b"\0" * (2000 - len(JPEG)), 200), (JPEG + b"\0" * (2001 - len(JPEG)), 413)):
            assert (await house.client.post(INFER, files={"file": ("a.jpg", content)})).status_code == status
            bare = await house.client.post(INFER, content=content, headers={"Content-Type": "image/jpeg"})
            assert bare.status_code == status


async def test_what_is_refused_with_its_body_unread_does_not_hurt_the_next_request(tmp_path: Path) -> None:
    """Refused by its query: healthd answers before it has read the picture, and the connection may be used again."""
    small, large = FORM, HEAD + b"\xff" * 300_000 + TAIL
    async with opened(tmp_path) as (house, _):
        for body, kept in ((small, True), (large, False)):
            async with connected(house) as (reader, writer):
                wrong = head(f"Content-Length: {len(body)}", path=f"{INFER}?conf=7") + body
                writer.write(wrong + head(f"Content-Length: {len(FORM)}") + FORM)
                status, headers, _ = await read_answer(reader)
                assert status == 422
                assert headers.get("connection") == (None if kept else "close")
                if kept:
                    assert (await read_answer(reader))[0] == 200
                else:
                    assert await asyncio.wait_for(reader.read(), 5) == b""


# -- too slow, too many ------------------------------------------------------------------------------------------------


async def test_a_picture_that_does_not_arrive_in_time_is_408(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, inference={"upload_timeout_seconds": 0.2}) as (house, _),
        connected(house) as (reader, writer),
    ):
        begun = time.perf_counter()
        writer.write(head(f"Content-Length: {len(FORM)}") + FORM[:100])
        await eventually(lambda: waiting(house))
        status, _, body = await read_answer(reader)
        assert status == 408
        assert b"upload_timeout_seconds" in body
        assert time.perf_counter() - begun < 3
        assert waiting(house) == 0
        assert (await outcomes(house))["timeout"] == 1


async def test_only_so_many_uploads_are_open_and_the_next_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with opened(tmp_path, inference={"max_uploads": 2}) as (house, _):
        async with connected(house) as (_, first), connected(house) as (_, second):
            for writer in (first, second):
                writer.write(head(f"Content-Length: {len(FORM)}") + FORM[:100])
            await eventually(lambda: waiting(house) == 2)
            answer = await house.client.post(INFER, files={"file": ("a.jpg", JPEG)})
            assert "max_uploads" in assert_error(answer, 503)["detail"]
            assert int(answer.headers["retry-after"]) >= 1
        await eventually(lambda: waiting(house) == 0)
        await assert_works(house)


async def test_one_address_does_not_take_the_places_of_all(tmp_path: Path) -> None:
    async with opened(tmp_path, inference={"max_uploads_per_client": 2}) as (house, _):
        async with connected(house) as (_, first), connected(house) as (_, second):
            for writer in (first, second):
                writer.write(head(f"Content-Length: {len(FORM)}") + FORM[:100])
            await eventually(lambda: waiting(house) == 2)
            for path in (INFER, "/api/v1/detect"):
                answer = await house.client.post(path, files={"file": ("a.jpg", JPEG)})
                assert "max_uploads_per_client" in assert_error(answer, 503)["detail"]
                assert int(answer.headers["retry-after"]) >= 1
            other = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
            async with httpx.AsyncClient(base_url=house.url, transport=other, timeout=10) as client:
                assert (await client.post(INFER, files={"file": ("a.jpg", JPEG)})).status_code == 200
        await eventually(lambda: waiting(house) == 0)
        await assert_works(house)


# -- clients that leave ------------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_while_it_sends_is_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path) as (house, told):
        async with connected(house) as (_, writer):
            writer.write(head(f"Content-Length: {len(FORM)}") + FORM[:100])
            await eventually(lambda: waiting(house) == 1)
        await eventually(lambda: waiting(house) == 0)
        assert (await outcomes(house))["gone"] == 1
        assert not told.seen


@contextlib.contextmanager
def leaving(house: House, body: bytes = FORM) -> Iterator[socket.socket]:
    host, port = house.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head(f"Content-Length: {len(body)}") + body)
        yield client


async def test_a_client_that_leaves_in_the_queue_or_at_the_model_frees_its_place_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path, "gated") as (house, told):
        with leaving(house), leaving(house):
            await eventually(lambda: told.running == 1 and waiting(house) == 2)
            waits = asyncio.create_task(house.client.post(INFER, files={"file": ("a.jpg", JPEG)}))
            await eventually(lambda: waiting(house) == 3)
        begun = time.perf_counter()
        await eventually(lambda: waiting(house) == 1)
        assert time.perf_counter() - begun < 1
        assert (await outcomes(house))["gone"] == 2
        told.gate.set()
        assert (await waits).status_code == 200
        assert len(told.seen) == 2  # whoever left in the queue was never predicted for
        await eventually(lambda: house.services.models.loaded()[0].users == 0)


async def test_a_client_that_leaves_frees_its_place_though_it_has_sent_another_request(tmp_path: Path) -> None:
    async with opened(tmp_path, "gated") as (house, told):
        with leaving(house) as client:
            await eventually(lambda: told.running == 1)
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.sleep(0.05)
        await eventually(lambda: waiting(house) == 0, seconds=3)
        told.gate.set()


# -- a crowd -----------------------------------------------------------------------------------------------------------


def waiting_at_model(house: House) -> int:
    return house.services.models.loaded()[0].waiting


async def test_of_two_hundred_at_once_the_queue_takes_what_it_holds_and_the_rest_is_told_so_soon(
    tmp_path: Path,
) -> None:
    models = {**models_folder(tmp_path, "gated"), "queue_timeout_seconds": 60}
    told = ToldFamily()
    async with open_house(
        family=told, models=models, inference={"max_uploads": 200, "max_uploads_per_client": 200}
    ) as house:
        assert (await house.client.post("/api/v1/models/gated.told/load")).status_code == 200

        async def ask() -> httpx.Response:
            return await house.client.post(INFER, files={"file": ("a.jpg", JPEG)})

        begun = time.perf_counter()
        asked = [asyncio.create_task(ask()) for _ in range(200)]
        await eventually(lambda: sum(task.done() for task in asked) == 183, seconds=20)
        assert time.perf_counter() - begun < 20, "nobody waited for the deadline of the queue"
        await eventually(lambda: waiting_at_model(house) == 16)  # the last ones are being decoded
        assert (await house.get("/api/v1/models/gated.told")).json()["waiting"] == 16
        assert (await house.get("/healthz")).status_code == 200
        told.gate.set()
        answers = await asyncio.gather(*asked)
        assert sorted(answer.status_code for answer in answers) == [200] * 17 + [503] * 183
        for answer in answers:
            if answer.status_code == 503:
                assert "queue_size" in assert_error(answer, 503)["detail"]
                assert int(answer.headers["retry-after"]) >= 1
        assert (told.most, len(told.seen)) == (1, 17)
        await assert_works(house)
        assert waiting(house) == 0


async def test_who_waits_too_long_for_a_turn_is_told_so(tmp_path: Path) -> None:
    models = {**models_folder(tmp_path, "gated"), "queue_timeout_seconds": 0.2}
    told = ToldFamily()
    async with open_house(family=told, models=models) as house:
        first = asyncio.create_task(house.client.post(INFER, files={"file": ("a.jpg", JPEG)}))
        await eventually(lambda: told.running == 1)
        begun = time.perf_counter()
        answer = await house.client.post(INFER, files={"file": ("a.jpg", JPEG)})
        assert "queue_timeout_seconds" in assert_error(answer, 503)["detail"]
        assert 0.15 < time.perf_counter() - begun < 2
        told.gate.set()
        assert (await first).status_code == 200
