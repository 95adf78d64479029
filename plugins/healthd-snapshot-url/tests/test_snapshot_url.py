"""A camera of single JPEGs: fetched at its interval, never old, and what is wrong with it is said in words."""

import gc
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from healthd.cameras.source import Read
from healthd.errors import CameraError, SettingsError
from healthd.frames import CapturedImage, JpegImage
from healthd.redact import SourceUrl
from healthd_snapshot_url.source import SnapshotOptions, SnapshotUrl


def source_of(camera: Any, *, url: str | None = None, stall: float = 1.0, **options: Any) -> SnapshotUrl:
    source = SnapshotUrl(
        "cam",
        url=SourceUrl(url or camera.url),
        options=SnapshotOptions.model_validate({"interval_seconds": 0.02, **options}),
    )
    source.open_timeout_seconds = source.stall_timeout_seconds = stall
    return source


@contextmanager
def opened(camera: Any, **options: Any) -> Iterator[Read]:
    with source_of(camera, **options).camera() as read:
        yield read


def data(captured: Any) -> bytes:
    assert isinstance(captured, CapturedImage)
    assert isinstance(captured.image, JpegImage)
    return captured.image.data


def http_date(seconds_ago: float) -> str:
    return format_datetime(datetime.now(UTC) - timedelta(seconds=seconds_ago), usegmt=True)


def test_each_picture_is_the_cameras_own_bytes_over_one_connection(camera: Any) -> None:
    with opened(camera) as read:
        assert [data(read()) for _ in range(5)] == [camera.jpeg(number) for number in range(1, 6)]
    assert camera.connections == 1
    assert "if-none-match" not in camera.requests[-1].headers


def test_pictures_come_at_their_interval(camera: Any) -> None:
    with opened(camera, interval_seconds=0.1) as read:
        begun = time.monotonic()
        for _ in range(6):
            captured = read()
        took = time.monotonic() - begun
    assert 0.45 < took < 3
    assert isinstance(captured, CapturedImage)
    assert captured.info is not None
    assert captured.info.fps == 10


@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
def test_it_logs_in_by_what_the_camera_asks_for_and_then_without_being_asked(camera: Any, scheme: str) -> None:
    camera.login = (scheme, "admin", "p@ss/word")
    with opened(camera, url=camera.url.replace("//", "//admin:p%40ss%2Fword@")) as read:
        for _ in range(3):
            read()
    assert len(camera.requests) == 3
    assert camera.refused <= 2


@pytest.mark.parametrize(
    ("user_info", "why"), [("", "wants a user name"), ("admin:wrong@", "refuses the user name or password")]
)
def test_without_the_right_password_it_fails_for_good(camera: Any, user_info: str, why: str) -> None:
    """A password that is tried again and again locks the account."""
    camera.login = ("Digest", "admin", "right")
    with pytest.raises(SettingsError, match=why), opened(camera, url=camera.url.replace("//", f"//{user_info}")):
        pass


def test_an_unchanged_picture_is_no_new_one(camera: Any) -> None:
    """304 is no picture: the camera becomes stalled, and the next session does not show the old one as new."""
    tag = '"one"'
    camera.answers = lambda number, request: (
        camera.answer(b"", "304 Not Modified")
        if request.headers.get("if-none-match") == tag
        else camera.answer(camera.jpeg(number), ETag=tag)
    )
    source = source_of(camera, stall=0.6)
    with source.camera() as read:
        read()
        begun = time.monotonic()
        with pytest.raises(CameraError, match=r"has not changed for \d\.\d s \(304"):
            read()
        assert 0.4 < time.monotonic() - begun < 3
    with source.camera() as read:
        tag = '"two"'
        assert data(read()) == camera.jpeg(len(camera.requests))
    assert camera.connections == 2


