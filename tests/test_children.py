"""Children answer, fail by kind, and end within a bound, whatever they do; nothing of them is left."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from healthd import child_logs
from healthd.channel import Channel, ChildBug, Gone
from healthd.child_logs import EVENTS_PER_SECOND
from healthd.children import REAP_SECONDS, Child, ChildEnded, ChildTimeout, Nursery
from healthd.errors import BusyError, CameraError
from healthd.nursery import _adopted
from healthd.redact import SCRUBBER
from healthd.worker import step_back
from tests.fuzzing import no_secrets_left

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are Linux' alone")
ENTRY = "tests.child_entries:answers"
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    nursery.warm_up(["numpy", "tests.child_entries"])
    yield nursery
    nursery.close()


@pytest.fixture
def child(nursery: Nursery) -> Iterator[Child]:
    child = Child.start(ENTRY, name="gym", fields={"camera": "gym"}, nursery=nursery)
    yield child
    child.stop(grace_seconds=0, term_seconds=0)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone_within(seconds: float, *pids: int) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_answers_and_ends_when_it_is_asked(child: Child) -> None:
    assert child.call(["echo", [1, "two", b"three"]], reply=list, timeout=5) == [1, "two", b"three"]
    ending = child.stop()
    assert (ending.cause, ending.status) == ("asked", 0)
    assert child.stop() is ending
    assert gone_within(1, child.pid)


def test_errors_come_across_by_their_kind_and_bugs_with_their_traceback(child: Child) -> None:
    with pytest.raises(CameraError, match=r"no answer from rtsp://\*\*\*@cam/1"):
        child.call(["fail", "camera"], reply=object, timeout=5)
    with pytest.raises(BusyError) as busy:
        child.call(["fail", "busy"], reply=object, timeout=5)
    assert busy.value.retry_after_seconds == 7
    for kind, name in (("bug", "KeyError"), ("exit", "RuntimeError")):
        with pytest.raises(ChildBug) as bug:
            child.call(["fail", kind], reply=object, timeout=5)
        assert type(bug.value).__name__ == name
        assert "child_entries.py" in bug.value.__notes__[0]
    assert child.call(["echo", 1], reply=int, timeout=5) == 1, "an error costs nothing but its call"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (["segv", None], "was ended by SIGSEGV"),
        (["abort", None], "was ended by SIGABRT"),
        (["leave", 3], "ended by itself with exit status 3"),
    ],
)
def test_a_crash_is_told_with_the_name_of_its_signal(child: Child, what: list[object], told: str) -> None:
    with pytest.raises(ChildEnded, match=told) as ended:
        child.call(what, reply=object, timeout=5)
    if what[0] == "segv":
        assert any("Segmentation fault" in line for line in ended.value.ending.last_output)
    assert child.stop() is ended.value.ending


@pytest.mark.parametrize("how", ["hangs in C", "is stopped", "is killed"])
def test_one_that_does_not_answer_ends_within_its_bound(child: Child, how: str) -> None:
    if how == "hangs in C":
        with pytest.raises(ChildTimeout):
            child.call(["hang", None], reply=object, timeout=0.2)
    elif how == "is stopped":
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(ChildTimeout):
            child.call(["echo", 1], reply=int, timeout=0.2)
    else:
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ChildEnded, match="was ended by SIGKILL"):
            child.call(["echo", 1], reply=int, timeout=5)
    began = time.monotonic()
    child.stop(term_seconds=0.2)
    assert time.monotonic() - began < 1
    assert gone_within(0.5, child.pid)


def test_what_it_started_ends_with_it(child: Child) -> None:
    started = child.call(["start", None], reply=int, timeout=5)
    child.kill()
    with pytest.raises(ChildEnded):
        child.call(["echo", 1], reply=int, timeout=5)
    assert gone_within(2, started)
    child.stop()
    deadline = time.monotonic() + 2
    while psutil.pid_exists(started):  # reaped as well, whoever is PID 1
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_it_started_in_a_session_of_its_own_ends_with_it_too(child: Child) -> None:
    started = child.call(["start_session", None], reply=int, timeout=5)
    assert alive(started)
    child.kill()
    assert gone_within(2, started)
    wait_until(child._log.ended.is_set)


def test_what_one_has_in_the_background_ends_with_it_and_not_with_another(child: Child, nursery: Nursery) -> None:
    started = child.call(["start_background", None], reply=int, timeout=5)
    other = Child.start(ENTRY, name="hall", nursery=nursery)
    others = other.call(["start_session", None], reply=int, timeout=5)
    other.stop()
    assert gone_within(2, others)
    assert alive(started)
    child.stop()
    assert gone_within(2, started)


def test_a_program_that_made_itself_a_daemon_goes_on_when_the_leader_of_its_session_ends(child: Child) -> None:
    leader, started = child.call(["start_daemon", None], reply=list, timeout=5)
    wait_until(lambda: not psutil.pid_exists(leader))
    assert not gone_within(0.2, started)
    child.stop()
    assert gone_within(2, started)


def test_what_they_started_in_sessions_of_their_own_ends_with_a_nursery_that_is_closed() -> None:
    nursery = Nursery()
    children = [Child.start(ENTRY, name=name, nursery=nursery) for name in ("gym", "hall")]
    started = [child.call(["start_session", None], reply=int, timeout=5) for child in children]
    leader, made_daemon = children[0].call(["start_daemon", None], reply=list, timeout=5)
    os.kill(children[1].pid, signal.SIGSTOP)
    began = time.monotonic()
    nursery.close()
    assert time.monotonic() - began < REAP_SECONDS
    assert gone_within(0.5, leader, made_daemon, *started, *(child.pid for child in children))
    for child in children:
        child.stop()


def test_a_nursery_that_hangs_does_not_hold_its_close() -> None:
    nursery = Nursery()
    child = Child.start(ENTRY, name="gym", nursery=nursery)
    os.kill(nursery.pid or 0, signal.SIGSTOP)
    began = time.monotonic()
    nursery.close()
    assert time.monotonic() - began < REAP_SECONDS
    assert gone_within(0.5, child.pid)
    child.stop()


def test_what_a_child_of_its_own_holds_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment cannot be read while it hangs with its memory locked, and everybody else would wait."""
    read: list[str] = []

    def read_bytes(path: Path) -> bytes:
        read.append(str(path))
        return b"_HEALTHD_CHILD=7\0"

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with (
        subprocess.Popen(["sleep", "1000"]) as own,
        subprocess.Popen(["sleep", "1000"]) as other,
    ):
        adopted = _adopted({own.pid})
        own.kill()
        other.kill()
    assert adopted[other.pid] == "7"
    assert own.pid not in adopted
    assert f"/proc/{own.pid}/environ" not in read


