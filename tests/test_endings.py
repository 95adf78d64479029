"""How a process ended, and whether the kernel killed it for want of memory."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from healthd.children import Child, ChildEnded, Nursery
from healthd.endings import oom_kills

UNIFIED = "0::/pod/healthd\n"
V1 = "12:cpu,cpuacct:/pod\n5:memory:/pod/healthd\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "counts", "found"),
    [
        (UNIFIED, {"pod/healthd/memory.events": "low 0\noom 3\noom_kill 2\n"}, 7),
        (UNIFIED, {"memory.events": "oom_kill 2\n"}, 7),  # in a container its own group is the root
        (UNIFIED, {"pod/healthd/memory.events": "oom_kill 2\n", "memory.events": "oom_kill 90\n"}, 7),
        (V1, {"memory/pod/healthd/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"}, 7),
        (V1, {"memory/memory.oom_control": "oom_kill 2\n"}, 7),
        (UNIFIED, {"pod/healthd/memory.events": "oom_kill many\n"}, 5),
        (UNIFIED, {}, 5),
    ],
)
def test_kills_for_want_of_memory_are_those_of_the_host_and_of_the_own_control_group(
    groups: str, counts: dict[str, str], found: int, tmp_path: Path
) -> None:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "vmstat").write_text("nr_free_pages 17\noom_kill 5\n")
    (proc / "self" / "cgroup").write_text(groups)
    for place, text in counts.items():
        (cgroup / place).parent.mkdir(parents=True, exist_ok=True)
        (cgroup / place).write_text(text)
    assert oom_kills(proc=proc, cgroup=cgroup) == found


def test_where_the_kernel_does_not_say_nothing_is_counted(tmp_path: Path) -> None:
    assert oom_kills(proc=tmp_path, cgroup=tmp_path) == 0


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.mark.skipif(sys.platform != "linux", reason="children are Linux' alone")
@pytest.mark.parametrize(
    ("number", "kills", "cause", "told"),
    [
        (signal.SIGKILL, 1, "out_of_memory", "was ended by SIGKILL (out of memory?)"),
        (signal.SIGKILL, 0, "crashed", "was ended by SIGKILL"),
        (signal.SIGSEGV, 1, "crashed", "was ended by SIGSEGV"),
    ],
)
def test_a_child_that_was_killed_while_the_kernel_wanted_memory_says_so(
    number: int, kills: int, cause: str, told: str, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = 3
    monkeypatch.setattr("healthd.children.oom_kills", lambda: counted)
    child = Child.start("tests.child_entries:answers", name="gym", nursery=nursery)
    try:
        assert child.call(["echo", 1], reply=int, timeout=20) == 1
        counted += kills
        os.kill(child.pid, number)
        with pytest.raises(ChildEnded) as caught:
            child.call(["echo", 1], reply=int, timeout=5)
        assert (caught.value.ending.cause, str(caught.value.ending)) == (cause, told)
    finally:
        child.stop(grace_seconds=0, term_seconds=0)
