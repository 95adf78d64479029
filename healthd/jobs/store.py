"""Where jobs and their results are kept: beside huey's queue, in the same SQLite file or the same Redis.

Both kinds do the same three things: keep the records in the order of their coming, change one record in a step that
nobody can come between, and keep one line for each picture, in order.
"""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import time
from typing import TYPE_CHECKING, Any, TypeAlias

from healthd.jobs.errors import JobsUnavailableError, StorageFullError
from healthd.jobs.records import Job

if TYPE_CHECKING:
    from huey.storage import RedisStorage, SqliteStorage

Change: TypeAlias = Callable[[Job, float], Job | None]
"""From a record and the time to what it becomes; None: nothing changes. May be called more than once."""

FILE = "healthd-jobs.sqlite3"
"""Of the queue, the records and the results, in `jobs.directory`."""

FULL = "there is no room left where the jobs are kept: make room, or set jobs.directory to another disk"


class Store(ABC):
    """Records and results. Lives as long as the daemon; thread-safe; every call blocks.

    Everything here raises `StorageFullError` where no room is left, `JobsUnavailableError` for all else.
    """

    @abstractmethod
    def now(self) -> float:
        """Return the time that leases go by, in seconds of the epoch: the same for all who share the store."""

    @abstractmethod
    def add(self, job: Job) -> None:
        """Keep a new record; once this returns, no crash of this machine loses it (on Redis: as Redis is set up)."""

    @abstractmethod
    def get(self, job_id: str) -> Job | None:
        """Return a record."""

    @abstractmethod
    def all(self) -> list[Job]:
        """Return all records, the oldest first."""

    @abstractmethod
    def update(self, job_id: str, change: Change, *, line: bytes | None = None) -> Job | None:
        """Change a record and, with `line`, add the result of its next picture, both or neither.

        Returns what the record has become; None where there is none, or `change` wanted nothing.
        """

    @abstractmethod
    def lines(self, job_id: str, *, start: int, count: int) -> Sequence[bytes]:
        """Return up to `count` results from index `start` on, as far as they are there."""

    @abstractmethod
    def remove(self, job_id: str) -> bool:
        """Forget a record and its results; False where there is none."""


class SqliteStore(Store):
    """In tables of its own in huey's file. Only one daemon at a time uses the file."""

    TABLES = (
        """create table if not exists job (
            number integer primary key autoincrement, id text not null unique, record blob not null)""",
        """create table if not exists job_result (
            job text not null, picture integer not null, line blob not null, primary key (job, picture)
            ) without rowid""",
    )

    def __init__(self, storage: "SqliteStorage") -> None:
        self._storage = storage
        with self._step(durable=True) as cursor:
            for table in self.TABLES:
                cursor.execute(table)

    def now(self) -> float:
        """Return the time of this machine."""
        return time()

    def add(self, job: Job) -> None:
        """Keep a new record."""
        with self._step(durable=True) as cursor:
            cursor.execute("insert into job (id, record) values (?, ?)", (job.job_id, job.to_json()))

    def get(self, job_id: str) -> Job | None:
        """Return a record."""
        with self._step() as cursor:
            return self._read(cursor, job_id)

    def all(self) -> list[Job]:
        """Return all records, the oldest first."""
        with self._step() as cursor:
            return [Job.from_json(row[0]) for row in cursor.execute("select record from job order by number")]

    def update(self, job_id: str, change: Change, *, line: bytes | None = None) -> Job | None:
        """Change a record in one transaction."""
        with self._step() as cursor:
            before = self._read(cursor, job_id)
            after = change(before, self.now()) if before is not None else None
            if before is None or after is None:
                return None
            cursor.execute("update job set record = ? where id = ?", (after.to_json(), job_id))
            if line is not None:
                cursor.execute(
                    "insert into job_result (job, picture, line) values (?, ?, ?)", (job_id, before.done, line)
                )
            return after

    def lines(self, job_id: str, *, start: int, count: int) -> Sequence[bytes]:
        """Return results by their index."""
        with self._step() as cursor:
            rows = cursor.execute(
                "select line from job_result where job = ? and picture >= ? order by picture limit ?",
                (job_id, start, count),
            )
            return [bytes(row[0]) for row in rows]

    def remove(self, job_id: str) -> bool:
        """Forget a record and its results."""
        with self._step() as cursor:
            cursor.execute("delete from job_result where job = ?", (job_id,))
            cursor.execute("delete from job where id = ?", (job_id,))
            return bool(cursor.rowcount)

    @staticmethod
    def _read(cursor: sqlite3.Cursor, job_id: str) -> Job | None:
        row = cursor.execute("select record from job where id = ?", (job_id,)).fetchone()
        return Job.from_json(row[0]) if row else None

    @contextmanager
    def _step(self, *, durable: bool = False) -> Iterator[sqlite3.Cursor]:
        """Open a transaction on huey's connection.

        A killed process loses nothing that was committed; only what is `durable` waits for the disk too, because a
        power cut may cost pictures that are then computed again, but no job that was accepted.
        """
        try:
            with self._storage.lock:
                connection: sqlite3.Connection = self._storage.conn
                connection.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
                connection.execute("begin immediate")
                try:
                    yield connection.cursor()
                    connection.execute("commit")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("rollback")
                    raise
        except sqlite3.Error as exc:
            raise sqlite_error(exc) from exc


