"""The stop: always clean, always in bounded time, whatever a camera, a model or a viewer does."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.process.daemon import Daemon, environment, new_client, until

pytestmark = pytest.mark.process

SLACK_SECONDS = 1.5
"""What a loaded machine may take beyond what was configured."""

DRAIN_SECONDS = 1.0
GRACE_SECONDS = 1.0

HANGING: dict[str, dict[str, Any]] = {
    "read": {"do": "hang", "after": 5, "way": "lock"},
    "read-deaf": {"do": "hang", "after": 5, "way": "swallow"},
    "read-spinning": {"do": "hang", "after": 5, "way": "spin"},
    "open": {"do": "hang-open", "way": "read"},
    "close": {"do": "hang-close", "way": "read"},
    "predict": {"model": "own", "model_do": "hang", "model_after": 5, "way": "read"},
    "load": {"model": "own", "model_do": "hang-load", "way": "read"},
    "shared-load": {"model": "hang"},
    "model-close": {"model": "own", "model_do": "hang-close", "way": "lock"},
}
"""A camera for each way to hang, by name."""


def camera(*, isolation: str = "thread", **options: Any) -> dict[str, Any]:
    """A camera of the faulty plugin that is given up only by the stop itself; in a thread, where nothing is killed."""
    return {
        "plugin": "faulty",
        "isolation": isolation,
        "stall_timeout_seconds": 60,
        "open_timeout_seconds": 60,
        "predict_timeout_seconds": 60,
        "options": options,
    }


@dataclass
class Stopped:
    """How one daemon stopped."""

    code: int
    seconds: float
    daemon: Daemon


def hangs(daemon: Daemon, name: str) -> bool:
    """Tell whether the camera has got to where it hangs."""
    seen = daemon.camera(name)
    match name:
        case "open":
            return "opening" in journal(daemon)
        case "load":
            return "loading" in journal(daemon) and bool(seen["frame_id"])
        case "shared-load":
            return "model-loaded" in journal(daemon) and bool(seen["frame_id"])
        case "predict":
            return bool(seen["frames"]["predicted"] == 5 and seen["frames"]["in_hand"] and seen["frames"]["read"] > 8)
        case "close" | "model-close":
            return bool(seen["frame_id"])
    return bool(seen["frame_id"] == 5)


def journal(daemon: Daemon) -> str:
    """What the plugin has noted."""
    path = daemon.folder / "journal"
    return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.fixture(scope="module")
def hung(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stopped]]:
    """One daemon for each way to hang, all stopped at the same time."""
    with contextlib.ExitStack() as stack:
        daemons = {}
        for name, options in HANGING.items():
            folder = tmp_path_factory.mktemp(name)
            settings = {
                "shutdown": {"grace_seconds": GRACE_SECONDS, "drain_seconds": DRAIN_SECONDS},
                "cameras": {name: camera(journal=str(folder / "journal"), **options), "fine": camera()},
            }
            daemons[name] = stack.enter_context(Daemon(folder, settings))
        for name, daemon in daemons.items():
            until(lambda d=daemon, n=name: hangs(d, n), seconds=60, what=daemon.story)
            daemon.until_state("fine", "live", seconds=60)
        stopped: dict[str, Stopped] = {}

        def stop(name: str) -> None:
            code, seconds = daemons[name].stop(seconds=30)
            stopped[name] = Stopped(code, seconds, daemons[name])

        threads = [threading.Thread(target=stop, args=(name,)) for name in daemons]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        yield stopped


@pytest.mark.parametrize("name", HANGING)
def test_a_call_that_never_returns_delays_the_stop_by_the_drain_and_no_more(
    name: str, hung: dict[str, Stopped]
) -> None:
    assert name in hung, "it did not stop at all"
    stopped = hung[name]
    assert stopped.code == 0, stopped.daemon.story()
    assert stopped.seconds < DRAIN_SECONDS + SLACK_SECONDS, stopped.daemon.story()
    assert stopped.daemon.left_behind() == []


@pytest.mark.parametrize("name", HANGING)
def test_the_log_names_who_was_abandoned_and_nobody_else(name: str, hung: dict[str, Stopped]) -> None:
    (stopped,) = hung[name].daemon.events("stopped")
    assert stopped["abandoned"] == [name], hung[name].daemon.story()
    abandoned = [event["camera"] for event in hung[name].daemon.events("camera_abandoned")]
    assert abandoned == [name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_healthy_daemon_stops_within_a_second_with_exit_code_0(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    kinds = ["process", "thread"]
    cameras = {f"c{i}": camera(model="counter", journal=str(path), isolation=kinds[i // 4]) for i in range(8)}
    for name in list(cameras)[::2]:  # these wait most of the time, for the next picture or for their turn to predict
        cameras[name]["predict_fps"] = 4
        cameras[name]["options"]["fps"] = 5
    with Daemon(tmp_path, {"cameras": cameras}) as daemon:
        daemon.until_ready()
        for name in cameras:
            daemon.until_state(name, "live")
        code, seconds = daemon.stop(number)
        assert code == 0
        assert seconds < 1.0 + SLACK_SECONDS / 2
        assert daemon.left_behind() == []
        lines = path.read_text(encoding="utf-8").split("\n")
        assert sorted(line for line in lines if line.endswith(" closed")) == [f"{name} closed" for name in cameras]
        assert daemon.events("stopped")[0]["abandoned"] == []
        assert daemon.errors() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_pid_1_of_a_container_it_stops_too_with_everything_hung_at_once(
    number: signal.Signals, pid_namespace: None, tmp_path: Path
) -> None:
    shared = {"journal": str(tmp_path / "journal")}
    cameras = {name: camera(**options, **shared) for name, options in HANGING.items()}
    with Daemon(tmp_path, {"cameras": cameras}, as_pid_1=True) as daemon:
        for name in cameras:
            until(lambda n=name: hangs(daemon, n), seconds=60, what=daemon.story)
        code, seconds = daemon.stop(number)
        assert code == 0
        assert seconds < DRAIN_SECONDS + SLACK_SECONDS, daemon.story()
        assert daemon.left_behind() == []
        assert set(daemon.events("stopped")[0]["abandoned"]) == set(cameras)


@pytest.fixture
def held_open(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with a camera that will keep it draining for three seconds."""
    settings = {
        "shutdown": {"grace_seconds": GRACE_SECONDS, "drain_seconds": 3},
        "cameras": {"hung": camera(do="hang", after=5), "fine": camera(model="own", isolation="process")},
    }
    with Daemon(tmp_path, settings) as daemon:
        until(lambda: daemon.camera("hung")["frame_id"] == 5, what=daemon.story)
        until(
            lambda: (daemon.camera("fine")["frame_id"] or 0) > 1, what=daemon.story
        )  # newer than 1, which is asked for
        yield daemon


