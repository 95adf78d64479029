"""Whatever is logged or printed passes the redaction, and no writer ever waits for it."""

import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from healthd.log_writer import QueuedWriter, patient
from healthd.logs import configure_logging
from healthd.native_log import RateLimit, _Flood, _Lines
from healthd.redact import SCRUBBER, SourceUrl

RAW = "rtsp://admin:hunter22@cam.lan/live?token=Qz7Kx9vW"
SECRETS = ("hunter22", "Qz7Kx9vW")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Put everything back that configure_logging changes in the process."""
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning
    known, patterns = SCRUBBER._known, SCRUBBER._patterns
    yield
    SCRUBBER._known, SCRUBBER._patterns = known, patterns
    sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning = hooks
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("uvicorn.access").setLevel(logging.NOTSET)
    structlog.configure(**config)


class Lines(io.StringIO):
    """A log that can be read as JSON."""

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def event(self) -> dict[str, Any]:
        (only,) = self.events()
        return only


@pytest.fixture
def lines() -> Lines:
    stream = Lines()
    configure_logging("debug", "json", stream)
    return stream


def assert_hidden(text: str) -> None:
    assert [secret for secret in SECRETS if secret in text] == []


def test_an_event_has_a_name_a_level_a_time_in_utc_and_its_fields(lines: Lines) -> None:
    structlog.get_logger("healthd.x").bind(camera="gym").info("session_opened", attempts=3)
    event = lines.event()
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "session_opened", "level": "info", "logger": "healthd.x", "camera": "gym", "attempts": 3}


def test_libraries_are_logged_through_the_same_chain(lines: Lines) -> None:
    for name in ("uvicorn.error", "litestar", "anything"):
        logging.getLogger(name).warning("cannot open %s", RAW)
    assert [event["logger"] for event in lines.events()] == ["uvicorn.error", "litestar", "anything"]
    assert {event["event"] for event in lines.events()} == {"cannot open rtsp://***@cam.lan/live?token=***"}


def open_it(address: str) -> None:
    raise OSError(f"cannot open {address}")


def test_no_field_key_or_traceback_shows_a_secret(lines: Lines) -> None:
    url = SourceUrl(RAW)
    log = structlog.get_logger()
    try:
        open_it(url.reveal())
    except OSError:
        log.exception("open_failed", url=url, raw=RAW, deep=[{RAW: (RAW.encode(), OSError(RAW))}], path={"token": "x"})
        logging.getLogger("lib").exception("failed")
    log.info("name", **{RAW: 1}, stack_info=True)
    log.info(RAW)
    assert len(lines.events()) == 4
    assert_hidden(lines.getvalue())
    assert lines.events()[0]["exception"].startswith("Traceback")
    assert lines.events()[0]["url"] == "rtsp://***@cam.lan/live?***"


def test_a_traceback_shows_no_local_variables(lines: Lines) -> None:
    def fail() -> None:
        local = "only-a-local"
        raise ValueError(len(local))

    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "only-a-local" not in lines.getvalue().replace('local = \\"only-a-local\\"', "")


@given(st.text(alphabet="ab1Z@/?#%: \"'\\é☃😀&=+<>$", min_size=4, max_size=12), st.sampled_from(["json", "console"]))
@settings(max_examples=50, deadline=None)
def test_no_password_passes_either_renderer(password: str, fmt: Any) -> None:
    known, patterns = SCRUBBER._known, SCRUBBER._patterns
    SCRUBBER._known, SCRUBBER._patterns = {}, ()
    try:
        stream = Lines()
        configure_logging("debug", fmt, stream)
        marked = f"Qz7{password}Kx9"
        url = SourceUrl(f"rtsp://admin:{marked}@cam.lan/live")
        structlog.get_logger().info("opened", url=url, raw=url.reveal(), password=marked, error=ValueError(marked))
        assert "Qz7" not in stream.getvalue()
        assert "Kx9" not in stream.getvalue()
    finally:
        SCRUBBER._known, SCRUBBER._patterns = known, patterns


def test_a_password_that_is_a_word_of_the_log_does_not_blank_level_and_time(lines: Lines) -> None:
    SourceUrl("rtsp://admin:info@cam.lan/")
    SourceUrl("rtsp://admin:event@cam.lan/")
    structlog.get_logger("x").info("an info event")
    assert (lines.event()["level"], lines.event()["event"]) == ("info", "an *** ***")


def test_objects_and_numbers_that_json_does_not_know_become_text(lines: Lines) -> None:
    structlog.get_logger().info("odd", nan=float("nan"), obj=ValueError("x"), items={1}, data=b"\xff", kind=int)
    event = lines.event()
    assert (event["nan"], event["obj"], event["items"], event["data"]) == ("nan", "ValueError('x')", [1], "b'\\xff'")


def test_an_event_that_cannot_be_redacted_is_not_shown(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SCRUBBER, "_patterns", None)
    structlog.get_logger().info("opened", raw=RAW)
    assert lines.event()["event"] == "log_redaction_failed"
    assert_hidden(lines.getvalue())


def test_a_line_that_cannot_be_made_does_not_show_its_arguments() -> None:
    lines = Lines()
    logging.getLogger().handlers.clear()  # pytest's own would fail where ours does not
    configure_logging("debug", "json", lines)
    logging.getLogger("lib").info("%d", RAW)
    assert lines.getvalue() == "a log line of lib was lost: TypeError\n"


def test_a_warning_a_crash_and_a_thread_that_crashed_are_events(lines: Lines) -> None:
    warnings.showwarning(UserWarning(RAW), UserWarning, "x.py", 3)
    error = OSError(RAW)
    sys.excepthook(OSError, error, None)
    threading.excepthook(threading.ExceptHookArgs((OSError, error, None, threading.current_thread())))
    assert [event["event"] for event in lines.events()] == ["python_warning", "process_crashed", "thread_crashed"]
    assert_hidden(lines.getvalue())


def test_requests_are_logged_at_debug_alone() -> None:
    stream = Lines()
    configure_logging("info", "json", stream)
    logging.getLogger("uvicorn.access").info("GET /")
    assert stream.events() == []
    configure_logging("debug", "json", stream)
    logging.getLogger("uvicorn.access").info("GET /")
    assert len(stream.events()) == 1


def test_below_its_level_nothing_is_logged_and_the_last_configuration_counts() -> None:
    first, second = Lines(), Lines()
    configure_logging("debug", "json", first)
    configure_logging("warning", "json", second)
    structlog.get_logger().info("no")
    structlog.get_logger().warning("yes")
    assert (first.events(), second.event()["event"]) == ([], "yes")


def test_auto_is_json_where_there_is_no_terminal_and_the_console_on_one() -> None:
    class Terminal(Lines):
        def isatty(self) -> bool:
            return True

    plain, terminal = Lines(), Terminal()
    configure_logging("info", "auto", plain)
    structlog.get_logger().info("hello")
    assert plain.event()["event"] == "hello"
    configure_logging("info", "auto", terminal)
    structlog.get_logger().info("hello")
    assert not terminal.getvalue().startswith("{")


def test_on_the_console_a_text_cannot_look_like_two_lines() -> None:
    stream = Lines()
    configure_logging("info", "console", stream)
    logging.getLogger("lib").info("one\ntwo\x1b[2J")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_without_a_stream_the_log_follows_standard_error() -> None:
    configure_logging("info", "json")
    stream = Lines()
    with redirect_stderr(stream):
        structlog.get_logger().info("hello")
    assert stream.event()["event"] == "hello"


# --- whom nobody reads


class Pipe:
    """A pipe with a stream that never waits at its one end, and us at the other."""

    def __init__(self, **options: int) -> None:
        self.reading, writing = os.pipe()
        self.descriptor = writing
        self.writer = QueuedWriter(writing, "stderr", **options)
        self.stream = io.TextIOWrapper(self.writer, encoding="utf-8", line_buffering=True)

    def read_until(self, text: str) -> list[str]:
        """Read whole lines until one of them holds this text."""
        read = b""
        while not (read.endswith(b"\n") and text.encode() in read):
            read += os.read(self.reading, 65536)
        return read.decode().splitlines()

    def close(self) -> None:
        self.stream.close()
        if self.reading >= 0:
            os.close(self.reading)


@pytest.fixture
def small() -> Iterator[Pipe]:
    """One that lets little wait."""
    pipe = Pipe(most_bytes=20_000)
    yield pipe
    pipe.close()


def test_every_line_is_written_whole_and_in_order(small: Pipe) -> None:
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(small.read_until("last")))
    reader.start()
    written = [f"{number} " + "☃" * (number % 90) for number in range(2000)]
    for line in written:
        print(line, file=small.stream)
        if len(line) > 90:
            assert small.writer.drain(5)
    print("last", file=small.stream)
    reader.join(timeout=10)
    assert read == [*written, "last"]


@pytest.mark.parametrize("level", ["info", "error"])
def test_where_nobody_reads_little_waits_the_rest_is_dropped_and_counted_when_there_is_room_again(
    level: Any, small: Pipe
) -> None:
    configure_logging(level, "json", small.stream)
    log = structlog.get_logger("healthd.x")
    begun = time.monotonic()
    for number in range(5000):
        log.error("flood", number=number)
    assert time.monotonic() - begun < 20
    assert small.writer._bytes <= 20_000
    shown: list[dict[str, Any]] = []
    flood: list[int] = []
    told: list[dict[str, Any]] = []  # more than one, where the flood outran the writer before the pipe was full
    while len(flood) + sum(event["lines"] for event in told) < 5000:
        shown += [json.loads(line) for line in small.read_until("\n")]
        flood = [event["number"] for event in shown if event["event"] == "flood"]
        told = [event for event in shown if event["event"] == "log_lines_dropped"]
    log.error("after")
    shown += [json.loads(line) for line in small.read_until("after")]
    assert len(flood) > 100
    assert flood == sorted(set(flood))
    assert len(flood) + sum(event["lines"] for event in told) == 5000
    assert {(event["stream"], event["logger"]) for event in told} == {("stderr", "healthd.log_writer")}
    assert [event["event"] for event in shown[-2:]] == ["log_lines_dropped", "after"]


def test_a_line_that_is_longer_than_what_may_wait_is_written_when_nothing_else_waits(small: Pipe) -> None:
    print("x" * 50_000, file=small.stream)
    assert small.writer.drain(5)
    assert small.read_until("x") == ["x" * 50_000]


def test_the_end_waits_for_what_is_not_written_yet_and_not_for_ever() -> None:
    pipe = Pipe()
    for _ in range(20):
        print("x" * 10_000, file=pipe.stream)
    begun = time.monotonic()
    assert not pipe.writer.drain(0.1)
    pipe.stream.close()
    assert 0.5 < time.monotonic() - begun < 3
    assert os.fstat(pipe.descriptor), "the thread is still writing to it: no other file may get its number"
    assert sum(map(len, pipe.read_until("x" * 10_000))) > 0
    pipe.close()


def test_whoever_has_left_keeps_nobody_from_writing(small: Pipe) -> None:
    os.close(small.reading)
    small.reading = -1
    for _ in range(1000):
        print("x" * 100, file=small.stream)
    assert small.writer.drain(5)


def test_a_pipe_that_somebody_else_made_non_blocking_gets_everything() -> None:
    pipe = Pipe()
    os.set_blocking(pipe.descriptor, False)
    written = [f"{number} {'x' * 1000}" for number in range(300)]
    for line in [*written, "last"]:
        print(line, file=pipe.stream)
    assert pipe.read_until("last") == [*written, "last"]
    pipe.close()


def test_a_patient_stream_looks_like_the_one_it_stands_for() -> None:
    reading, writing = os.pipe()
    with patient(writing, "stdout") as stream:
        assert (stream.fileno(), stream.isatty(), stream.writable(), stream.readable()) == (writing, False, True, False)
        stream.write("not ended")
        stream.write("\udc80")
    assert os.read(reading, 100) == b"not ended\\udc80"
    os.close(reading)


# --- what C libraries print

PREAMBLE = """
import faulthandler, os, sys, time
import structlog
from healthd.logs import NativeLog, configure_logging
from healthd.redact import SourceUrl
configure_logging("debug", "json")
log = structlog.get_logger()
"""


def run(script: str, *, stderr_closed: bool = False) -> tuple[list[str], float]:
    """Run a script of its own and return the lines of its standard error and how long it took."""
    begun = time.monotonic()
    command = [sys.executable, "-c", PREAMBLE + script]
    if stderr_closed:
        command = ["sh", "-c", 'exec "$0" "$@" 2>&-', *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return (done.stdout if stderr_closed else done.stderr).splitlines(), time.monotonic() - begun


def test_what_is_written_to_descriptor_2_becomes_an_event_and_python_keeps_the_true_one() -> None:
    shown, _ = run(
        f"""
