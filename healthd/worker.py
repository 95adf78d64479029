"""Threads for blocking calls that may never return.

`asyncio.to_thread` and `ThreadPoolExecutor` keep the interpreter alive until a stuck call returns, and let a
`release()` run while a `read()` is still inside the driver. A `Worker` does neither: it is one daemon thread that runs
one call at a time, and it can be abandoned.
"""

import asyncio
import contextlib
import contextvars
import math
import os
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

import structlog

from healthd.errors import BusyError, HealthdError

T = TypeVar("T")
log = structlog.get_logger(__name__)


class WorkerTimeout(HealthdError):  # noqa: N818  it is a timeout; the word says so
    """A blocking call did not answer in time; its worker is abandoned and must not be called again."""


class EnterTimeout(WorkerTimeout):
    """What timed out was the entering of a context manager."""


class NoThreadError(BusyError):
    """The machine gives no further thread now; nothing of the call was begun."""


PATIENCE = 10
"""How much nicer than others a patient thread is: beside one that wants the core as well, it gets a tenth of it."""
AGAIN_SECONDS = 1.0
"""So long after there was no thread left one is asked for again."""


def step_back() -> None:
    """Let other threads go before this one and those that it starts from now on. An idle machine is as fast as before.

    Only on Linux have threads a priority of their own.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            nice = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, nice + PATIENCE))


class Worker:
    """One daemon thread for blocking calls, one at a time, in the order they were asked for.

    Lives from `start` to `close` or `abandon`. After `abandon` nobody waits for it: should the stuck call ever return,
    the thread runs its last job and ends by itself.
    """

    def __init__(self, name: str, *, patient: bool = False) -> None:
        """`patient`: it computes for long, and lets threads go first that have little to do."""
        self.name = name
        self.abandoned = False
        self._patient = patient
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._unanswered = 0

    @property
    def alive(self) -> bool:
        """Whether the thread still exists; an abandoned worker that stays alive is stuck."""
        return self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether a call was made that has not answered yet."""
        return self._unanswered > 0

    def start(self) -> None:
        """Start the thread.

        Raises:
            NoThreadError: there is none.
        """
        try:
            self._thread.start()
        except RuntimeError as exc:
            raise NoThreadError(f"no thread is left: {exc}") from None

    async def call(
        self,
        function: Callable[[], T],
        *,
        timeout: float | None,  # noqa: ASYNC109  a bound per call is the point
        late: str = "no answer",
        grace: float = 0.0,
    ) -> T:
        """Run `function` on the thread and return what it returns or raise what it raises.

        `grace`: so much later than `timeout` it is given up, for a function that keeps to `timeout` by itself.

        Raises:
            WorkerTimeout: `late` within `timeout` seconds; the worker takes no further calls and is to be abandoned.
        """
        if self.abandoned:
            raise WorkerTimeout(f"{self.name} was abandoned")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._unanswered += 1
        self._jobs.put(self._job(function, loop, answer))
        try:
            done, _ = await asyncio.wait([answer], timeout=None if timeout is None else timeout + grace)
        finally:
            answer.cancel()  # nobody will ask for it any more; does nothing to an answer that came
        if not done:
            self.abandoned = True  # its owner still says what it shall do last, should it ever come back
            raise WorkerTimeout(f"{late} within {timeout:g} s")
        try:
            return answer.result()
        finally:
            del answer, done  # as in `answered`

    def abandon(self, last: Callable[[], object] | None = None) -> None:
        """Stop waiting for this worker; `last` runs on its thread if the call in hand ever returns."""
        self.abandoned = True
        if last is not None:
            self._jobs.put(lambda: _run_quietly(self.name, last))
        self._jobs.put(None)

    def close(self) -> None:
        """End the thread after the jobs it was given."""
        self._jobs.put(None)

    def _job(
        self, function: Callable[[], T], loop: asyncio.AbstractEventLoop, answer: "asyncio.Future[T]"
    ) -> Callable[[], None]:
        context = contextvars.copy_context()
        answers = [answer]

        def answered(result: T | None, error: Exception | None) -> None:
            self._unanswered -= 1
            # An error holds the frames that it went through, and through them these functions: a circle, if they held
            # the answer, that would keep all that a session of a camera has until the garbage collector comes.
            answer = answers.pop()
            if answer.done():  # nobody waits any more
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result: T | None = None
            error: Exception | None = None
            try:
                result = context.run(function)
            except Exception as exc:  # noqa: BLE001  it is raised again where it was asked for
                error = exc
                if isinstance(exc, StopIteration):  # a future cannot carry it
                    error = RuntimeError("StopIteration raised by a blocking call")
                    error.__cause__ = exc
            except BaseException as exc:  # noqa: BLE001  SystemExit from a plugin must not end the event loop
                error = RuntimeError(f"{type(exc).__name__} raised by a blocking call")
                error.__cause__ = exc
            with contextlib.suppress(RuntimeError):  # the loop is closed: the daemon has stopped and nobody waits
                loop.call_soon_threadsafe(answered, result, error)
            del result, error

        return run

    def _work(self) -> None:
        if self._patient:
            step_back()
        while (job := self._jobs.get()) is not None:
            job()
            del job  # until the next one comes, nothing of it is held


