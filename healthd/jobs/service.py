"""The jobs of one daemon, as callers see them: takes them in, tells of them, and stops in bounded time.

Nothing is made and nothing runs before the first job; jobs from before are found at the start.
"""

import asyncio
import re
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from healthd.errors import HealthdError
from healthd.jobs.access import resolve_allowed
from healthd.jobs.errors import JobsOffError, JobsUnavailableError, MediaError, TooManyJobsError, UnknownJobError
from healthd.jobs.media import Limits, check_media
from healthd.jobs.records import Job, JobState, MediaKind
from healthd.jobs.run import Encode, Tools
from healthd.jobs.store import FILE, Store
from healthd.jobs.uploads import Upload
from healthd.metrics import Sample
from healthd.models.inference import Inference
from healthd.settings import Settings
from healthd.waiting import Backoff
from healthd.worker import WorkerPool, WorkerTimeout

if TYPE_CHECKING:
    from healthd.jobs.engine import Engine

T = TypeVar("T")
log = structlog.get_logger(__name__)

LEASE_SECONDS = 15.0
"""A daemon on Redis that has not been heard of for so long has lost its jobs to the others."""

BEAT_SECONDS = 4.0
MOST_HUNG = 4
"""With so many threads in a storage that does not answer, nobody else asks it: each would cost one more."""
MOST_LEFT = 32
"""The same for those whose callers have gone, late or not."""

ANSWER_SECONDS = 20.0
"""How long the storage may take for an answer to a caller, and what was sent in to be looked at."""

PREDICT_SECONDS = 60.0
"""What one picture of a job may take beside the loading of its model."""

