"""Errors: one shape for all, never an image, a traceback or a secret."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import structlog
from litestar.exceptions import ImproperlyConfiguredException

from healthd.api.answer_headers import OTHER
from healthd.api.errors import LONGEST_TEXT
from healthd.errors import CameraError, ModelError, SettingsError
from healthd.redact import SourceUrl
from tests.api.house import Feed, House, assert_error, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, picture

CAMERAS = "/api/v1/cameras/gym"
URL = SourceUrl("rtsp://viewer:hunter2hunter2@cam.lan/1?token=abcdef123456")
"""Its being made is enough: from now on nothing may show what is in it."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gym() -> AsyncIterator[House]:
    """A house for the tests that change nothing."""
    async with open_house({"gym": FakeSource()}) as house:
        yield house


@pytest.mark.parametrize(
    ("raised", "status", "detail"),
    [
        (ZeroDivisionError("oops rtsp://viewer:hunter2hunter2@cam.lan"), 500, "internal error"),
        (KeyError("hunter2hunter2"), 500, "internal error"),
        (TimeoutError(), 500, "internal error"),
        (ImproperlyConfiguredException("hunter2hunter2"), 500, "internal error"),
        (ModelError("no memory for rtsp://viewer:hunter2hunter2@cam.lan"), 500, "no memory for rtsp://***@cam.lan"),
        (CameraError("a frame cannot be encoded"), 500, "a frame cannot be encoded"),
        (SettingsError("no such class: ***"), 422, "no such class: ***"),
    ],
)
async def test_a_handler_that_raises_is_an_error_in_json_and_the_next_request_is_answered(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, status: int, detail: str
) -> None:
    async with open_house({"gym": FakeSource()}) as house:
        await eventually(lambda: house.runner().has_frame)

        def explode(**_: object) -> object:
            raise raised

        with monkeypatch.context() as patched, structlog.testing.capture_logs() as logs:
            patched.setattr(house.runner(), "picture", explode)
            answer = await house.get(f"{CAMERAS}/snapshot", headers={"Accept": "text/html"})
        body = assert_error(answer, status)
        assert body["detail"] == detail
        for secret in ("hunter2", "oops"):
            assert secret not in answer.text
        assert [line["event"] for line in logs if line["event"] == "request_bug"] == (
            ["request_bug"] if detail == "internal error" else []
        )
        assert (await house.get(f"{CAMERAS}/snapshot")).status_code == 200


async def test_a_frame_that_cannot_be_encoded_is_an_error_in_json() -> None:
    async with open_house({"gym": Feed()}, cameras={"gym": {"stall_timeout_seconds": 60}}) as house:
        await house.show(picture(1, size=(1, 70_000)))
        body = assert_error(await house.get(f"{CAMERAS}/snapshot"), 500)
        assert "70000x1" in body["detail"]
        assert (await house.get(f"{CAMERAS}/snapshot?width=1000")).status_code == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/v1", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v2/cameras", 404),
        ("GET", "/static/nothing.js", 404),
        ("GET", "/static/..%2f..%2fpyproject.toml", 404),
        ("GET", "/static/%2e%2e/app.py", 404),
        ("GET", "/favicon.ico", 404),
        ("POST", "/healthz", 405),
        ("DELETE", "/api/v1/cameras", 405),
        ("PUT", CAMERAS, 405),
        ("PATCH", f"{CAMERAS}/snapshot", 405),
        ("TRACE", "/healthz", 405),
    ],
)
async def test_what_is_not_there_is_an_error_of_the_same_shape(gym: House, method: str, path: str, status: int) -> None:
    answer = await gym.client.request(method, path)
    assert_error(answer, status)
    assert answer.headers["x-content-type-options"] == "nosniff"
    if status == 405:
        assert "allow" in answer.headers


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "request_",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: nine\r\n\r\n",
        b"GET " + b"/" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/cameras/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_no_http_hurts_nobody_else(gym: House, request_: bytes) -> None:
    host, port = gym.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request_)
    answer = await asyncio.wait_for(reader.read(10_000), 10)
    assert b"Traceback" not in answer
    writer.close()
    assert (await gym.get("/healthz")).status_code == 200


async def test_every_answer_carries_the_headers_that_keep_browsers_from_guessing() -> None:
    async with open_house({"gym": FakeSource()}) as house:
        await eventually(lambda: house.runner().has_frame)
        for path in ("/healthz", "/", "/static/wall.js", "/nothing", "/api/v1/cameras", f"{CAMERAS}/snapshot"):
            headers = (await house.get(path)).headers
            assert headers.get_list("x-content-type-options") == ["nosniff"], path
            assert headers.get_list("referrer-policy") == ["no-referrer"], path


@pytest.mark.asyncio(loop_scope="module")
async def test_errors_are_kept_by_no_cache(gym: House) -> None:
    for path in ("/nothing", "/api/v1/cameras/nobody", f"{CAMERAS}/snapshot?q=0"):
        assert (await gym.get(path)).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"BREW /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        b"POST /api/v1/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: few\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_no_http_is_told_so_and_shown_the_door(gym: House, sent: bytes) -> None:
    host, port = gym.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n")
    for name, value in OTHER:
        assert head.count(b"\r\n" + name + b": " + value) == 1
    assert b"\r\nconnection: close" in head
    assert set(json.loads(body)) == {"status_code", "detail", "extra"}
    assert json.loads(body)["status_code"] == 400


@pytest.mark.parametrize("path", ["/api/v1/events/stream?topic=", "/api/v1/logs?level="])
async def test_what_was_sent_is_quoted_in_part_and_no_secret_is_halved(path: str) -> None:
    async with open_house({"gym": FakeSource()}) as house:
        for length in (10, *range(LONGEST_TEXT - 120, LONGEST_TEXT + 20, 7), 30_000):
            sent = f"{length * 'a'} hunter2hunter2 rtsp://joe:Qz7Kx9@cam/ {'a' * 20_000}"
            answer = await house.get(path + sent)
            assert_error(answer, 422)
            assert len(answer.content) < 4 * LONGEST_TEXT
            assert [half for half in ("hunt", "Qz7") if half in answer.text] == []


HOSTILE = (
    b'{"key": "\xff"}',
    b'{"\xff": 1}',
    b"[" * 60_000,
    b'{"a":' * 30_000,
    b"\xef\xbb\xbf{}",
    b'{"key": "\\ud800"}',
)
"""Bodies that are no JSON in ways of their own."""


@pytest.mark.parametrize("path", ["auth/login", "cameras/gym", "jobs"])
async def test_a_body_that_is_no_json_is_a_mistake_of_whoever_sent_it(path: str) -> None:
    async with open_house({"gym": FakeSource()}, models={"default": "a"}) as house:
        for body in HOSTILE:
            method = "PATCH" if path.startswith("cameras") else "POST"
            answer = await house.client.request(
                method, f"/api/v1/{path}", content=body, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code in {400, 422}, (body[:20], answer.text)
        for every in ("1" * 5000, "\u0663", "-1", "1.0", ""):
            answer = await house.client.post("/api/v1/jobs", json={"path": "a", "every": every})
            assert_error(answer, 422)
