"""A password is never shown, whatever it consists of and whoever prints it."""

import copy
import html
import json
import math
import os
import pickle
import string
import time
import traceback
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from healthd.redact import MASK, SCRUBBER, Scrubber, Secret, SourceUrl, hide_urls, is_telling
from tests.fuzzing import fuzzed, no_secrets_left


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with no_secrets_left():
        yield


class Holder(BaseModel):
    url: SourceUrl
    other: int = 0


# A password is made of words that occur nowhere else, glued with what breaks parsers: no word may ever be seen.
WORDS = ("Qz7", "Kx9vW", "jY4", "Xw8q")
GLUE = st.text(alphabet="@/?#%:;&=+,. \"'\\`<>[]{}|^~!$é☃😀", max_size=4)


@st.composite
def passwords(draw: st.DrawFn) -> str:
    parts = [draw(GLUE)]
    for word in draw(st.permutations(WORDS))[: draw(st.integers(2, 4))]:
        parts += [word, draw(GLUE)]
    return "".join(parts)


@st.composite
def urls(draw: st.DrawFn) -> str:
    scheme = draw(st.sampled_from(["rtsp", "RTSPS", "http", "https", "rtmp", "srt"]))
    user = draw(st.sampled_from(["admin", "u", "", "a.b-c"]))
    host = draw(st.sampled_from(["cam.lan", "10.0.0.7", "[fe80::1%25eth0]", "gym-cam", "kamera.süd"]))
    port = draw(st.sampled_from(["", ":554", ":65535"]))
    tail = draw(st.sampled_from(["", "/", "/live", "/a/b.c", "/live@2x", "?channel=1", "/live?a@b", "/s?subtype=0#f"]))
    password = draw(passwords())
    if draw(st.booleans()):
        password = quote(password, safe="")
    return f"{scheme}://{user}:{password}@{host}{port}{tail}"


SPELLINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "repr": repr,
    "json": json.dumps,
    "json in json": lambda text: json.dumps({"a": json.dumps(text, ensure_ascii=False)}),
    "percent": lambda text: quote(text, safe=""),
    "percent twice": lambda text: quote(quote(text)),
    "form": quote_plus,
    "html": html.escape,
    "bytes": lambda text: repr(text.encode()),
    "ascii": ascii,
}


def assert_hidden(text: str) -> None:
    assert [word for word in WORDS if word in text] == []


@given(urls())
@fuzzed(100)
def test_no_form_of_a_url_shows_any_part_of_its_password(raw: str) -> None:
    with no_secrets_left():
        url = SourceUrl(raw)
        holder = Holder(url=url)
        printed = "".join(traceback.format_exception(ValueError(url)))
        forms = [str(url), repr(url), f"{url:>80}", f"{url!r}", "%s" % url, str(url.host), str([url]), printed]  # noqa: UP031
        forms += [repr(holder), str(holder.model_dump()), holder.model_dump_json(), repr(copy.deepcopy(holder))]
        forms += [repr(pickle.loads(pickle.dumps(url)))]
        for form in forms:
            assert_hidden(form)


@given(urls(), st.sampled_from(sorted(SPELLINGS)))
@fuzzed(120)
def test_a_text_that_holds_the_url_in_any_spelling_is_scrubbed(raw: str, spelling: str) -> None:
    with no_secrets_left():
        url = SourceUrl(raw)
        for told in (raw, url.reveal()):
            text = f"[rtsp @ 0x55] cannot open {SPELLINGS[spelling](told)}: timed out"
            assert_hidden(SCRUBBER.scrub(text))
            assert_hidden(SCRUBBER.scrub(text[text.index("://") + 3 :] if "://" in text else text))
            assert_hidden(repr(SCRUBBER.scrub_object({told: [told, (told.encode(), {"x": ValueError(told)})]})))


