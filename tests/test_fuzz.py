"""Our own parsers on bytes and texts of anybody: what comes out is right, or an error of ours, and never a secret."""

import io
import json
import socket
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from litestar.exceptions import ClientException, HTTPException
from structlog.testing import capture_logs

from healthd.api.job_forms import Form, _json
from healthd.api.socket_messages import BadMessage, Picture, Wishes, read_message
from healthd.api.uploads import _Form
from healthd.cameras.isolated_wire import Info, Opened, Taken
from healthd.channel import (
    Channel,
    ChildBug,
    Failure,
    Gone,
    packed,
    packed_failure,
    packed_reply,
    raised,
    unpacked_reply,
)
from healthd.child_logs import ChildLog
from healthd.errors import CameraError, HealthdError, PictureError, PictureTooLarge
from healthd.frames import JpegImage
from healthd.models.isolated_words import Answers, Facts
from healthd.picture_headers import bare_png, exif_orientation, read_header
from healthd.redact import SCRUBBER
from healthd.settings import ConfigError, load_settings
from healthd.settings_view import shown_settings
from tests.fuzzing import fuzzed, no_secrets_left

PIXELS = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
SHORT_WEBP = b"RIFF\1\0\0\0WEBPVP8X" + bytes(13)
PICTURES = {kind: cv2.imencode(f".{kind}", PIXELS)[1].tobytes() for kind in ("jpg", "png", "webp", "bmp")}


@st.composite
def changed(draw: st.DrawFn, original: bytes) -> bytes:
    """Bytes that begin as something right, with some cut out, put in or turned."""
    data = bytearray(original)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 12))] = draw(st.binary(max_size=12))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


# -- pictures ----------------------------------------------------------------------------------------------------------


@given(st.one_of(st.binary(max_size=300), *(changed(data) for data in PICTURES.values())))
@example(SHORT_WEBP)
@fuzzed(100)
def test_a_header_is_read_or_refused(data: bytes) -> None:
    with suppress(PictureError):
        header = read_header(data)
        assert header.width > 0
        assert header.height > 0
        assert header.orientation in range(1, 9)
        assert 0 <= header.scan_at <= len(data)
    with suppress(PictureError):
        assert bare_png(data).startswith(b"\x89PNG")
    assert exif_orientation(data) in range(1, 9)


@given(changed(PICTURES["jpg"]))
@fuzzed(100)
def test_what_a_camera_sends_as_a_jpeg_is_one_to_its_end_or_an_error_of_that_picture(data: bytes) -> None:
    with suppress(CameraError):
        image = JpegImage(data)
        assert b"\xff\xd9" in data[image._scan_at :]
        assert image.pixels().shape == (image.height, image.width, 3)


@pytest.mark.parametrize("entries", [0, 65535])
def test_a_block_of_exif_that_lies_costs_nothing(entries: int) -> None:
    assert exif_orientation(b"II*\0" + struct.pack("<IH", 8, entries) + bytes(200_000)) == 1


# -- what children say -------------------------------------------------------------------------------------------------

REPLIES = (
    packed_reply(Taken("pixels", 9, 1, 3, captured=True, info=Info(640, 480, 25.0, "h264"))),
    packed_reply(Opened(two_steps=True)),
    packed_failure(ValueError("what")),
    packed_failure(CameraError("gone")),
)
KINDS = (Taken, Opened, Answers, Facts, object)
DEEP = (b"\0" + b"\x91" * 100_000, b"\1\x81\xa1x" + b"\x91" * 100_000, b"\0\x81\xa1\xff\x01", b"\1\x81\xa4kind\xa1\xff")


@given(st.one_of(st.binary(max_size=200), st.sampled_from(DEEP), *map(changed, REPLIES)), st.sampled_from(KINDS))
@fuzzed(150)
def test_what_is_no_reply_ends_the_child_and_nothing_else(message: bytes, kind: type) -> None:
    with suppress(Gone, HealthdError, ChildBug):
        assert isinstance(unpacked_reply(message, kind), kind)


@given(st.text(max_size=120), st.text(max_size=40), st.booleans(), st.integers(-(2**63), 2**63 - 1))
@fuzzed(100)
def test_every_failure_that_is_told_can_be_raised(kind: str, text: str, ours: bool, seconds: int) -> None:  # noqa: FBT001
    exc = raised(Failure(kind, text, sorted=ours, traceback=text, retry_after_seconds=seconds))
    assert isinstance(exc, Exception)
    assert str(exc) == text


@given(st.binary(max_size=100))
@fuzzed(100)
def test_a_channel_gives_a_message_or_says_that_nobody_is_there(data: bytes) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        with suppress(Gone):
            assert data[4:] == Channel(near).receive(timeout=5)


EVENT = b"e" + json.dumps({"event": "x", "level": "info", "logger": "a.b", "n": [1, {"b": None}]}).encode()
SECRET = b"s" + packed(("hunter22", "a", "b"))
HOSTILE = (
    b"e" + b"[" * 100_000,
    b'e{"event": "\\ud800", "self": 1, "level": "notset", "logger": "\\u0000"}',
    b'e{"event": 1e999, "exc_info": true, "args": [], "_name": 1, "method_name": 2}',
    b"s" + b"\x93" * 50_000,
)


@given(st.one_of(st.binary(max_size=100), st.sampled_from(HOSTILE), changed(EVENT), changed(SECRET)))
@fuzzed(150)
def test_what_a_child_logs_is_logged_or_left_out(message: bytes) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far, no_secrets_left(), capture_logs():
        log = ChildLog(-1, near, {"camera": "gym"}, Counter())
        far.send(message or b"e")
        assert log.read_logged(), "it is read on"


