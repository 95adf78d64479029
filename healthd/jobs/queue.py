"""huey's queue, embedded: which job is next, and threads that take it up. What a job is stands in its record.

huey takes a task off its queue when it begins, and a process that is killed then would lose it. Here a task is only
the word that a job waits: a record that waits is put into the queue again as often as need be, and whoever takes it up
twice finds that it does not wait any more. Tasks are JSON: whoever can write to the Redis runs no code here.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from huey.api import Huey
from huey.consumer import Consumer
from huey.consumer import Worker as ConsumerWorker
from huey.registry import Message
from huey.serializer import Serializer
from huey.storage import RedisStorage, SqliteStorage

from healthd.redact import SourceUrl

NAME = "healthdjobs"
POLL_SECONDS = 0.5
"""How often a worker that has nothing to do looks into SQLite; in Redis it waits."""

ANSWER_SECONDS = 5.0
"""How long Redis may take for an answer."""


class _Json(Serializer):  # type: ignore[misc]
    """A task as a list of JSON."""

    def _serialize(self, data: Message) -> bytes:
        return json.dumps([data.id, data.name, *data.args]).encode()

    def _deserialize(self, data: bytes | memoryview) -> Message:
        task_id, name, *args = json.loads(bytes(data))
        return Message(id=task_id, name=name, retries=0, retry_delay=0, args=tuple(args), kwargs={})


class _Worker(ConsumerWorker):  # type: ignore[misc]
    """Takes one task after another; one that fails, and a queue that does not answer, is told and not fatal."""

    def loop(self, now: object = None) -> None:
        """Look once."""
        del now
        queue: JobQueue = self.huey.healthd_queue
        try:
            task = self.huey.dequeue()
            if task is not None:
                self.delay = self.default_delay
                self.huey.execute(task)
            queue.on_answer()
        except Exception as exc:  # noqa: BLE001  the storage, whatever it raises; the jobs themselves raise nothing
            queue.on_trouble(exc)
            self.sleep()
            return
        if task is None and not self.huey.storage.blocking:
            self.sleep()


class _Consumer(Consumer):  # type: ignore[misc]
    """huey's consumer without hands on the signals, which are the daemon's, and without a schedule."""

    worker_class = _Worker

    def start(self) -> None:
        """Start the workers, on daemon threads."""
        for _, thread in self.worker_threads:
            thread.start()


class JobQueue:
    """The queue and its workers. Lives as long as the daemon; `put` and `depth` may be called from any thread."""

    def __init__(
        self,
        storage: SqliteStorage | RedisStorage,
        run: Callable[[str], None],
        *,
        workers: int,
        on_trouble: Callable[[Exception], None],
        on_answer: Callable[[], None],
    ) -> None:
        logging.getLogger("huey").setLevel(logging.WARNING)  # it tells of every task, and how each begins and ends
        self.on_trouble = on_trouble
        self.on_answer = on_answer
        self._huey = Huey(
            NAME, results=False, serializer=_Json(), storage_class=lambda _: storage, immediate_use_memory=False
        )
        self._huey.healthd_queue = self

        def run_job(job_id: str) -> None:
            run(job_id)

        self._task = self._huey.task(name="run_job")(run_job)
        self._consumer = _Consumer(
            self._huey,
            workers=workers,
            periodic=False,
            initial_delay=0.05,
            max_delay=POLL_SECONDS,
            check_worker_health=False,
        )

    def put(self, job_id: str) -> None:
        """Say that a job waits."""
        self._task(job_id)

    def depth(self) -> int:
        """Return how many tasks wait."""
        return int(self._huey.pending_count())

    def start(self) -> None:
        """Start the workers."""
        self._consumer.start()

    def request_stop(self) -> None:
        """Let the workers take up nothing more."""
        self._consumer.stop_flag.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the workers to end; False when they have not, in time."""
        deadline = time.monotonic() + timeout_seconds
        threads: list[threading.Thread] = [thread for _, thread in self._consumer.worker_threads]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)


def sqlite_storage(path: str) -> SqliteStorage:
    """Open the queue in a file."""
    return SqliteStorage(NAME, filename=path, strict_fifo=True)


def redis_storage(url: SourceUrl) -> RedisStorage:
    """Open the queue in a Redis; nothing is asked of it yet."""
    from redis import ConnectionPool  # noqa: PLC0415  an extra: only where it is used

    pool: Any = ConnectionPool.from_url(
        url.reveal(),
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        health_check_interval=30,
        client_name="healthd",
    )
    return RedisStorage(NAME, connection_pool=pool)