@given(passwords())
@fuzzed(100)
def test_a_validation_error_does_not_quote_the_url(password: str) -> None:
    with no_secrets_left():
        for wrong in (f"rtsp://u:{password}@h/\nx", [f"rtsp://u:{password}@h/"], {"u": password}):
            with pytest.raises(ValidationError) as caught:
                Holder.model_validate({"url": wrong})
            assert_hidden(str(caught.value) + repr(caught.value.errors()) + caught.value.json())


@given(passwords(), st.sampled_from(["cam.lan", "10.0.0.7", "[::1]"]))
@fuzzed(100)
def test_a_raw_password_reaches_the_driver_or_the_url_is_called_ambiguous(password: str, host: str) -> None:
    with no_secrets_left():
        raw = f"rtsp://admin:{password.replace('%', '')}@{host}:554/live"
        url = SourceUrl(raw)
        if url.ambiguous:
            assert url.reveal() == raw
            assert str(url) == "rtsp://***"
        else:
            encoded = quote(password.replace("%", ""), safe="!$&'()*+,;=:~")
            assert url.reveal() == f"rtsp://admin:{encoded}@{host}:554/live"
            assert str(url) == f"rtsp://***@{host}:554/live"


UNRESERVED = string.ascii_letters + string.digits + "-._~"


@st.composite
def well_formed(draw: st.DrawFn) -> str:
    user_info_parts = st.one_of(
        st.text(UNRESERVED + "!$&'()*+,;=:", max_size=8), st.sampled_from(["%40", "%2F", "%25"])
    )
    user_info = draw(st.one_of(st.just(""), st.lists(user_info_parts, max_size=3).map(lambda p: "".join(p) + "@")))
    host = draw(st.from_regex(r"[a-z][a-z0-9-]{0,8}(\.[a-z]{2,3})?|\[[0-9a-f]{1,4}::1\]", fullmatch=True))
    port = draw(st.one_of(st.just(""), st.integers(0, 65535).map(lambda n: f":{n}")))
    path = draw(
        st.lists(st.text(UNRESERVED + "!$&'()*+,;=:@", max_size=6), max_size=3).map(
            lambda p: "".join(f"/{x}" for x in p)
        )
    )
    query = draw(st.one_of(st.just(""), st.text(UNRESERVED + "=&@/?:", max_size=8).map(lambda q: f"?{q}")))
    return f"rtsp://{user_info}{host}{port}{path}{query}"


@given(well_formed())
@fuzzed(120)
def test_a_well_formed_url_is_revealed_unchanged(raw: str) -> None:
    with no_secrets_left():
        assert SourceUrl(raw).reveal() == raw


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("rtsp://user:pass@host:554/path?token=abc", "rtsp://***@host:554/path?***"),
        ("rtsp://user@host", "rtsp://***@host"),
        ("rtsp://host/path", "rtsp://host/path"),
        ("rtsp://user:pa/ss@host/p", "rtsp://***@host/p"),
        ("rtsp://user:p@ss?w rd@host/p", "rtsp://***@host/p"),
        ("rtsp://user:123456/@host/p", "rtsp://***@host/p"),
        ("rtsp://user:p#1@[::1]:554", "rtsp://***@[::1]:554"),
        ("http://host/path@2x.jpg", "http://***"),
        ("rtsp://admin:p@ss/word@cam.lan/s", "rtsp://***"),
        ("rtsp://no host at all", "rtsp://***"),
        ("rtsp://h:554/user=admin_password=tlJwpbo6_channel=1.sdp?real", "rtsp://h:554/***?***"),
        ("rtsp://camera:camera@camera/1", "rtsp://***@***/1"),
        ("udp://@239.0.0.1:1234", "udp://***@239.0.0.1:1234"),
        ("file:///clips/a@b.mp4", "file:///clips/a@b.mp4"),
        ("clips/a.mp4", "clips/a.mp4"),
        ("clips/a@2x.mp4", "clips/a@2x.mp4"),
        ("/dev/video0", "/dev/video0"),
        ("0", "0"),
        ("admin:secret@cam/1", "***"),
        ("rtspsrc location=rtsp://admin:secret@cam/1 ! appsink", "***"),
    ],
)
def test_a_url_is_shown_without_user_info_and_query_and_a_path_as_it_is(raw: str, shown: str) -> None:
    assert str(SourceUrl(raw)) == shown