# -- what clients say --------------------------------------------------------------------------------------------------

SAID = json.dumps({"type": "picture", "frame_id": 3, "image": "aGk=", "conf": 0.5, "model_id": "a"})
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
FIELDS = st.sampled_from(["type", "model_id", "image", "frame_id", "conf", "iou", "max_det", "text_queries", "device"])


@given(
    st.one_of(
        st.text(max_size=80),
        changed(SAID.encode()).map(lambda data: data.decode("utf-8", "surrogateescape")),
        st.dictionaries(FIELDS, ANY_JSON, max_size=5).map(json.dumps),
    )
)
@fuzzed(150)
def test_a_message_over_a_socket_is_a_picture_a_ping_or_a_mistake(text: str) -> None:
    try:
        said = read_message(text, number=1, otherwise=Wishes())
    except BadMessage as exc:
        msgspec.json.encode([exc.status_code, str(exc), exc.problems])
        return
    if isinstance(said, Picture):
        with suppress(PictureError):
            said.file()


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\nabc\r\n--b--\r\n"
)


@given(changed(FORM), st.integers(1, 40), st.sampled_from(["b", "é", "b b", '"', "x" * 200]))
@fuzzed(100)
def test_a_form_is_read_or_refused_however_it_is_cut(body: bytes, piece: int, boundary: str) -> None:
    with suppress(HTTPException, PictureTooLarge):
        form = _Form(boundary, 1000)
        for at in range(0, len(body), piece):
            form.feed(body[at : at + piece])
        sent = form.sent()
        assert all(isinstance(value, str) for _, value in sent.fields)


@given(
    st.one_of(
        st.binary(max_size=60),
        changed(b'{"path": "a.mp4", "every": 2}'),
        ANY_JSON.map(lambda value: json.dumps({"path": value}).encode()),
        st.sampled_from([b'{"a":' * 50_000, b'{"every": 1e300}', b'{"\xff": 1}', b'{"a": "\xff"}']),
    )
)
@fuzzed(100)
def test_the_json_of_a_job_is_fields_or_a_mistake(body: bytes) -> None:
    form = Form()
    with suppress(ClientException, HTTPException):
        _json(form, body)
        assert all(isinstance(name, str) and isinstance(value, str) for name, value in form.fields)


# -- settings ----------------------------------------------------------------------------------------------------------

WORDS = ("Qz7Kx9v", "jY4Xw8q", "Vw3Gk5z")
GLUE = st.text(alphabet="@/?#%:;&=+,. '<>[]{}|^~!$é☃", max_size=3)
PLACES = (
    'server.port = "{0}"',
    'auth.keys = [{{name = "a", key = "{0}", scope = "{0}"}}]',
    'server.tls_key = "{0}"\nserver.port = "x"',
    '[cameras.a]\nplugin = "faulty"\nurl = "{0}"',
    '[cameras.a]\nplugin = "faulty"\nurl = ["{0}"]',
    '[cameras.a]\nplugin = "faulty"\nurl = "{0}${{NO_SUCH}}"',
    '[cameras.a]\nplugin = "faulty"\noptions = {{password = "{0}", list = [{{token = "{0}"}}]}}',
    '[cameras.a]\nplugin = "faulty"\nfps_limit = "{0}"\nurl = "{0}"',
    'jobs.redis_url = "{0}"',
    'url = "{0}',
    'auth = "{0}"',
)


@st.composite
def secrets(draw: st.DrawFn) -> str:
    words = draw(st.permutations(WORDS))
    secret = draw(GLUE).join([draw(GLUE), *words, draw(GLUE)])
    return draw(st.sampled_from(["rtsp://user:{}@cam.lan/1", "rtsp://cam.lan/1?token={}"])).format(secret)


@given(secrets(), st.sampled_from(PLACES), st.booleans())
@fuzzed(40)
def test_no_setting_is_quoted_whether_it_is_right_or_wrong(folder: Path, text: str, place: str, variable: bool) -> None:  # noqa: FBT001
    with no_secrets_left():
        written = "${THE_PASSWORD}" if variable else text.replace("${", "$${")
        (folder / "config.toml").write_text(place.format(written) + "\n", encoding="utf-8")
        told = io.StringIO()
        try:
            settings = load_settings(folder / "config.toml", {"THE_PASSWORD": text})
        except ConfigError as exc:
            print(exc, [(p.key, p.reason) for p in exc.problems], file=told)
        else:
            if "options" in place or "keys" in place or "url" in place:
                print(*shown_settings(settings), file=told)
        shown = SCRUBBER.scrub(told.getvalue())
        assert [word for word in WORDS if word in shown] == [], shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


NAMES = st.sampled_from(["SERVER__PORT", "AUTH__KEYS", "CAMERAS__GYM__URL", "CAMERAS__GYM__OPTIONS__X", "LOG__LEVEL"])


@given(st.dictionaries(st.one_of(NAMES, st.text("ABC_", max_size=12)), ANY_JSON.map(json.dumps), max_size=4), secrets())
@fuzzed(40)
def test_variables_that_are_wrong_are_a_list_of_problems(variables: dict[str, str], secret: str) -> None:
    environ = {f"HEALTHD_{name}": value for name, value in variables.items()}
    with no_secrets_left():
        with pytest.raises(ConfigError) as refused:
            load_settings(None, {**environ, "HEALTHD_SHUTDOWN__GRACE_SECONDS": secret})
        assert [word for word in WORDS if word in str(refused.value)] == []