@pytest.mark.parametrize(
    ("headers", "options", "shown"),
    [
        ({"Age": "40"}, {}, False),
        ({"Date": http_date(0), "Last-Modified": http_date(40)}, {}, False),
        ({"Date": http_date(0), "Last-Modified": http_date(40)}, {"max_age_seconds": 60}, True),
        ({"Date": http_date(0), "Last-Modified": http_date(40)}, {"max_age_seconds": 0}, True),
        ({"Date": http_date(3600), "Last-Modified": http_date(3600)}, {}, True),  # its clock is wrong, not its picture
        ({"Last-Modified": http_date(40)}, {}, True),
        ({"Date": "yesterday", "Last-Modified": "0"}, {}, True),
    ],
)
def test_a_picture_that_its_server_calls_old_is_not_shown(
    camera: Any,
    headers: dict[str, str],
    options: dict[str, Any],
    shown: bool,  # noqa: FBT001
) -> None:
    camera.answers = lambda number, _: camera.answer(camera.jpeg(number), **headers)
    with opened(camera, stall=0.5, **options) as read:
        if shown:
            read()
        else:
            with pytest.raises(CameraError, match="newest picture is 40 s old"):
                read()


def test_one_broken_picture_is_asked_for_again_and_a_second_one_ends_the_session(camera: Any) -> None:
    whole = camera.jpeg(1)
    camera.answers = lambda number, _: camera.answer(whole[:-30] if number in {2, 4, 5} else whole)
    with opened(camera) as read:
        read()
        assert data(read()) == whole
        with pytest.raises(CameraError, match="cut short: its end is missing"):
            read()


Make = Callable[[Any], object]


def slow(camera: Any, *, after: bytes = b"") -> Iterator[bytes]:
    return camera.drip(after + camera.answer(camera.jpeg(1)), pause=0.05)


WRONG: dict[str, tuple[Make, str]] = {
    "page": (lambda c: c.answer(b"<html>", kind="text/html; charset=utf-8"), "a web page"),
    "not found": (lambda c: c.answer(b"?", "404 Not Found"), r"no such picture \(404\)"),
    "busy": (lambda c: c.answer(b"", "503 Service Unavailable"), "too busy"),
    "error": (lambda c: c.answer(b"", "500 sent-by-the-camera"), "status 500$"),
    "nothing": (lambda c: c.answer(b"", "204 No Content"), "status 204"),
    "unasked 304": (lambda c: c.answer(b"", "304 Not Modified"), "status 304"),
    "png": (lambda c: c.answer(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40)), "broken picture|not a plain JPEG"),
    "empty": (lambda c: c.answer(b""), "0 bytes"),
    "cut off": (lambda c: c.answer(c.jpeg(1)[:300]), "cut short"),
    "no HTTP": (lambda c: b"\xff\xd8\xff\xe0 whatever\r\n\r\n", "sent no HTTP"),
    "closes": (lambda _: None, "closed the connection"),
    "short": (
        lambda c: iter([c.answer(c.jpeg(1), length=9000), c.hang_up]),
        "before its picture",
    ),
    "too long": (lambda c: c.answer(c.jpeg(1), length=11_000), "more than 10,000 bytes"),
    "endless": (lambda c: c.endless(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n"), "more than 10,000 bytes"),
    "endless refusal": (lambda c: c.endless(b"HTTP/1.1 404 Not Found\r\n\r\n"), r"no such picture \(404\)"),
    "endless head": (lambda c: c.endless(b"HTTP/1.1 200 OK\r\nX: "), "sent no HTTP"),
    "slow": (slow, r"whole picture within \d\.\d s"),
    "slow head": (lambda c: slow(c, after=b"HTTP/1.1 200 OK\r\n"), r"whole picture within \d\.\d s"),
    "silent": (lambda c: c.drip(b"H", pause=3), r"whole picture within \d\.\d s"),
    "odd digest": (
        lambda c: c.answer(b"", "401 No", WWW_Authenticate='Digest realm="x", nonce="y", algorithm=ROT13'),
        "not understood",
    ),
    "gzip": (lambda c: c.answer(c.jpeg(1), Content_Encoding="gzip"), "compressed"),
    "elsewhere": (lambda c: c.answer(b"", "302 Found", Location="http://localhost:9/"), "another host"),
    "downgrade": (lambda c: c.answer(b"", "302 Found", Location="ftp://127.0.0.1/x"), "another host"),
    "round": (lambda c: c.answer(b"", "302 Found", Location="/capture"), "more than 3 times"),
    "nowhere": (lambda c: c.answer(b"", "302 Found", Location="http://[::1/"), "not understood"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_words_and_in_time(camera: Any, name: str) -> None:
    make, why = WRONG[name]
    camera.answers = lambda _number, _request: make(camera)
    begun = time.monotonic()
    with (
        pytest.raises(CameraError, match=why),
        opened(camera, url=camera.url.replace("//", "//u:hidden12@") + "?token=hidden34", stall=0.5, max_bytes=10_000),
    ):
        pass
    assert time.monotonic() - begun < 3, "a drip that is waited for takes 15 s"


def test_an_endless_stream_given_by_mistake_names_the_remedy(camera: Any) -> None:
    camera.answers = lambda _number, _request: camera.answer(
        b"--x", kind="multipart/x-mixed-replace; boundary=x", length=10**9
    )
    with pytest.raises(SettingsError, match="plugin that opens streams, such as `yolo-detect`"), opened(camera):
        pass


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        ("rtsp://cam.lan/live", {}, "needs `http://`"),
        ("clips/a.mp4", {}, "needs `http://`"),
        ("http://cam.lan:99999/", {}, "cannot be read|not certain"),
        ("http://cam.lan/", {"interval_seconds": 2}, "it may be 0.75: raise that"),
    ],
)
def test_what_can_never_work_is_a_wrong_setting(camera: Any, url: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why), opened(camera, url=url, **options):
        pass


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/", "connection refused: nothing listens on port 1 of 127.0.0.1"),
        ("http://no-such-camera.invalid/", "the host name no-such-camera.invalid is not known"),
        ("https{}", "does not speak TLS"),
    ],
)
def test_a_camera_that_cannot_be_reached(camera: Any, url: str, why: str) -> None:
    camera.answers = lambda _number, _request: camera.answer(b"")
    with pytest.raises(CameraError, match=why), opened(camera, url=url.format(camera.url[4:])):
        pass