LONGEST_NAME = 200
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done with the pictures."""

    model: str
    params: dict[str, Any] = field(default_factory=dict)
    """Of the `InferenceParams`: what was given."""
    every: int = 1
    """Of a video, every so many-th frame."""


class Jobs:
    """All jobs of a daemon. Lives as long as the daemon; event loop only."""

    def __init__(
        self,
        settings: Settings,
        *,
        inference: Inference,
        find_model: Callable[[str | None], str],
        encode: Encode,
        lease_seconds: float = LEASE_SECONDS,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        """Take what answers, how its models are found (blocking; raises UnknownModelError), and how it is written."""
        self._take(settings)
        self._loop = asyncio.get_running_loop()
        self._beat_seconds = beat_seconds
        self._lease_seconds = lease_seconds
        self._inference = inference
        self._find_model = find_model
        self._encode = encode
        self._engine: Engine | None = None
        self._opening = threading.Lock()
        self._closed = False
        """Whether its storage could not be opened, at first."""
        self._stopping = threading.Event()
        self._arriving = 0
        self._pool = WorkerPool("jobs", patient=True)

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what is left from before, on a thread that tries until it can."""
        if self._settings.enabled:
            threading.Thread(target=self._open_patiently, name="jobs-opening", daemon=True).start()

    def adapt(self, settings: Settings) -> None:
        """Take other limits and directories; where the jobs are kept and how many run at a time stay as they are."""
        self._take(settings)
        engine = self._engine
        if engine is not None:
            engine.adapt(self._settings, self._tools(engine.store))

    def _take(self, settings: Settings) -> None:
        self._settings = settings.jobs
        self._limits = Limits(settings.inference.max_upload_bytes, settings.inference.max_pixels)
        self._picture_seconds = settings.models.load_timeout_seconds + PREDICT_SECONDS

    def request_stop(self) -> None:
        """Let each run pause after the picture in hand; take in nothing more."""
        self._stopping.set()
        if self._engine is not None:
            self._engine.request_stop()

    async def drain(self, deadline_seconds: float) -> tuple[str, ...]:
        """Wait for the runs to pause; return the jobs of those that have not, in time: the next start goes on."""
        self.request_stop()
        engine = self._engine
        if engine is None:
            return ()
        self._pool.close()
        late: tuple[str, ...] = ()
        try:
            late = await self._pool.call(lambda: engine.drain(deadline_seconds), timeout=deadline_seconds + 1.0)
        except WorkerTimeout as exc:
            log.warning("jobs_not_closed", reason=f"the disk or the queue of the jobs gave {exc}")
        except Exception:  # whatever it is, the rest of the stop is still to come
            log.exception("jobs_bug")
        for job_id in late:
            log.warning("job_abandoned", job=job_id, deadline_seconds=deadline_seconds)
        return late

    def samples(self) -> Iterator[Sample]:
        """Give the metrics, as of the last beat."""
        engine = self._engine
        states = engine.counts.states if engine is not None else {}
        predicted, failed = engine.pictures if engine is not None else (0, 0)
        for state in JobState:
            yield Sample("healthd_jobs", states.get(state, 0), {"state": state.value})
        yield Sample("healthd_jobs_queue_depth", engine.counts.depth if engine is not None else 0)
        troubles = self._closed + (engine.troubles if engine is not None else 0)
        yield Sample("healthd_jobs_unavailable_total", troubles)
        yield Sample("healthd_jobs_workers_stuck", self._pool.stuck)
        yield Sample("healthd_job_pictures_total", predicted, {"result": "predicted"})
        yield Sample("healthd_job_pictures_total", failed, {"result": "failed"})

    # -- what callers ask --------------------------------------------------------------------------------------------

    @property
    def max_upload_bytes(self) -> int:
        """How much may be sent in at once."""
        return self._settings.max_upload_bytes

    async def model_id(self, asked: str | None) -> str:
        """Return the id of the model that is asked for; None: the default one.

        Raises:
            UnknownModelError: there is none.
        """
        return await self._call(lambda: self._find_model(asked))

    @asynccontextmanager
    async def admission(self) -> AsyncIterator[None]:
        """Have room for one more job for as long as the block lasts, in which it arrives.

        Raises:
            JobsOffError, JobsUnavailableError: as the words say.
            TooManyJobsError: there is none.
        """
        if self._stopping.is_set():
            raise JobsUnavailableError("the daemon stops")
        engine = await self._engine_if_any()
        live = await self._call(lambda: sum(job.live for job in engine.store.all())) if engine is not None else 0
        if live + self._arriving >= self._settings.max_jobs:
            raise TooManyJobsError(f"{live} jobs wait or run already, as many as jobs.max_jobs allows")
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    async def begin_upload(self) -> Upload:
        """Open a file for what arrives. Whoever asks writes to it on a thread, and finishes or discards it."""
        engine = await self._opened()
        return await self._call(lambda: engine.uploads.begin(secrets.token_hex(8)))

    async def accept_upload(self, upload: Upload, *, name: str, order: Order) -> Job:
        """Take in a job over what has arrived; once this returns it is kept, whatever happens to this machine.

        Raises:
            MediaError: it is neither a video nor a zip, or broken.
            JobsUnavailableError: it cannot be kept.
        """

        def keep() -> tuple[MediaKind, int | None]:
            found = check_media(upload.finish(), limits=self._limits, isolated=True)
            if found[0] not in {"video", "zip"}:
                raise MediaError("it is one picture, neither a video nor a zip: send it to /api/v1/infer")
            return found

        kind, total = await self._call(keep, late=MediaError)
        return await self._accept(upload.path.name, kind, total, name=name, path=None, order=order)

    async def accept_path(self, text: str, *, order: Order) -> Job:
        """Take in a job over a file or folder of this machine.

        Raises:
            PathRefusedError: it is in no allowed directory, or not there.
            MediaError, JobsUnavailableError: as `accept_upload`.
        """

        def look() -> tuple[Path, MediaKind, int | None]:
            path = resolve_allowed(text, self._settings.allowed_directories)
            return path, *check_media(path, limits=self._limits, within=path, isolated=True)

        path, kind, total = await self._call(look, late=MediaError)
        return await self._accept(secrets.token_hex(8), kind, total, name=text, path=path, order=order)

    async def all(self) -> list[Job]:
        """Return all jobs, the oldest first."""
        engine = await self._engine_if_any()
        return await self._call(engine.store.all) if engine is not None else []

    async def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            UnknownJobError: there is none of that id.
        """
        engine = await self._engine_if_any()
        if engine is None or not _ID.fullmatch(job_id):
            raise UnknownJobError("unknown job")
        job = await self._call(lambda: engine.store.get(job_id))
        if job is None:
            raise UnknownJobError("unknown job")
        return job

    async def lines(self, job_id: str, *, start: int, count: int) -> Sequence[bytes]:
        """Return up to `count` results from index `start` on, as far as they are there."""
        engine = await self._engine_if_any()
        return await self._call(lambda: engine.store.lines(job_id, start=start, count=count)) if engine else ()

    async def delete(self, job_id: str) -> Job | None:
        """Cancel a job that waits or runs, and return it; remove one that has ended, with its results: None.

        Raises:
            UnknownJobError: there is none of that id.
        """
        engine = await self._engine_if_any()
        if engine is None or not _ID.fullmatch(job_id):  # it names files too
            raise UnknownJobError("unknown job")
        job = await self._call(lambda: engine.cancel(job_id))
        if job is None and not await self._call(lambda: engine.remove(job_id)):
            raise UnknownJobError("unknown job")
        return job

    async def now(self) -> float:
        """Return the time that the records go by."""
        engine = await self._engine_if_any()
        return await self._call(engine.store.now) if engine is not None else 0.0

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _accept(
        self, job_id: str, kind: MediaKind, total: int | None, *, name: str, path: Path | None, order: Order
    ) -> Job:
        job = Job(
            job_id=job_id,
            kind=kind,
            name=name.encode("utf-8", "backslashreplace").decode()[:LONGEST_NAME],
            path=str(path) if path is not None else "",
            uploaded=path is None,
            model=order.model,
            params=order.params,
            every=order.every,
            created_at=0.0,
            total=-(-total // order.every) if total is not None and kind == "video" else total,
        )
        engine = await self._opened()
        return await self._call(lambda: engine.add(job))

    async def _opened(self) -> "Engine":
        if not self._settings.enabled:
            raise JobsOffError("jobs are switched off here: jobs.enabled = false")
        return self._engine if self._engine is not None else await self._call(self._open)

    async def _engine_if_any(self) -> "Engine | None":
        """Return what works on jobs; None where there has never been one."""
        if not self._settings.enabled or self._engine is not None:
            return await self._opened()
        found = await self._call(self._has_something)
        return await self._opened() if found else None

    def _has_something(self) -> bool:
        """Whether the storage is to be opened before the first job: for jobs from before, or those of other daemons."""
        return self._settings.redis_url is not None or (self._settings.directory / FILE).is_file()

    def _open(self) -> "Engine":
        from healthd.jobs.engine import Engine  # noqa: PLC0415  it imports huey: only where it is used

        with self._opening:
            engine = self._engine
            if engine is None:
                if self._stopping.is_set():
                    raise JobsUnavailableError("the daemon stops")
                try:
                    engine = Engine(self._settings, self._tools, beat_seconds=self._beat_seconds)
                except JobsUnavailableError as exc:
                    self._note_closed(str(exc))
                    raise
                engine.start()
                self._engine = engine
                if self._closed:
                    log.info("jobs_available")
                if self._stopping.is_set():  # meanwhile, and nobody has waited for it
                    engine.request_stop()
                    engine.drain(ANSWER_SECONDS)
            return engine

    def _note_closed(self, reason: str) -> None:
        """Tell of a storage that cannot be opened, once."""
        if not self._closed and not self._stopping.is_set():
            self._closed = True
            log.warning("jobs_unavailable", reason=reason)

    def _open_patiently(self) -> None:
        if not self._has_something():
            return
        pauses = Backoff()
        while not self._stopping.is_set():
            try:
                self._open()
            except JobsUnavailableError:
                pass  # told already
            except Exception:
                log.exception("jobs_bug")
                return
            else:
                return
            self._stopping.wait(pauses.next())

    def _tools(self, store: Store) -> Tools:
        return Tools(
            store=store,
            inference=self._inference,
            loop=self._loop,
            encode=self._encode,
            limits=self._limits,
            lease_seconds=self._lease_seconds,
            picture_seconds=self._picture_seconds,
        )

    async def _call(
        self,
        function: Callable[[], T],
        *,
        timeout: float = ANSWER_SECONDS,  # noqa: ASYNC109  a bound per call is the point
        late: type[HealthdError] = JobsUnavailableError,
    ) -> T:
        """Run something that blocks, on a thread that is left alone when it does not come back."""
        if (stuck := self._pool.stuck) >= MOST_HUNG or self._pool.left >= MOST_LEFT:
            raise JobsUnavailableError(
                f"the disk or the queue of the jobs gives no answer: {max(stuck, self._pool.left)} threads wait for it"
            )
        try:
            return await self._pool.call(
                function, timeout=timeout, late="the disk or the queue of the jobs gave no answer"
            )
        except WorkerTimeout as exc:
            raise late(str(exc)) from None
