"""A few threads for short blocking calls that always return, such as decoding a picture.

Daemon threads: unlike those of `asyncio.to_thread` and `ThreadPoolExecutor` they do not hold the exit of the process.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Crew:
    """So many threads, made when they are first needed; more calls wait for a free one. Event loop only."""

    def __init__(self, name: str, *, threads: int) -> None:
        self._name = name
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._unanswered = 0

    async def run(self, function: Callable[[], T]) -> T:
        """Return what `function` returns, or raise what it raises. Cancelled before its turn, it is not called."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._unanswered += 1
        if self._unanswered > len(self._threads) and len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

        def answered(result: Any, error: BaseException | None) -> None:
            self._unanswered -= 1
            if answer.done():  # nobody waits any more
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        def job() -> None:
            result, error = None, None
            if not answer.cancelled():
                try:
                    result = function()
                except Exception as exc:  # noqa: BLE001  it is raised again where it was asked for
                    error = exc
                except BaseException as exc:  # noqa: BLE001  the thread must answer, and go on
                    error = RuntimeError(f"{type(exc).__name__} raised by a blocking call")
            loop.call_soon_threadsafe(answered, result, error)

        self._jobs.put(job)
        return await answer

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except RuntimeError:
                return  # the loop is closed: the daemon has stopped and nobody waits
            del job