def test_scheme_host_and_port_are_shown_where_they_are_certain() -> None:
    url = SourceUrl("RTSP://user:pass@cam.lan:554/x")
    assert (url.scheme, url.host, url.port, url.path, url.ambiguous) == ("rtsp", "cam.lan", 554, None, False)
    unclear = SourceUrl("rtsp://user:12@34/56@cam.lan/x")
    assert (unclear.scheme, unclear.host, unclear.port, unclear.ambiguous) == ("rtsp", None, None, True)
    assert SourceUrl("clips/a.mp4").path == "clips/a.mp4"


def test_a_url_is_immutable_hashable_and_equal_by_its_true_text() -> None:
    url = SourceUrl("rtsp://u:one1@h/")
    assert url != SourceUrl("rtsp://u:two2@h/")
    assert {url: 1}[SourceUrl("rtsp://u:one1@h/")] == 1
    with pytest.raises(AttributeError):
        url._true = "x"


def test_a_pickled_url_keeps_its_true_text_and_registers_itself_where_it_arrives() -> None:
    data = pickle.dumps(SourceUrl("rtsp://u:hunter22@h/"))
    with no_secrets_left():
        assert pickle.loads(data).reveal() == "rtsp://u:hunter22@h/"
        assert SCRUBBER.scrub("it was hunter22") == "it was ***"


def test_a_device_number_may_be_written_as_a_number() -> None:
    assert Holder.model_validate({"url": 0}).url == SourceUrl("0")


def test_the_json_schema_says_that_the_value_is_written_only() -> None:
    schema = Holder.model_json_schema()["properties"]["url"]
    assert (schema["type"], schema["format"], schema["writeOnly"]) == ("string", "uri", True)


@pytest.mark.parametrize("wrong", ["", "  ", "rtsp://h/\r\nX: y", "a\0b"])
def test_an_empty_url_and_one_with_control_characters_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="a URL must not"):
        SourceUrl(wrong)


def test_a_url_that_is_no_utf8_is_refused_since_opencv_crashes_of_it() -> None:
    with pytest.raises(ValueError, match="must be UTF-8"):
        SourceUrl(os.fsdecode(b"/videos/caf\xe9.mp4"))


def test_a_secret_shows_nothing_and_compares() -> None:
    key = Secret("0123456789abcdef")
    assert (str(key), repr(key), f"{key}") == (MASK, "Secret('***')", MASK)
    assert key.matches("0123456789abcdef")
    assert not key.matches("0123456789abcdeF")
    assert SCRUBBER.scrub("X-Key was 0123456789abcdef") == "X-Key was ***"


def test_a_short_password_is_hidden_between_its_neighbours_and_does_not_blank_the_log() -> None:
    SourceUrl("rtsp://user:ab@host/x?k=v")
    assert SCRUBBER.scrub("about user:ab@host and rtsp://user:ab@host/x") == "about ***@host and rtsp://***@host/x"


def test_a_common_word_in_a_query_is_hidden_after_its_key_alone() -> None:
    SourceUrl("rtsp://host/x?stream=main&sign=Qz7Kx9")
    assert SCRUBBER.scrub("main stream=main Qz7Kx9") == "main stream=*** ***"