class WorkerPool:
    """Workers lent for one call each: as many as are needed at a time, some kept for the next. Event loop only.

    Whoever uses it bounds how many calls there are at a time. A worker that does not answer is given up, and counted
    as stuck until it comes back; so is one that nobody waits for any more, once its time is over.
    """

    def __init__(self, name: str, *, keep: int = 4, patient: bool = False) -> None:
        """`patient`: as that of its workers."""
        self._name = name
        self._patient = patient
        self._keep = keep
        self._idle: list[Worker] = []
        self._given_up: list[Worker] = []
        self._left: list[tuple[float, Worker]] = []
        """Those whose callers have gone, and the time by which they should have come back."""

    @property
    def stuck(self) -> int:
        """How many workers were given up, or were left and are late, and have not come back."""
        self._prune()
        late = time.monotonic()
        return len(self._given_up) + sum(until <= late for until, _ in self._left)

    @property
    def left(self) -> int:
        """How many are in a call that nobody waits for any more, late or not."""
        self._prune()
        return len(self._left)

    async def call(
        self,
        function: Callable[[], T],
        *,
        timeout: float | None,  # noqa: ASYNC109  a bound per call is the point
        late: str = "no answer",
        grace: float = 0.0,
    ) -> T:
        """Run `function` on a thread and return what it returns or raise what it raises; `grace`: as for a worker.

        Cancelled, it leaves the function to its thread.

        Raises:
            NoThreadError: there is no thread for it; the function is not called.
            WorkerTimeout: `late` within `timeout` seconds; the thread is given up.
        """
        worker = self._idle.pop() if self._idle else self._started()
        until = math.inf if timeout is None else time.monotonic() + timeout + grace
        try:
            return await worker.call(function, timeout=timeout, late=late, grace=grace)
        except WorkerTimeout:
            self._prune()
            self._given_up.append(worker)
            raise
        except asyncio.CancelledError:
            if worker.busy:
                self._prune()
                self._left.append((until, worker))
            raise
        finally:
            if worker.abandoned or worker.busy:
                worker.abandon()
            elif len(self._idle) < self._keep:
                self._idle.append(worker)
            else:
                worker.close()

    def close(self) -> None:
        """End the threads that do nothing; those in a call end after it."""
        while self._idle:
            self._idle.pop().close()

    def _prune(self) -> None:
        """Forget those that have come back."""
        self._given_up = [worker for worker in self._given_up if worker.alive]
        self._left = [left for left in self._left if left[1].alive]

    def _started(self) -> Worker:
        worker = Worker(self._name, patient=self._patient)
        worker.start()
        return worker


def on_a_thread(function: Callable[[], None]) -> None:
    """Call what may block on a thread of its own; later, where there is none now. Event loop only."""
    try:
        threading.Thread(target=function, name="aside", daemon=True).start()
    except RuntimeError:  # none is left: what it gives back is given back all the same, only later
        asyncio.get_running_loop().call_later(AGAIN_SECONDS, on_a_thread, function)


def _run_quietly(name: str, function: Callable[[], object]) -> None:
    try:
        function()
    except Exception as exc:  # noqa: BLE001  clean-up of something that was given up long ago
        log.debug("abandoned_cleanup_failed", worker=name, error=repr(exc))


class _Entry:
    """Enters a context manager made by a factory, and remembers whether it must be left."""

    def __init__(self, factory: Callable[[], AbstractContextManager[Any] | None]) -> None:
        self._factory = factory
        self._manager: AbstractContextManager[Any] | None = None

    def enter(self) -> Any:
        manager = self._factory()
        if manager is None:
            return None
        value = manager.__enter__()
        self._manager = manager
        return value

    def leave(self) -> None:
        """Leave it as after an ordinary end: what went wrong in between is not the plugin's to handle."""
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.__exit__(None, None, None)


@asynccontextmanager
async def entered(
    name: str,
    factory: Callable[[], AbstractContextManager[T] | None],
    *,
    enter_timeout: float,
    exit_timeout: float,
    on_abandoned: Callable[[Worker], None],
    enter_grace: float = 0.0,
    late: str = "not opened",
    patient: bool = False,
) -> AsyncIterator[tuple[Worker, T | None]]:
    """Make and enter a context manager on a worker of its own; yield the worker and what the manager yielded.

    The manager is made, entered, used and left on that one thread. None from the factory is yielded as None. A worker
    that does not answer is abandoned and reported to `on_abandoned`; it leaves the manager by itself should it ever
    come back.

    Raises:
        EnterTimeout: `late` within `enter_timeout` seconds.
    """
    worker, entry = Worker(name, patient=patient), _Entry(factory)
    worker.start()
    try:
        try:
            value = await worker.call(entry.enter, timeout=enter_timeout, late=late, grace=enter_grace)
        except WorkerTimeout as exc:
            raise EnterTimeout(str(exc)) from None
        yield worker, value
    finally:
        if not worker.abandoned and not worker.busy:
            try:
                await worker.call(entry.leave, timeout=exit_timeout)
            except WorkerTimeout as exc:
                log.warning("close_abandoned", worker=name, error=str(exc))
            except Exception as exc:  # noqa: BLE001  a failing close must not hide why the session ended
                log.warning("close_failed", worker=name, error=repr(exc))
        if worker.abandoned or worker.busy:
            worker.abandon(entry.leave)
            on_abandoned(worker)
        else:
            worker.close()