def test_what_it_prints_and_logs_is_logged_with_its_fields_and_without_secrets_it_alone_knew(child: Child) -> None:
    with capture_logs() as events:
        child.call(["speak", "rtsp://admin:only-the-child-knows@cam/1"], reply=object, timeout=5)
        deadline = time.monotonic() + 5
        while len(events) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert {event["camera"] for event in events} == {"gym"}
    assert {event["event"] for event in events} == {"camera_spoke", "native_output"}
    assert [event for event in events if event.get("text", "").startswith("FFmpeg says rtsp://***@cam/1")]
    assert "only-the-child-knows" not in str(events)


def test_secrets_of_one_camera_are_bounded_over_all_its_sessions(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_logs, "MOST_SECRETS", 6)
    monkeypatch.setattr(child_logs.CHILD_LOGS, "_secrets", Counter())
    with no_secrets_left(), capture_logs() as events:
        for session in range(4):
            again = Child.start(ENTRY, name="gym", fields={"camera": "gym"}, nursery=nursery)
            for word in ("same", f"word-{session}", f"other-{session}"):
                again.call(["speak", f"rtsp://admin:only-{word}@cam/1"], reply=object, timeout=5)
            again.stop()
            wait_until(again._log.ended.is_set)
        assert len(SCRUBBER._known) == 6, "more than one session named, less than all"
    assert [event["camera"] for event in events if event["event"] == "child_secrets_spent"] == ["gym"]