def test_the_header_that_http_makes_of_user_and_password_is_hidden() -> None:
    SourceUrl("http://admin:hunter22@host/x")
    assert "YWRtaW46aHVudGVyMjI" not in SCRUBBER.scrub("sent YWRtaW46aHVudGVyMjI= to host")


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("open rtsp://joe:hidden@h/y", "open rtsp://***@h/y"),
        ('open rtsp://joe:hid den"x@h/y', "open rtsp://***@h/y"),
        ("rtsp%3A%2F%2Fjoe%3Ahidden%40h", "rtsp%3A%2F%2F***%40h"),
        (r'"rtsp:\/\/joe:hidden@h"', r'"rtsp:\/\/***@h"'),
        ("GET /api/v1/x?q=75&api_key=hidden HTTP/1.1", "GET /api/v1/x?q=75&api_key=*** HTTP/1.1"),
        ("password=hidden", "password=***"),
        ("Authorization: Basic aGlkZGVu", "Authorization: ***"),
        ("{'x-api-key': 'hidden'}", "{'x-api-key': '***"),
        ("see http://127.0.0.1:8080/wall or file:///a@b", "see http://127.0.0.1:8080/wall or file:///a@b"),
        ("GET http://h:80/x?q=75&width=320", "GET http://h:80/x?q=75&width=320"),
    ],
)
def test_what_stands_where_secrets_stand_is_hidden_unasked(text: str, scrubbed: str) -> None:
    assert Scrubber().scrub(text) == scrubbed


def test_an_object_is_scrubbed_at_any_depth_and_else_left_alone() -> None:
    scrubber = Scrubber()
    scrubber.register("hunter22")
    error = OSError("no route")
    clean = {"n": 3, "none": None, "ok": True, "error": error, "f": 0.5}
    assert scrubber.scrub_object(clean) == clean
    assert scrubber.scrub_object({"hunter22": ["hunter22", (b"hunter22",)], "password": 12}) == {
        "***": ["***", (b"***",)],
        "password": "***",
    }
    assert scrubber.scrub_object(OSError("hunter22")) == "***"


def test_a_cycle_ends() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    assert MASK in repr(Scrubber().scrub_object(cycle))


def test_a_broken_repr_does_not_stop_the_scrubber() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("hunter22")

    assert Scrubber().scrub_object(Broken()) == "<Broken>"


def test_long_texts_are_scrubbed_in_reasonable_time() -> None:
    scrubber = Scrubber()
    scrubber.register("hunter22")
    for text in ("a" * 100_000, "://" * 20_000, "?key" * 20_000, "x:y@" * 20_000, "cookie" * 20_000):
        assert scrubber.scrub(text)


