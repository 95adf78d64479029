"""A child's log can lie and be slow; it costs the daemon no memory, and nobody else's time."""

import contextlib
import io
import json
import logging
import os
import socket
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from healthd import child_logs, child_side
from healthd.child_events import LONGEST_EVENT, fitted
from healthd.child_logs import EVENTS_PER_SECOND, LONGEST_SECRET, ChildLog
from healthd.log_ring import LogRing
from healthd.logs import configure_logging
from healthd.redact import SCRUBBER
from tests.fuzzing import fuzzed, no_secrets_left

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are Linux' alone")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Where the log of this process goes; everything is put back that it changes."""
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning
    stream = io.StringIO()
    configure_logging("debug", "json", stream)
    yield stream
    sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning = hooks
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("uvicorn.access").setLevel(logging.NOTSET)
    structlog.configure(**config)


class Said:
    """The log of a child that says what the test says."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading, self.printing = os.pipe()
        self.log = ChildLog(reading, ours, {"camera": "gym"}, Counter())

    def say(self, mark: bytes, body: bytes) -> None:
        self.theirs.send(mark + body)
        assert self.log.read_logged(), "it is read on"

    def event(self, **fields: object) -> None:
        self.say(b"e", json.dumps(fields).encode())


@pytest.fixture
def child(log: io.StringIO) -> Iterator[Said]:  # it says whatever it says into this log
    said = Said()
    yield said
    said.theirs.close()
    os.close(said.printing)
    if not said.log.ended.is_set():
        said.log.close()


def told(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_loggers_that_a_child_names_are_kept_by_nobody(child: Said, log: io.StringIO) -> None:
    known = set(logging.root.manager.loggerDict)
    names = ["plugin.connection-7", "a" + 30 * ".b", "x" + 3000 * ".y", "z" * 101, 7, None]
    for name in names:
        child.event(event="spoke", level="warning", logger=name)
    child.event(event="spoke")
    assert set(logging.root.manager.loggerDict) - known <= {"healthd.children"}
    assert [event["logger"] for event in told(log)] == [*names[:2], *5 * ["healthd.children"]]
    assert {(event["event"], event["camera"]) for event in told(log)} == {("spoke", "gym")}


def test_the_level_of_the_log_holds_for_what_children_log(child: Said, log: io.StringIO) -> None:
    logging.getLogger().setLevel("WARNING")
    child.event(event="quiet", level="info", logger="plugin")
    child.event(event="loud", level="error", logger="plugin")
    assert [event["event"] for event in told(log)] == ["loud"]


def test_words_of_the_log_itself_are_no_fields_of_a_child(child: Said, log: io.StringIO) -> None:
    child.event(event="spoke", _record="x", _from_structlog=False, _logger=1, exc_info=True, stack_info=True, n=1)
    (event,) = told(log)
    assert set(event) == {"event", "level", "logger", "timestamp", "camera", "n"}


def test_what_is_too_large_is_left_out_and_counted(child: Said, log: io.StringIO) -> None:
    child.event(event="large", text="://" * (LONGEST_EVENT // 3))
    child.say(b"s", msgspec.msgpack.encode(("x" * LONGEST_SECRET, "", "")))
    child.event(event="small")
    child.log.report(last=True)
    assert [event["event"] for event in told(log)] == ["small", "child_events_dropped"]
    assert told(log)[-1]["events"] == 2
    assert not SCRUBBER.knows("x" * LONGEST_SECRET)


def test_secrets_that_are_costly_to_find_count_as_many(
    child: Said, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_logs, "MOST_SECRETS", 30)
    with no_secrets_left():
        for number in range(10):
            child.say(b"s", msgspec.msgpack.encode((f"{number}{'@' * 80}", "", "")))
        assert len(SCRUBBER._known) == 2
    assert [event["event"] for event in told(log)] == ["child_secrets_spent"]


def test_events_that_are_long_count_as_many(child: Said, log: io.StringIO) -> None:
    for _ in range(EVENTS_PER_SECOND):
        child.event(event="long", text="word " * 2000)
    admitted = sum(event["event"] == "long" for event in told(log))
    assert 0 < admitted < EVENTS_PER_SECOND / 2


def test_a_name_that_is_long_is_cut_and_counted_by_those_who_keep_lines() -> None:
    ring = LogRing(most_characters=50_000)
    for _ in range(100):
        ring.add({"event": "e", "logger": "x" * 100_000, "camera": "y" * 100_000})
    assert sum(len(line.logger or "") + len(line.camera or "") for line in ring.lines()) <= 50_000


# -- what a child does so that it is heard -----------------------------------------------------------------------------


def test_a_long_event_is_cut_so_that_it_is_taken_and_says_so() -> None:
    event = {"event": "spoke", "level": "info", "logger": "plugin", "n": 1, "text": "word " * 9000}
    short = json.loads(fitted(json.dumps(event).encode()))
    assert short.pop("text").endswith("word ...")
    assert short == {"event": "spoke", "level": "info", "logger": "plugin", "n": 1}
    whole = json.dumps({"event": "spoke", "text": "word " * 100}).encode()
    assert fitted(whole) == whole


def test_of_a_long_traceback_the_end_is_kept_and_no_word_is_halved() -> None:
    lines = "\n".join(f"  at line-{number}" for number in range(5000))
    event = {"event": "failed", "exception": f"Traceback\n{lines}\nKeyError: 'x'", "text": "abcdefg " * 5000}
    short = json.loads(fitted(json.dumps(event).encode()))
    first, *kept = short["exception"].split("\n")
    assert (first.split()[:2], kept[-1]) == (["...", "at"], "KeyError: 'x'")
    assert set(short["text"].split()) == {"abcdefg", "..."}


@given(
    st.dictionaries(
        st.sampled_from(["event", "exception", "text", "level", "a", "b", "c", "d", "e", "f", "g"]),
        st.one_of(
            st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=5), st.integers(1, 9000)),
            st.lists(st.text(max_size=5), max_size=3).map(lambda some: some * 2000),
            st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
        ),
    )
)
@fuzzed(60)
def test_whatever_is_logged_fits(event: dict[str, object]) -> None:
    line = fitted(json.dumps(event).encode())
    assert len(line) <= LONGEST_EVENT
    assert event.keys() | {"cut"} >= json.loads(line).keys() >= {"event"} & event.keys()


def test_a_line_that_is_no_event_is_left_as_it_is() -> None:
    for line in (b"a log line was lost " * 2000, b"[" + b'"a", ' * 9000 + b"1]"):
        assert fitted(line) == line


def test_a_secret_waits_for_room_and_events_leave_it_theirs() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    outlet = child_side._Outlet(theirs)
    with ours, theirs:
        with contextlib.suppress(BlockingIOError):
            while True:
                theirs.send(b"e" + bytes(1000))
        over = threading.Event()

        def flood() -> None:
            while not over.is_set():
                outlet.send(bytes(1000))

        flooding = threading.Thread(target=flood)
        telling = threading.Thread(target=outlet.tell, args=(("hunter22", "", ""),))
        flooding.start()
        telling.start()
        ours.settimeout(5)
        try:
            while ours.recv(100_000)[:1] != b"s":
                pass
        finally:
            over.set()
            telling.join(5)
            flooding.join(5)
        assert not telling.is_alive()


def test_a_secret_that_finds_no_room_waits_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_side, "TELL_SECONDS", 0.05)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    outlet = child_side._Outlet(theirs)
    with ours, theirs:
        with contextlib.suppress(BlockingIOError):
            while True:
                theirs.send(bytes(1000))
        outlet.tell(("hunter22", "", ""))
        ours.close()
        outlet.tell(("hunter22", "", ""))


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_last_line_that_nobody_ended_is_heard_once(child: Said, log: io.StringIO) -> None:
    os.write(child.printing, b"one\nits last words")
    assert child.log.read_printed()
    child.log.close()
    assert [event["text"] for event in told(log)] == ["one", "its last words"]
    assert child.log.last_output() == ("one", "its last words")
