"""Workers: one thread, one call at a time, abandoned when it does not answer."""

import asyncio
import contextlib
import contextvars
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from healthd.worker import PATIENCE, EnterTimeout, NoThreadError, Worker, WorkerPool, WorkerTimeout, entered
from tests.eventually import eventually


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("test")
    worker.start()
    yield worker
    worker.close()


async def test_calls_run_on_one_thread_in_order(worker: Worker) -> None:
    names = [await worker.call(threading.current_thread, timeout=1) for _ in range(3)]
    assert len(set(names)) == 1
    assert names[0].daemon
    assert names[0].name == "test"


async def test_what_the_call_raises_is_raised_to_the_caller(worker: Worker) -> None:
    with pytest.raises(ZeroDivisionError):
        await worker.call(lambda: 1 // 0, timeout=1)


@pytest.mark.parametrize("error", [StopIteration(), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_errors_that_would_end_the_loop_become_ordinary_ones(worker: Worker, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(RuntimeError) as caught:
        await worker.call(fail, timeout=1)
    assert caught.value.__cause__ is error


async def test_a_timeout_error_of_the_call_is_not_the_workers(worker: Worker) -> None:
    def fail() -> None:
        raise TimeoutError("the driver's own")

    with pytest.raises(TimeoutError, match="own"):
        await worker.call(fail, timeout=1)
    assert not worker.abandoned


async def test_a_stuck_call_delays_nobody_and_its_worker_is_abandoned(worker: Worker) -> None:
    stuck = threading.Event()
    begun = time.monotonic()
    with pytest.raises(WorkerTimeout, match=r"no image within 0\.05 s"):
        await worker.call(stuck.wait, timeout=0.05, late="no image")
    assert time.monotonic() - begun < 1
    assert worker.abandoned
    assert worker.alive
    worker.abandon()
    stuck.set()
    while worker.alive:
        await asyncio.sleep(0.001)


async def test_context_variables_of_the_caller_are_seen_by_the_call(worker: Worker) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("camera")
    variable.set("gym")
    assert await worker.call(variable.get, timeout=1) == "gym"


async def test_what_an_abandoned_call_raises_later_bothers_nobody(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = threading.Event()

    def fail() -> None:
        stuck.wait()
        raise ValueError("too late")

    with pytest.raises(WorkerTimeout):
        await worker.call(fail, timeout=0.01)
    worker.abandon()
    stuck.set()
    while worker.alive:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    gc.collect()
    assert not caplog.records


class Door:
    """A context manager that notes on which thread it was entered and left."""

    def __init__(self, *, slow: threading.Event | None = None) -> None:
        self.events: list[tuple[str, str]] = []
        self.slow = slow

    @contextmanager
    def open(self) -> Iterator[str]:
        self.note("enter")
        if self.slow:
            self.slow.wait()
        yield "inside"
        self.note("leave")  # no `finally`: healthd leaves it as after an ordinary end

    def note(self, what: str) -> None:
        self.events.append((what, threading.current_thread().name))


async def test_a_manager_is_entered_used_and_left_on_one_thread() -> None:
    door = Door()
    with pytest.raises(ValueError, match="in between"):
        async with entered("t", door.open, enter_timeout=1, exit_timeout=1, on_abandoned=lambda _: None) as (w, value):
            assert value == "inside"
            await w.call(lambda: door.note("use"), timeout=1)
            raise ValueError("in between")
    assert door.events == [("enter", "t"), ("use", "t"), ("leave", "t")]


async def test_nothing_to_enter_is_none() -> None:
    async with entered("t", lambda: None, enter_timeout=1, exit_timeout=1, on_abandoned=lambda _: None) as (_, value):
        assert value is None


async def test_a_manager_whose_entering_hangs_is_left_when_it_comes_back() -> None:
    hang, abandoned = threading.Event(), []
    door = Door(slow=hang)
    with pytest.raises(EnterTimeout, match="did not open within"):
        async with entered(
            "t", door.open, enter_timeout=0.05, exit_timeout=1, on_abandoned=abandoned.append, late="did not open"
        ):
            pytest.fail("it was not entered")
    assert [worker.name for worker in abandoned] == ["t"]
    hang.set()
    while abandoned[0].alive:
        await asyncio.sleep(0.001)
    assert door.events == [("enter", "t"), ("leave", "t")]


async def test_the_release_waits_for_the_read_that_is_still_inside_the_driver() -> None:
    door, hang, abandoned = Door(), threading.Event(), []

    async def session() -> None:
        async with entered("t", door.open, enter_timeout=1, exit_timeout=1, on_abandoned=abandoned.append) as (w, _):
            await w.call(lambda: (hang.wait(), door.note("read")), timeout=None)

    task = asyncio.create_task(session())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert door.events == [("enter", "t")]
    hang.set()
    while abandoned[0].alive:
        await asyncio.sleep(0.001)
    assert door.events == [("enter", "t"), ("read", "t"), ("leave", "t")]


async def test_a_close_that_hangs_is_bounded() -> None:
    hang, abandoned = threading.Event(), []

    @contextmanager
    def sticky() -> Iterator[None]:
        yield
        hang.wait()

    begun = time.monotonic()
    async with entered("t", sticky, enter_timeout=1, exit_timeout=0.05, on_abandoned=abandoned.append):
        pass
    assert time.monotonic() - begun < 1
    assert len(abandoned) == 1
    hang.set()


@pytest.mark.skipif(sys.platform != "linux", reason="only there a thread has a priority of its own")
async def test_a_patient_worker_and_the_threads_it_starts_let_others_go_first() -> None:
    def niceness() -> tuple[int, int]:
        inner: list[int] = []
        thread = threading.Thread(target=lambda: inner.append(os.getpriority(os.PRIO_PROCESS, 0)))
        thread.start()
        thread.join()
        return os.getpriority(os.PRIO_PROCESS, 0), inner[0]

    ours = os.getpriority(os.PRIO_PROCESS, 0)
    for patient, expected in ((False, ours), (True, min(19, ours + PATIENCE))):
        worker = Worker("t", patient=patient)
        worker.start()
        assert await worker.call(niceness, timeout=5) == (expected, expected)
        worker.close()
    assert os.getpriority(os.PRIO_PROCESS, 0) == ours


async def test_what_an_error_went_through_is_let_go_of_at_once() -> None:
    """It holds its frames, and so all that a session of a camera had: descriptors and images among it."""

    class Held:
        pass

    held: list[weakref.ref[Held]] = []

    def fail() -> None:
        one = Held()
        held.append(weakref.ref(one))
        raise ValueError("no")

    worker = Worker("one")
    worker.start()
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            await worker.call(fail, timeout=5)
        await worker.call(lambda: None, timeout=5)
        assert held[0]() is None
    finally:
        gc.enable()
        worker.close()


async def test_a_call_that_its_caller_has_left_counts_as_stuck_once_it_is_late_until_it_comes_back() -> None:
    hang, pool = threading.Event(), WorkerPool("t")
    tasks = [asyncio.create_task(pool.call(hang.wait, timeout=timeout)) for timeout in (0.1, 30)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert pool.left == 2
    await eventually(lambda: pool.stuck == 1)
    hang.set()
    await eventually(lambda: pool.stuck == pool.left == 0)


async def test_calls_that_were_left_are_forgotten_when_they_have_come_back_though_nobody_asks() -> None:
    pool = WorkerPool("t")

    async def leave(*, within: float) -> None:
        free = threading.Event()
        call = asyncio.create_task(pool.call(free.wait, timeout=within))
        await asyncio.sleep(0)
        if within > 1:
            call.cancel()
        await asyncio.wait([call])
        worker = pool._left[-1][1] if within > 1 else pool._given_up[-1]
        free.set()
        await eventually(lambda: not worker.alive)

    for _ in range(5):
        await leave(within=30)
        await leave(within=0.01)
    assert len(pool._left) + len(pool._given_up) <= 2, "the last ones"


async def test_a_call_that_has_answered_is_left_by_nobody() -> None:
    pool = WorkerPool("t")
    assert await pool.call(lambda: 1, timeout=None) == 1
    assert pool.stuck == pool.left == 0
    pool.close()


async def test_where_no_thread_is_left_a_call_is_refused_in_words_and_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool, called = WorkerPool("t"), list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(NoThreadError, match="no thread is left: can't start new thread"):
            await pool.call(lambda: called.append(1), timeout=1)
    assert called == []
    assert pool.stuck == pool.left == 0
    await pool.call(lambda: called.append(1), timeout=5)
    pool.close()