@pytest.mark.parametrize(
    ("many", "length"),
    [
        *((many, 250) for many in ("://", r":\/\/", "%3A%2F%2F", "%253a%252f%252f", "://x:", "://x y:", "://%3A//")),
        ("\\", 2000),
    ],
)
def test_the_time_a_text_takes_grows_no_faster_than_the_text(many: str, length: int) -> None:
    scrubber = Scrubber()
    scrubber.register("@hunter22")  # may begin with any number of backslashes

    def seconds(text: str) -> float:
        """Of this thread alone, whatever else the machine does."""
        best = math.inf
        for _ in range(5):
            began = time.thread_time()
            scrubber.scrub(text)
            best = min(best, time.thread_time() - began)
        return best

    # four times 250: all is within what is searched behind one `://`
    assert seconds(many * (4 * length // len(many))) < 9 * seconds(many * (length // len(many)))


def test_of_a_long_text_the_beginning_is_scrubbed_and_no_secret_is_halved() -> None:
    scrubber = Scrubber()
    scrubber.register("Qz7Kx9vW hunter22")
    rest = 30_000 * "b"
    edges = (*range(460, 510, 3), *range(500 + 2 * 4096 - 60, 500 + 2 * 4096 + 10, 3))
    for secret in ("Qz7Kx9vW hunter22", "rtsp://joe:Qz7Kx9vWhunter22@cam/", "Qz7Kx9vW%20hunter22"):
        for at in edges:
            shown = scrubber.scrub_start(f"{at * 'a'} {secret} {rest}", 500)
            assert len(shown) <= 504
            assert shown.startswith("aaa")
            assert shown.endswith(" ...")
            assert [half for half in ("Qz7", "hunter") if half in shown] == []
    shrinks = 8 * f"rtsp://{1000 * 'p'}@h "
    for at in range(500 + 2 * 4096 - len(shrinks) - 60, 500 + 2 * 4096 - len(shrinks) + 10, 3):
        shown = scrubber.scrub_start(f"{shrinks}{at * 'a'} rtsp://joe:Qz7Kx9vWhunter22@cam/ {rest}", 500)
        assert [half for half in ("Qz7", "hunter", "ppp") if half in shown] == []
    assert scrubber.scrub_start("all Qz7Kx9vW hunter22", 500) == "all ***"


def test_a_secret_that_is_longer_than_what_is_shown_is_not_halved_either() -> None:
    scrubber = Scrubber()
    secret = "Qz7Kx9" * 3000
    scrubber.register(secret)
    assert scrubber.scrub_start(f"it is {secret} {'b' * 500_000}", 500).startswith("it is *** bbb")


def test_backslashes_before_and_in_a_secret_are_hidden_with_it_however_many_they_are() -> None:
    scrubber = Scrubber()
    scrubber.register("@b\\@c77")
    for times in range(1, 6):
        lines = times * "\\"
        for text in (
            f"x{lines}@b{lines}{lines}@c77",
            f"x{lines}u0040b{lines}u005c{lines}@c77",
            f"{lines}@b{lines}@c77",
        ):
            assert "c77" not in scrubber.scrub(text), text


def test_what_is_scrubbed_once_is_remembered_until_there_is_a_new_secret() -> None:
    scrubber = Scrubber()
    assert [scrubber.scrub_label("yolo-Qz7Kx9") for _ in range(2)] == ["yolo-Qz7Kx9"] * 2
    scrubber.register("Qz7Kx9")
    assert [scrubber.scrub_label("yolo-Qz7Kx9") for _ in range(2)] == ["yolo-***"] * 2
    for number in range(5000):
        assert scrubber.scrub_label(f"m{number}") == f"m{number}"
    assert len(scrubber._labels) <= 1024


@pytest.mark.parametrize(
    "key",
    [
        *(
            "password",
            "Passwd",
            "user_pass",
            "pw",
            "apiKey",
            "APIKey",
            "api-key",
            "x-api-key",
            "access_token",
            "cookie",
        ),
        *("key", "keys", "tokens", "RTSPPassword", "password2", "client_secret", "credentials", "authtoken", "db_pwd"),
    ],
)
def test_a_key_that_names_a_secret_is_telling(key: str) -> None:
    assert is_telling(key)


@pytest.mark.parametrize(
    "key", ["url", "model", "keypoints", "tokenizer", "bypass", "compass", "keyframe", "monkey", "passthrough", "", "1"]
)
def test_a_key_that_names_something_else_is_not(key: str) -> None:
    assert not is_telling(key)


@pytest.mark.parametrize(
    ("text", "secrets", "others"),
    [
        ("https://bob:hunter22@h/x?w=1280", ["hunter22", "bob:hunter22"], ["1280"]),
        ("http://h/x?api_key=Qz7Kx9vW&mode=exact", ["Qz7Kx9vW"], ["exact"]),
        ("rtspsrc location=rtsp://u:geheim77@h/ ! decodebin", ["geheim77"], ["decodebin", "location"]),
        ("https://ghp_abcdef123@git.lan/x", ["ghp_abcdef123"], ["git.lan"]),
        ("http://h/user=a_password=Qz7Kx9vW_channel=1", ["Qz7Kx9vW"], ["channel"]),
        ("https://hub.lan/model@v1", [], ["hub.lan/model"]),
        ("no url at all: a@b", [], ["url", "a@b"]),
    ],
)
def test_the_secrets_in_the_urls_of_a_free_text_are_hidden(text: str, secrets: list[str], others: list[str]) -> None:
    with no_secrets_left():
        hide_urls(text)
        for secret in secrets:
            assert SCRUBBER.scrub(f"it was {secret} then") == "it was *** then"
        for other in others:
            assert SCRUBBER.scrub(f"it was {other} then") == f"it was {other} then"
