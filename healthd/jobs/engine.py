"""What works on the jobs: the store, the queue, the runs in hand, and the beat that keeps them in order.

All of it is on threads; the event loop comes in only where a picture is predicted.
"""

import fcntl
import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

import structlog

from healthd.jobs import records
from healthd.jobs.access import resolve_allowed
from healthd.jobs.errors import JobsUnavailableError, PathRefusedError
from healthd.jobs.queue import JobQueue, redis_storage, sqlite_storage
from healthd.jobs.records import Job, JobState
from healthd.jobs.run import Run, Tools
from healthd.jobs.store import FILE, RedisStore, SqliteStore, Store, sqlite_error
from healthd.jobs.uploads import Uploads, storage_errors
from healthd.settings import JobsSettings

log = structlog.get_logger(__name__)

LOCK = "healthd-jobs.lock"


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is to do, as of the last beat."""

    states: dict[JobState, int]
    depth: int


class Engine:
    """Lives from `start` to `close`; thread-safe, and every call but `request_stop` blocks."""

    def __init__(self, settings: JobsSettings, tools: Callable[[Store], Tools], *, beat_seconds: float) -> None:
        self._settings = settings
        self._beat_seconds = beat_seconds
        self._name = secrets.token_hex(4)
        self._lock: IO[bytes] | None = None
        self._runs: set[Run] = set()
        self._stopping = threading.Event()
        self._over = threading.Event()
        self._trouble: str | None = None
        self.troubles = 0
        """How often its storage could be used no more."""
        self._absent: set[str] = set()
        self._predicted = self._failed = 0
        self.counts = Counts({}, 0)
        self.uploads = Uploads(settings.directory)
        try:
            self.store: Store = self._open()
        except BaseException:
            self._release()
            raise
        self._tools = tools(self.store)
        self._queue = JobQueue(
            self._storage,
            self._run,
            workers=settings.workers,
            on_trouble=self._note_trouble,
            on_answer=self._note_answer,
        )
        self._keeper = threading.Thread(target=self._keep, name="jobs-keeper", daemon=True)

    def adapt(self, settings: JobsSettings, tools: Tools) -> None:
        """Take other limits and directories, for jobs that are taken up from now on. Does not block."""
        self._settings, self._tools = settings, tools

    @property
    def shared(self) -> bool:
        """Whether other daemons may work on the same jobs."""
        return self._settings.redis_url is not None

    @property
    def pictures(self) -> tuple[int, int]:
        """Pictures predicted and failed by this daemon, since its start."""
        runs = list(self._runs)
        return (
            self._predicted + sum(run.predicted for run in runs),
            self._failed + sum(run.failed for run in runs),
        )

    def start(self) -> None:
        """Put back what a daemon before has left, and begin to work."""
        jobs = self._sweep()
        self.uploads.clean({job.job_id for job in jobs if job.live}, alone=not self.shared)
        self._queue.start()
        self._keeper.start()

    def request_stop(self) -> None:
        """Let each run pause after the picture in hand; take up no more."""
        self._stopping.set()
        self._queue.request_stop()

    def drain(self, timeout_seconds: float) -> tuple[str, ...]:
        """Wait for the runs to pause; return the jobs of those that have not, in time."""
        deadline = time.monotonic() + timeout_seconds
        ended = self._queue.join(timeout_seconds)
        self._over.set()
        left = tuple(run.job_id for run in list(self._runs))
        if ended:
            self._keeper.join(max(0.0, deadline - time.monotonic()))
            if not self._keeper.is_alive():  # else it hangs in the storage
                self._close()
        return left

    def add(self, job: Job) -> Job:
        """Take in a job: once this returns, it is kept, and will be done."""
        job = replace(job, created_at=self.store.now())
        self.store.add(job)
        try:
            self._queue.put(job.job_id)
        except Exception as exc:  # noqa: BLE001  it is kept: the next beat puts it into the queue
            self._note_trouble(exc)
        self._count(self.store.all())
        log.info("job_accepted", job=job.job_id, kind=job.kind, total=job.total, uploaded=job.uploaded)
        return job

    def cancel(self, job_id: str) -> Job | None:
        """End a job that waits or runs; None where there is none that does."""
        job = self.store.update(job_id, records.cancelled)
        if job is None:
            return None
        for run in list(self._runs):
            if run.job_id == job_id:
                run.lose()
        self._tidy(job)
        log.info("job_cancelled", job=job_id, done=job.done)
        return job

    def remove(self, job_id: str) -> bool:
        """Forget a job with its results; False where there is none."""
        self.uploads.remove(job_id)
        removed = self.store.remove(job_id)
        self._count(self.store.all())
        if removed:
            log.info("job_removed", job=job_id)
        return removed

    # -- on the threads of the queue ---------------------------------------------------------------------------------

    def _run(self, job_id: str) -> None:
        """Work on a job that waits; whatever goes wrong is told here, and leaves it for the next beat."""
        try:
            job = self.store.get(job_id)
            if job is None or job.state is not JobState.QUEUED or self._stopping.is_set():
                return
            path = self._path(job)
            if path is not None:
                self._work(job, path)
        except JobsUnavailableError as exc:
            self._note_trouble(exc)
        except Exception:
            log.exception("job_bug", job=job_id)

    def _work(self, job: Job, path: Path) -> None:
        owner = f"{self._name}-{secrets.token_hex(8)}"
        run = Run(job.job_id, owner=owner, tools=self._tools, stopping=self._stopping)
        self._runs.add(run)
        try:
            mine = run.begin()
            if mine is not None:
                run.work(mine, path, within=None if mine.uploaded else path)
        finally:
            self._runs.discard(run)
            self._predicted += run.predicted
            self._failed += run.failed
        ended = self.store.get(job.job_id)
        if ended is not None:
            self._tidy(ended)
            if self.shared and ended.state is JobState.QUEUED:  # paused: another daemon goes on
                self._queue.put(job.job_id)

    def _path(self, job: Job) -> Path | None:
        """Return what a job works on; None where it is not here: another daemon may see it, else the job has failed."""
        reason = "the file that was sent in is gone from jobs.directory"
        if job.uploaded:
            path = self.uploads.path(job.job_id)
            if path.is_file():
                return path
        else:
            try:
                return resolve_allowed(job.path, self._settings.allowed_directories)
            except PathRefusedError as exc:
                reason = str(exc)
        if not self.shared:
            self.store.update(job.job_id, partial(records.refused, reason=reason))
            log.warning("job_failed", job=job.job_id, reason=reason, done=job.done)
        elif job.job_id not in self._absent:
            self._absent.add(job.job_id)
            log.warning("job_not_here", job=job.job_id, reason=reason)
        return None

    # -- on the thread of the beat -----------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._over.wait(self._beat_seconds):
            try:
                for run in list(self._runs):
                    run.renew()
                if not self._stopping.is_set():
                    self._sweep(everybody=False)
                self._note_answer()
            except JobsUnavailableError as exc:
                self._note_trouble(exc)
            except Exception as exc:
                log.exception("jobs_bug")
                self._trouble = self._trouble or repr(exc)

    def _sweep(self, *, everybody: bool | None = None) -> list[Job]:
        """Put back runs whose daemon is gone, see that all that waits is in the queue, forget what is old."""
        everybody = not self.shared if everybody is None else everybody
        change = partial(records.recovered, everybody=everybody)
        now, jobs = self.store.now(), []
        for seen in self.store.all():
            job = seen
            if change(job, now) is not None and (back := self.store.update(job.job_id, change)) is not None:
                log.info("job_recovered", job=job.job_id, done=job.done)
                job = back
            if job.ended_at is not None and now - job.ended_at > self._settings.keep_hours * 3600:
                self.store.remove(job.job_id)
                log.info("job_forgotten", job=job.job_id)
                continue
            jobs.append(job)
        if self._queue_depth() == 0:
            for job in jobs:
                if job.state is JobState.QUEUED:
                    self._queue.put(job.job_id)
        self._count(jobs)
        return jobs

    def _count(self, jobs: list[Job]) -> None:
        self.counts = Counts(dict(Counter(job.state for job in jobs)), self._queue_depth())

    def _queue_depth(self) -> int:
        try:
            return self._queue.depth()
        except JobsUnavailableError:
            raise
        except Exception as exc:
            raise JobsUnavailableError(f"the queue does not answer: {exc}") from exc

    def _tidy(self, job: Job) -> None:
        """Remove what only a job that waits or runs needs."""
        if job.uploaded and not job.live:
            self.uploads.remove(job.job_id)
        self._count(self.store.all())

    # -- the storage -------------------------------------------------------------------------------------------------

    def _open(self) -> Store:
        if self._settings.redis_url is not None:
            try:
                self._storage = redis_storage(self._settings.redis_url)
            except ImportError as exc:
                raise JobsUnavailableError(
                    "jobs.redis_url needs the Redis client: pip install 'healthd[redis]'"
                ) from exc
            except ValueError as exc:
                raise JobsUnavailableError(f"jobs.redis_url is no address of a Redis: {exc}") from exc
            store = RedisStore(self._storage)
            store.now()  # see that it answers
            return store
        with storage_errors():
            self._settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = (self._settings.directory / LOCK).open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise JobsUnavailableError(
                "another healthd works in jobs.directory: give each its own, or let them share jobs.redis_url"
            ) from exc
        try:
            self._storage = sqlite_storage(str(self._settings.directory / FILE))
            return SqliteStore(self._storage)
        except sqlite3.Error as exc:
            raise sqlite_error(exc) from exc

    def _close(self) -> None:
        """Let go of the files; nothing runs any more."""
        if not self.shared:
            with suppress(sqlite3.Error):
                self._storage.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _note_trouble(self, exc: Exception) -> None:
        """Tell of a storage that does not answer, once."""
        reason = str(exc) if isinstance(exc, JobsUnavailableError) else f"{type(exc).__name__}: {exc}"
        if self._trouble is None:
            log.warning("jobs_unavailable", reason=reason)
            self.troubles += 1
        self._trouble = reason

    def _note_answer(self) -> None:
        if self._trouble is not None:
            log.info("jobs_available")
        self._trouble = None