@pytest.fixture
def signed_by_itself(camera: Any, tmp_path: Path) -> Any:
    """A camera with a certificate of its own making."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine to make a certificate with")
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    what = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=camera", "-days", "2"]
    name = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([openssl, "req", "-x509", *what, *name, *files], check=True, capture_output=True)
    camera.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    camera.tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    camera.url = camera.url.replace("http:", "https:")
    return camera


def test_a_camera_that_signs_its_own_certificate_is_not_trusted_unless_told_to(
    signed_by_itself: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = signed_by_itself
    with pytest.raises(CameraError, match="certificate is not trusted: set `verify_tls = false`"), opened(camera):
        pass
    with opened(camera, verify_tls=False) as read:
        assert data(read()) == camera.jpeg(1)
        assert data(read()) == camera.jpeg(2)
    assert camera.connections == 2
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    with opened(camera) as read:
        read()
    camera.answers = lambda _number, _request: camera.drip(camera.answer(camera.jpeg(1)), pause=0.05)
    with pytest.raises(CameraError, match="whole picture within"), opened(camera, stall=0.5):
        pass


def test_a_redirect_to_the_camera_itself_is_followed(camera: Any) -> None:
    camera.answers = lambda number, request: (
        camera.answer(camera.jpeg(1))
        if request.path == "/now.jpg"
        else camera.answer(b"", "302 Found", Location="/now.jpg")
    )
    with opened(camera) as read:
        assert data(read()) == camera.jpeg(1)


def test_a_connection_that_the_camera_closes_after_each_picture_costs_nothing(camera: Any) -> None:
    camera.answers = lambda number, _: iter([camera.answer(camera.jpeg(number), Connection="close"), camera.hang_up])
    with opened(camera) as read:
        assert [data(read()) for _ in range(4)] == [camera.jpeg(number) for number in range(1, 5)]


def test_nothing_is_left_behind(camera: Any) -> None:
    source, process = source_of(camera), psutil.Process(os.getpid())

    def session() -> None:
        with source.camera() as read:
            read()
        gc.collect()

    session()
    time.sleep(0.1)
    sockets, threads = process.num_fds() - len(camera.open), threading.active_count() - len(camera.open)
    for _ in range(10):
        session()
    time.sleep(0.1)
    assert process.num_fds() - len(camera.open) <= sockets
    assert threading.active_count() - len(camera.open) <= threads