def test_what_outlives_a_child_and_holds_its_pipes_is_not_heard_for_ever(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_logs, "_LINGER_SECONDS", 0.1)
    (printed, printing), (logged, logging) = os.pipe(), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with logging, capture_logs() as events:
        left = child_logs.CHILD_LOGS.watch(printed, logged, {"camera": "gym"})
        child_logs.CHILD_LOGS.leave(left)
        os.write(printing, b"its last words\n")
        assert left.ended.wait(5)
        os.close(printing)
        assert [event.get("text") for event in events] == ["its last words"]
        child.call(["speak", "rtsp://cam/1"], reply=object, timeout=5)
        wait_until(lambda: any(event["event"] == "camera_spoke" for event in events))


def test_many_lines_of_a_decoder_are_warned_of_once_and_name_the_camera(child: Child) -> None:
    with capture_logs() as events:
        child.call(["flood", 60], reply=object, timeout=5)
        deadline = time.monotonic() + 5
        while len(events) < 51 and time.monotonic() < deadline:
            time.sleep(0.01)
    (warned,) = (event for event in events if event["log_level"] == "warning")
    assert (warned["event"], warned["camera"]) == ("native_output_many", "gym")


def test_one_that_logs_without_end_is_cut_short_and_keeps_the_log_from_nobody(child: Child, nursery: Nursery) -> None:
    other = Child.start(ENTRY, name="hall", fields={"camera": "hall"}, nursery=nursery)
    with capture_logs() as events:
        child.call(["log_without_end", None], reply=object, timeout=5)
        began = time.monotonic()
        wait_until(lambda: any(event["event"] == "again" for event in events))
        other.call(["speak", "rtsp://cam/1"], reply=object, timeout=5)
        wait_until(lambda: any(event["event"] == "camera_spoke" for event in events))
        wait_until(lambda: any(event["event"] == "child_events_dropped" for event in events))
        seconds = time.monotonic() - began
        child.stop(grace_seconds=0, term_seconds=0)
        other.stop()
    again = sum(event["event"] == "again" for event in events)
    assert again <= EVENTS_PER_SECOND * (seconds + 3)
    (told, *_) = (event for event in events if event["event"] == "child_events_dropped")
    assert told["camera"] == "gym"
    assert told["events"] > 0


def test_a_long_message_of_a_child_is_cut_and_not_lost(child: Child) -> None:
    with capture_logs() as events:
        child.call(["say_much", 20_000], reply=object, timeout=5)
        wait_until(lambda: bool(events))
    (event,) = events
    assert event["event"] == "camera_spoke"
    assert event["text"].startswith("word 0 word 1 ")
    assert event["text"].endswith(" ...")


