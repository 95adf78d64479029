"""What is adopted is reaped, and what somebody waits for is left to them."""

import os
import subprocess
import sys
import threading

import pytest

from healthd.orphans import Orphans, children
from tests.eventually import until_true

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux' alone")


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def test_what_has_ended_is_reaped_at_the_second_look_and_what_lives_is_not() -> None:
    orphans = Orphans()
    with subprocess.Popen(["sleep", "1000"]) as living, subprocess.Popen(["true"]) as ended:
        until_true(lambda: has_ended(ended.pid))
        orphans.reap()
        assert has_ended(ended.pid), "whoever has started it may still ask"
        orphans.reap()
        assert ended.pid not in children()
        orphans.reap()
        assert living.pid in children()
        assert living.poll() is None
        living.kill()


def test_what_a_thread_has_started_is_left_to_it() -> None:
    orphans, started, looked = Orphans(), threading.Event(), threading.Event()
    statuses: list[int] = []

    def start() -> None:
        with subprocess.Popen(["false"]) as own:
            until_true(lambda: has_ended(own.pid))
            started.set()
            looked.wait(20)
            statuses.append(own.wait())

    thread = threading.Thread(target=start)
    thread.start()
    assert started.wait(20)
    for _ in range(3):
        orphans.reap()
    looked.set()
    thread.join()
    assert statuses == [1]