def test_during_a_drain_it_is_alive_but_not_ready_and_answers_whoever_asks(held_open: Daemon) -> None:
    daemon = held_open
    begun = daemon.send()
    until(lambda: daemon.events("stop_requested"), what=daemon.story)
    while time.monotonic() - begun < 2:
        with new_client(daemon.url) as client:  # a new connection each, as a kubelet makes it
            ready, alive, picture = (
                client.get(path) for path in ("/readyz", "/healthz", "/api/v1/cameras/fine/snapshot?after=1&wait=60000")
            )
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        assert alive.status_code == 200
        assert picture.status_code in {200, 404}, picture.text
    assert daemon.wait(seconds=10) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once_with_the_code_of_that_signal(
    number: signal.Signals, code: int, held_open: Daemon
) -> None:
    held_open.send()
    until(lambda: held_open.events("stop_requested"), what=held_open.story)
    time.sleep(0.2)  # a supervisor's double signal is one signal, and this is none
    assert held_open.stop(number)[0] == code
    assert held_open.left_behind() == []


@contextlib.contextmanager
def connected(daemon: Daemon, *sent: bytes) -> Iterator[socket.socket]:
    """A client that sends so much and then waits."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as connection:
        for part in sent:
            connection.sendall(part)
        yield connection


def test_clients_that_wait_or_say_nothing_do_not_hold_the_stop_open(tmp_path: Path) -> None:
    settings = {
        "shutdown": {"grace_seconds": GRACE_SECONDS, "drain_seconds": DRAIN_SECONDS},
        "cameras": {"slow": camera(fps=0.05, after=0), "fine": camera()},
    }
    host = b"Host: 127.0.0.1\r\n"
    poll = b"GET /api/v1/cameras/%s/snapshot?after=0&wait=60000&overlay=true HTTP/1.1\r\n" + host + b"\r\n"
    with (
        Daemon(tmp_path, settings) as daemon,
        connected(daemon, b"GET /healthz HTTP/1.1\r\n" + host + b"\r\n") as idle,
        connected(daemon) as silent,
        connected(daemon, b"GET /api/v1/cameras HTTP/1.1\r\nHost: 127.") as half_a_head,
        connected(daemon, b"POST /api/v1/auth/login HTTP/1.1\r\n" + host + b"Content-Length: 400\r\n\r\n{") as half,
        connected(daemon, poll % b"fine") as polling,
    ):
        daemon.until_state("fine", "live")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        time.sleep(0.3)  # let the half requests arrive
        begun = daemon.send()
        answer = polling.recv(4096)
        assert time.monotonic() - begun < 0.5 + SLACK_SECONDS, "the long poll was not answered at once"
        assert answer.split()[1] in {b"404", b"304", b"200"}
        code = daemon.wait(seconds=20)
        seconds = time.monotonic() - begun
        assert code == 0, daemon.story()
        assert seconds < DRAIN_SECONDS + GRACE_SECONDS + SLACK_SECONDS, daemon.story()
        assert [error for error in daemon.errors() if error["logger"] != "uvicorn.error"] == []
        assert silent.recv(1) == b""
        assert b" 200 " not in half_a_head.recv(4096) + half.recv(4096)


def test_whoever_reads_its_output_may_leave_before_it_stops(tmp_path: Path) -> None:
    with Daemon(tmp_path, {"cameras": {"fine": camera()}}) as daemon:
        daemon.until_state("fine", "live")
        daemon.close_pipes()
        assert daemon.stop()[0] == 0


def test_a_log_that_nobody_reads_any_more_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    settings = {
        "log": {"level": "debug"},
        "shutdown": {"grace_seconds": 0, "drain_seconds": 0},
        "cameras": {"loud": {**camera(do="spew", fps=50), "url": f"rtsp://camera.example/{'x' * 400}"}},
    }
    with Daemon(tmp_path, settings, deaf=True) as daemon:
        sizes = [0]

        def full() -> bool:  # a pipe holds 64 KiB, not all of it used
            time.sleep(0.5)
            sizes.append(daemon.unread_bytes())
            return sizes[-1] > 20_000 and sizes[-1] == sizes[-2]

        until(full, seconds=60, what=sizes)
        assert daemon.get("/healthz").status_code == 200
        code, seconds = daemon.stop(seconds=30)
        assert code == 0
        assert seconds < 1.0 + SLACK_SECONDS


# -- signals, whatever the event loop's thread does --------------------------------------------------------------------

STUCK = """
import asyncio, ctypes, time
from healthd.signals import own_signals

