"""A thread on which a plugin is called, one call at a time, each with a bound: as the daemon does it."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from healthd.testing.rules import Broken

T = TypeVar("T")


class Lane:
    """One thread. Lives until `close`; a call that never returns leaves it behind, as a daemon thread."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"conformance-{name}", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], T], *, seconds: float, what: str) -> T:
        """Return what the function returns, or raise what it raises.

        Raises:
            Broken: no answer in time, or something that is no `Exception`, such as SystemExit.
        """
        answer = self.begin(function)
        try:
            return answer.result(timeout=seconds)
        except TimeoutError as exc:
            if answer.done():
                raise
            raise Broken(
                f"{what} gave no answer within {seconds:g} s",
                "give up in time: a source knows its `open_timeout_seconds` and `stall_timeout_seconds`",
            ) from exc

    def begin(self, function: Callable[[], T]) -> "Future[T]":
        """Call the function after those before it; do not wait for it."""
        answer: Future[T] = Future()
        self._jobs.put((answer, function))
        return answer

    def close(self) -> None:
        """End the thread after the calls that it was given."""
        self._jobs.put(None)
        self._thread.join(0.5)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            answer, function = job
            try:
                answer.set_result(function())
            except Exception as exc:  # noqa: BLE001  raised again where it was asked for
                answer.set_exception(exc)
            except BaseException as exc:  # noqa: BLE001  the same
                broken = Broken(f"it raised {type(exc).__name__}", "raise an error of healthd; never end the process")
                broken.__cause__ = exc
                answer.set_exception(broken)
            del job, answer, function  # what it made must not live until the next call