url = SourceUrl({RAW!r})
with NativeLog():
    print("printed", file=sys.stderr)
    os.write(2, b"[rtsp @ 0x5] \\x1b[31mcannot open {RAW}\\n")
    os.system("echo a child says hunter22 >&2")
    os.write(2, b"not ended")
os.write(2, b"direct\\n")
"""
    )
    assert shown[0] == "printed"
    events = [json.loads(line) for line in shown[1:-1]]
    assert [event["text"] for event in events] == [
        "[rtsp @ 0x5] [31mcannot open rtsp://***@cam.lan/live?token=***",
        "a child says ***",
        "not ended",
    ]
    assert {(event["event"], event["level"]) for event in events} == {("native_output", "debug")}
    assert shown[-1] == "direct"


def test_a_flood_neither_blocks_the_writer_nor_the_log() -> None:
    shown, _ = run(
        """
lost = 0
with NativeLog():
    begun = time.monotonic()
    for number in range(20000):
        try:
            os.write(2, b"flood %d\\n" % number)
        except BlockingIOError:
            lost += 1
    log.info("done", seconds=time.monotonic() - begun, lost=lost)
"""
    )
    events = [json.loads(line) for line in shown]
    (done,) = [event for event in events if event["event"] == "done"]
    logged = [event for event in events if event["event"] == "native_output"]
    dropped = sum(event["lines"] for event in events if event["event"] == "native_output_dropped")
    assert done["seconds"] < 5
    assert len(logged) <= 50 * (done["seconds"] + 2)
    assert len(logged) + dropped + done["lost"] == 20000


def test_a_writer_that_holds_the_interpreter_is_not_blocked() -> None:
    shown, _ = run(
        """