def sqlite_error(exc: sqlite3.Error) -> JobsUnavailableError:
    """Sort an error of SQLite."""
    if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return StorageFullError(FULL)
    return JobsUnavailableError(f"the jobs cannot be read or written: {exc}")


class RedisStore(Store):
    """In keys of its own beside huey's. Several daemons share it."""

    PREFIX = "healthd:jobs:"

    def __init__(self, storage: "RedisStorage") -> None:
        self._redis: Any = storage.conn
        self._ids = f"{self.PREFIX}ids"

    def now(self) -> float:
        """Return the time of Redis."""
        with _redis_errors():
            seconds, micros = self._redis.time()
        return _seconds(seconds, micros)

    def add(self, job: Job) -> None:
        """Keep a new record."""
        with _redis_errors(), self._redis.pipeline() as step:
            step.set(self._record(job.job_id), job.to_json())
            step.zadd(self._ids, {job.job_id: job.created_at})
            step.execute()

    def get(self, job_id: str) -> Job | None:
        """Return a record."""
        with _redis_errors():
            data = self._redis.get(self._record(job_id))
        return Job.from_json(data) if data else None

    def all(self) -> list[Job]:
        """Return all records, the oldest first."""
        with _redis_errors():
            ids = [job_id.decode() for job_id in self._redis.zrange(self._ids, 0, -1)]
            records = self._redis.mget([self._record(job_id) for job_id in ids]) if ids else []
        return [Job.from_json(data) for data in records if data]

    def update(self, job_id: str, change: Change, *, line: bytes | None = None) -> Job | None:
        """Change a record in one transaction, again for as long as somebody else comes between."""
        from redis.exceptions import WatchError  # noqa: PLC0415  an extra: only where it is used

        key = self._record(job_id)
        with _redis_errors(), self._redis.pipeline() as step:
            while True:
                step.watch(key)
                data = step.get(key)
                seconds, micros = step.time()
                after = change(Job.from_json(data), _seconds(seconds, micros)) if data else None
                if after is None:
                    return None
                step.multi()
                step.set(key, after.to_json())
                if line is not None:
                    step.rpush(self._results(job_id), line)
                try:
                    step.execute()
                except WatchError:
                    continue
                return after

    def lines(self, job_id: str, *, start: int, count: int) -> Sequence[bytes]:
        """Return results by their index."""
        with _redis_errors():
            found: list[bytes] = self._redis.lrange(self._results(job_id), start, start + count - 1)
        return found

    def remove(self, job_id: str) -> bool:
        """Forget a record and its results."""
        with _redis_errors(), self._redis.pipeline() as step:
            step.delete(self._record(job_id))
            step.unlink(self._results(job_id))
            step.zrem(self._ids, job_id)
            return bool(step.execute()[0])

    def _record(self, job_id: str) -> str:
        return f"{self.PREFIX}record:{job_id}"

    def _results(self, job_id: str) -> str:
        return f"{self.PREFIX}results:{job_id}"


def _seconds(seconds: int, micros: int) -> float:
    return seconds + micros / 1e6


@contextmanager
def _redis_errors() -> Iterator[None]:
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        yield
    except RedisError as exc:
        raise redis_error(exc) from exc


def redis_error(exc: Exception) -> JobsUnavailableError:
    """Sort an error of Redis."""
    from redis.exceptions import OutOfMemoryError  # noqa: PLC0415

    if isinstance(exc, OutOfMemoryError):
        return StorageFullError("the Redis of jobs.redis_url has no memory left: give it more, or remove ended jobs")
    return JobsUnavailableError(f"the Redis of jobs.redis_url does not answer: {type(exc).__name__}: {exc}")