def test_who_kills_one_that_has_just_ended_does_not_wait_for_its_last_words(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []

    def last_output() -> tuple[str, ...]:
        held.append(child._signalling.locked())
        child.kill()
        return ()

    monkeypatch.setattr(child._log, "last_output", last_output)
    with pytest.raises(ChildEnded, match="SIGABRT"):
        child.call(["abort", None], reply=object, timeout=5)
    assert held == [False]


def test_fifty_children_leave_no_descriptor_thread_or_process(nursery: Nursery) -> None:
    me = psutil.Process()
    Child.start(ENTRY, name="first", nursery=nursery).stop()
    before = me.num_fds(), me.num_threads(), len(me.children(recursive=True))
    for number in range(50):
        child = Child.start(ENTRY, name="one", nursery=nursery)
        assert child.call(["descriptors", None], reply=int, timeout=5) <= 7, "nothing of its siblings"
        if number % 2:
            child.kill()
        child.stop()
    deadline = time.monotonic() + 2
    while (after := (me.num_fds(), me.num_threads(), len(me.children(recursive=True)))) != before:
        assert time.monotonic() < deadline, (before, after)
        time.sleep(0.01)


def test_a_nursery_that_was_killed_takes_its_children_along_and_another_is_started() -> None:
    nursery = Nursery()
    child = Child.start(ENTRY, name="one", nursery=nursery)
    started = child.call(["start", None], reply=int, timeout=5)
    os.kill(nursery.pid or 0, signal.SIGKILL)
    with pytest.raises(ChildEnded, match=r"is gone|SIGKILL"):
        child.call(["hang", None], reply=object, timeout=5)  # it might still answer
    child.stop()
    assert gone_within(1, child.pid, started)
    again = Child.start(ENTRY, name="two", nursery=nursery)
    started = again.call(["start", None], reply=int, timeout=5)
    nursery.close()
    assert gone_within(1, again.pid, started)
    again.stop()


@pytest.mark.parametrize("early", [True, False])
def test_children_do_not_step_back_because_a_thread_that_has_is_the_first_to_need_one(*, early: bool) -> None:
    ours, before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), threading.active_count()
    nursery, seen = Nursery(), list[int]()
    nursery.warm_up(start=early)

    def start() -> None:
        step_back()
        child = Child.start(ENTRY, name="one", nursery=nursery)
        seen.append(os.getpriority(os.PRIO_PROCESS, child.pid))
        child.stop()

    try:
        for _ in range(2):
            patient = threading.Thread(target=start)
            patient.start()
            patient.join(30)
            os.kill(nursery.pid or 0, signal.SIGKILL)
            wait_until(lambda: nursery.pid is None)
    finally:
        nursery.close()
    assert seen == [ours, ours]
    wait_until(lambda: threading.active_count() <= before)


def test_what_it_started_ends_also_when_its_nursery_is_killed_at_the_same_time_in_whatever_order() -> None:
    for first in (True, False, True, False):
        nursery = Nursery()
        child = Child.start(ENTRY, name="one", nursery=nursery)
        started = child.call(["start", None], reply=int, timeout=5)
        pids = nursery.pid or 0, child.pid
        for pid in pids if first else reversed(pids):
            os.kill(pid, signal.SIGKILL)
        assert gone_within(2, child.pid, started)
        child.stop()
        nursery.close()


def test_nothing_is_left_of_a_daemon_that_was_killed_with_children_that_hang_or_are_stopped(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\n"
        "from healthd.children import *\n"
        f"made = [Child.start({ENTRY!r}, name=str(n)) for n in range(3)]\n"
        "started = [child.call(['start', None], reply=int, timeout=5) for child in made]\n"
        "os.kill(started[2], signal.SIGSTOP)\n"
        "try: made[0].call(['hang', None], reply=object, timeout=0.1)\n"
        "except ChildTimeout: pass\n"
        "os.kill(made[1].pid, signal.SIGSTOP)\n"
        "os.kill(NURSERY.pid, signal.SIGSTOP)\n"
        "print(NURSERY.pid, *(child.pid for child in made), *started, flush=True)\n"
        "time.sleep(100)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as daemon:
        assert daemon.stdout is not None
        pids = [int(pid) for pid in daemon.stdout.readline().split()]
        assert len(pids) == 7
        daemon.kill()
    assert gone_within(2, *pids)
    assert not list(tmp_path.iterdir()), "no socket, no file"


def test_a_message_that_is_none_is_refused() -> None:
    near, far = socket.socketpair()
    with near, far:
        channel = Channel(near)
        far.sendall(b"\xff\xff\xff\xffgarbage")
        with pytest.raises(Gone):
            channel.receive(timeout=1)
        far.sendall(b"\x05\x00\x00\x00abc")
        with pytest.raises(TimeoutError):
            channel.receive(timeout=0.05)


def test_a_nursery_that_is_not_needed_yet_is_not_started_and_knows_later_what_to_import() -> None:
    later = Nursery()
    later.warm_up(["tests.child_entries"], start=False)
    assert later.pid is None
    try:
        child = Child.start(ENTRY, name="gym", nursery=later)
        assert child.call(["imported_by", None], reply=int, timeout=10) == later.pid
        child.stop()
    finally:
        later.close()