import ctypes
write = ctypes.PyDLL(None).write  # PyDLL keeps the interpreter's lock: our reader cannot run meanwhile
with NativeLog():
    for _ in range(2000):
        write(2, b"x" * 1000 + b"\\n", 1001)
    log.info("done")
"""
    )
    assert any('"done"' in line for line in shown)


def test_a_process_that_ends_inside_ends_at_once() -> None:
    _, seconds = run("native = NativeLog(); native.__enter__(); os.write(2, b'x\\n')")
    assert seconds < 10


def test_a_child_that_keeps_the_pipe_does_not_delay_the_end() -> None:
    shown, seconds = run(
        """
import subprocess
with NativeLog():
    child = subprocess.Popen(["sleep", "30"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
child.kill()
child.wait()
print("left", file=sys.stderr)
"""
    )
    assert shown == ["left"]
    assert seconds < 10


def test_a_fork_writes_for_itself() -> None:
    shown, _ = run(
        """
with NativeLog():
    child = os.fork()
    if not child:
        print("the child", file=sys.stderr)
        os._exit(0)
    os.waitpid(child, 0)
"""
    )
    assert "the child" in shown


def test_a_log_that_is_not_left_is_written_all_the_same() -> None:
    shown, _ = run("NativeLog().__enter__()\nfor number in range(500): log.info('x', number=number)")
    assert [json.loads(line)["number"] for line in shown] == list(range(500))


def test_without_a_standard_error_nothing_happens() -> None:
    shown, _ = run("with NativeLog():\n    os.write(2, b'lost')\n    print('fine')", stderr_closed=True)
    assert shown == ["fine"]


def test_faults_go_to_the_true_standard_error() -> None:
    shown, _ = run(
        "with NativeLog():\n    faulthandler.dump_traceback(sys.stderr)\n    assert faulthandler.is_enabled()"
    )
    assert shown[0].startswith("Current thread") or shown[0].startswith("Thread")


def test_lines_are_split_and_bounded_however_they_come() -> None:
    lines = _Lines()
    assert lines.feed(b"one\ntw") == [(b"one", False)]
    assert lines.feed(b"o\rthree\n") == [(b"two", False), (b"three", False)]
    assert lines.feed(b"x" * 9000) == [(b"x" * 8192, True)]
    assert lines.feed(b"x" * 9000) == []
    assert lines.feed(b"end\nnext") == []
    assert lines.rest() == [(b"next", False)]


def test_what_is_too_much_is_counted_and_told_when_the_second_is_over() -> None:
    now = 0.0
    limit = RateLimit(2, lambda: now)
    assert [limit.admit() for _ in range(5)] == [True, True, False, False, False]
    assert (limit.seconds_to_report(), limit.take_dropped(now=False)) == (1.0, 0)
    now = 1.0
    assert limit.take_dropped(now=False) == 3
    assert limit.seconds_to_report() is None
    assert limit.admit()


def test_many_lines_are_told_once_when_they_begin_and_once_when_they_are_over() -> None:
    now = 0.0
    flood = _Flood(lambda: now)
    assert not any(flood.begins() for _ in range(19))
    now = 2.5
    assert not flood.begins()  # twenty, but not within two seconds
    assert [flood.begins() for _ in range(40)].count(True) == 1
    assert (flood.take_ended(), flood.seconds_to_look()) == (0, 10.0)
    now = 12.5
    assert (flood.take_ended(), flood.take_ended(), flood.seconds_to_look()) == (41, 0, None)