async def main():
    with own_signals(asyncio.Event(), force_seconds=lambda: {force}):
        mutex = ctypes.create_string_buffer(256)
        lock = ctypes.CDLL(None).pthread_mutex_lock  # which no signal interrupts
        lock(mutex)
        print("stuck", flush=True)
        lock(mutex)

asyncio.run(main())
"""

FORKED = """
import asyncio, os, signal, time
from healthd.signals import own_signals

async def main():
    stop = asyncio.Event()
    with own_signals(stop, force_seconds=lambda: 30):
        if not (child := os.fork()):
            time.sleep(30)
        time.sleep(0.2)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        await asyncio.sleep(0.2)
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 5)

asyncio.run(main())
"""


@contextlib.contextmanager
def script(text: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs this text."""
    command = [sys.executable, "-c", text]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_though_its_loop_is_stuck_in_c(number: signal.Signals, code: int) -> None:
    with script(STUCK.format(force=60)) as stuck:
        assert stuck.stdout is not None
        assert stuck.stdout.readline() == "stuck\n"
        stuck.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            stuck.wait(timeout=0.5)
        stuck.send_signal(number)
        assert stuck.wait(timeout=5) == code


def test_two_signals_at_once_are_one_and_a_stop_that_comes_to_nothing_is_forced() -> None:
    with script(STUCK.format(force=1)) as stuck:
        assert stuck.stdout is not None
        assert stuck.stdout.readline() == "stuck\n"
        stuck.send_signal(signal.SIGTERM)
        stuck.send_signal(signal.SIGINT)
        assert stuck.wait(timeout=10) == 1


def test_a_fork_that_a_plugin_made_dies_of_its_own_signal_and_the_daemon_goes_on() -> None:
    with script(FORKED) as forked:
        assert forked.wait(timeout=20) == 0


HALF_SENT = (
    ("/api/v1/auth/login", "application/json", b'{"key": "'),
    ("/api/v1/infer", "image/jpeg", b"\xff\xd8"),
    ("/api/v1/jobs", "application/json", b'{"path'),
)


def test_a_request_that_was_sent_by_half_is_told_of_the_stop_and_is_no_error(tmp_path: Path) -> None:
    with Daemon(tmp_path, {"models": {"default": "counter"}}) as daemon, contextlib.ExitStack() as stack:
        daemon.until_ready()
        clients = []
        for path, kind, begun in HALF_SENT:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port), timeout=20))
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
            client.sendall(head.encode() + begun)
            clients.append(client)
        time.sleep(0.3)
        code, seconds = daemon.stop()
        assert code == 0
        assert seconds < DRAIN_SECONDS + GRACE_SECONDS + SLACK_SECONDS
        for client in clients:
            head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 "), head
            assert b"retry-after: " in head
            assert json.loads(body) == {"status_code": 503, "detail": "healthd stops", "extra": {}}
        assert daemon.errors() == [], daemon.story()
        assert [event["requests"] for event in daemon.events("http_abandoned")] == [len(HALF_SENT)]


def test_an_answer_that_nobody_reads_is_cut_by_the_stop_and_is_no_error(tmp_path: Path) -> None:
    with Daemon(tmp_path, {}) as daemon, contextlib.ExitStack() as stack:
        daemon.until_ready()
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", daemon.port))
        client.sendall(b"GET /schema HTTP/1.1\r\nHost: localhost\r\n\r\n" * 90)  # fewer than `MAX_PIPELINED`
        time.sleep(0.5)
        code, seconds = daemon.stop()
        assert code == 0
        assert seconds < DRAIN_SECONDS + GRACE_SECONDS + SLACK_SECONDS
        assert daemon.errors() == [], daemon.story()
        assert [event["requests"] for event in daemon.events("http_abandoned")] == [1]
