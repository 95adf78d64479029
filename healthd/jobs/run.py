"""One run of one job, on a thread of the queue: from taking it up to its end, a pause, or its loss."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import structlog

from healthd.errors import BusyError, LoadError, ModelError, PredictError, SettingsError
from healthd.frames import Image
from healthd.jobs import records
from healthd.jobs.errors import JobsUnavailableError, MediaError
from healthd.jobs.media import Item, Limits, open_media
from healthd.jobs.records import Job, JobState
from healthd.jobs.store import Change, Store
from healthd.models.inference import Inference
from healthd.models.model import InferenceParams, Prediction
from healthd.redact import SCRUBBER
from healthd.waiting import Backoff

log = structlog.get_logger(__name__)
Encode: TypeAlias = Callable[[Prediction, Image, str, str], bytes]
"""Writes the envelope of a prediction as JSON on one line, given the image, the id of the model and its task."""

_Said: TypeAlias = tuple[Prediction, str, str]
LONGEST_PAUSE_SECONDS = 5.0
"""Between two tries of a picture whose model is busy, or of a result that cannot be stored now."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every run works with."""

    store: Store
    inference: Inference
    loop: asyncio.AbstractEventLoop
    """Where the inference lives."""
    encode: Encode
    limits: Limits
    lease_seconds: float
    picture_seconds: float
    """How long one picture may take, the loading of its model included."""


class Lost(Exception):  # noqa: N818  no error: the run has to end
    """The job is no longer this run's: it was cancelled, or the lease has expired."""


class Stopped(Exception):  # noqa: N818  the same
    """The daemon stops: the run pauses."""


class Run:
    """One run. Lives on its thread; `lose` may be called from any other."""

    def __init__(self, job_id: str, *, owner: str, tools: Tools, stopping: threading.Event) -> None:
        self.job_id = job_id
        self.predicted = self.failed = 0
        """Pictures of this run, by what came of them."""
        self._owner = owner
        self._tools = tools
        self._stopping = stopping
        self._over = threading.Event()
        self._in_hand: Future[_Said] | None = None

    def begin(self) -> Job | None:
        """Take the job up; None: it does not wait, or is not tried any more."""
        lease = partial(records.claimed, owner=self._owner, lease_seconds=self._tools.lease_seconds)
        job = self._tools.store.update(self.job_id, lease)
        if job is None:
            job = self._tools.store.get(self.job_id)  # an answer may get lost though the change was made
        if job is not None and job.state is JobState.FAILED:
            log.warning("job_failed", job=self.job_id, reason=job.error, done=job.done)
        return job if job is not None and job.owner == self._owner else None

    def work(self, job: Job, path: Path, *, within: Path | None) -> None:
        """Work on every picture from where the run before has ended; return at the end, a pause or the loss."""
        log.info("job_started", job=self.job_id, kind=job.kind, done=job.done, attempt=job.attempts)
        change: Change
        try:
            note = self._pictures(job, path, within)
            change = partial(records.finished, owner=self._owner, note=note)
        except Lost:
            log.info("job_given_up", job=self.job_id)
            return
        except Stopped:
            change = partial(records.paused, owner=self._owner)
        except (SettingsError, LoadError, MediaError) as exc:
            if self._stopping.is_set():
                self._end(partial(records.paused, owner=self._owner))
                return
            change = partial(records.failed, owner=self._owner, reason=SCRUBBER.scrub(str(exc)))
        except Exception as exc:
            log.exception("job_bug", job=self.job_id)
            reason = f"internal error: {type(exc).__name__}; its traceback is in the log"
            change = partial(records.failed, owner=self._owner, reason=reason)
        self._end(change)

    def renew(self) -> None:
        """Keep the job for another lease; lose it where it is no longer this run's."""
        lease = partial(records.renewed, owner=self._owner, lease_seconds=self._tools.lease_seconds)
        if self._tools.store.update(self.job_id, lease) is None:
            self.lose()

    def lose(self) -> None:
        """Let the run end soon, and write nothing more."""
        self._over.set()
        in_hand = self._in_hand
        if in_hand is not None:
            in_hand.cancel()

    def _pictures(self, job: Job, path: Path, within: Path | None) -> str | None:
        params = InferenceParams.model_validate(job.params)
        index = job.done
        limits = self._tools.limits
        with closing(open_media(path, limits=limits, every=job.every, within=within, isolated=True)) as media:
            items = media.items(done=job.done, after=job.last_name, keep_on=self._goes_on)
            first = True
            for item in items:
                if first:
                    change = partial(records.opened, owner=self._owner, total=media.total, skipped=media.skipped)
                    self._keep(change)
                    first = False
                self._check()
                line, failed = self._line(job, params, index, item)
                counted = partial(records.with_result, owner=self._owner, index=index, error=failed, name=item.name)
                self._keep(counted, line=line, index=index)
                self.predicted += not failed
                self.failed += failed
                index += 1
            self._check()
            return media.note

    def _line(self, job: Job, params: InferenceParams, index: int, item: Item) -> tuple[bytes, bool]:
        """Return the result of one picture as a line of JSON, and whether it is an error."""
        error = item.error
        if item.image is not None:
            try:
                return result_line(index, item, envelope=self._envelope(job, params, item.image)), False
            except (LoadError, BusyError):
                raise
            except ModelError as exc:
                if self._stopping.is_set():  # it may be the stop that it failed of
                    raise Stopped from None
                error = str(exc)
        return result_line(index, item, error=error or "no picture"), True

    def _envelope(self, job: Job, params: InferenceParams, image: Image) -> bytes:
        """Predict, however often the model has no time; encode what it said."""
        pauses = Backoff(first_seconds=0.2, longest_seconds=LONGEST_PAUSE_SECONDS)
        while True:
            try:
                said, model_id, task = self._predict(job, params, image)
                break
            except BusyError:
                self._check()
                self._wait(pauses.next())
        try:
            return self._tools.encode(said, image, model_id, task)
        except Exception as exc:  # what a family says of a picture is its own
            raise PredictError(f"{type(exc).__name__}: the model said what JSON cannot hold") from exc

    def _predict(self, job: Job, params: InferenceParams, image: Image) -> _Said:
        async def ask() -> _Said:
            async with self._tools.inference.seat(job.model, params, queued=False) as seat:
                return await seat.predict(image), seat.entry.model_id, seat.model.task

        self._check()
        self._in_hand = asyncio.run_coroutine_threadsafe(ask(), self._tools.loop)
        if self._over.is_set():  # lost just now, before there was anything to cancel
            self._in_hand.cancel()
        try:
            return self._in_hand.result(self._tools.picture_seconds)
        except TimeoutError:
            self._in_hand.cancel()
            raise PredictError(f"no answer of the model within {self._tools.picture_seconds:g} s") from None
        except CancelledError:
            raise Lost from None
        finally:
            self._in_hand = None

    def _keep(self, change: Change, *, line: bytes | None = None, index: int | None = None) -> None:
        """Write to the record, however long the store does not answer."""
        pauses = Backoff(first_seconds=0.2, longest_seconds=LONGEST_PAUSE_SECONDS)
        while True:
            try:
                if self._tools.store.update(self.job_id, change, line=line) is not None:
                    return
                job = self._tools.store.get(self.job_id)
            except JobsUnavailableError as exc:
                if not pauses.attempts:
                    log.warning("job_result_waits", job=self.job_id, reason=str(exc))
                self._check()
                self._wait(pauses.next())
                continue
            written = index is not None and job is not None and job.owner == self._owner and job.done == index + 1
            if not written:  # else the answer got lost, and the change was made
                raise Lost
            return

    def _end(self, change: Change) -> None:
        """Write the end; where the store does not answer, the next run finds that nothing is left to do."""
        try:
            job = self._tools.store.update(self.job_id, change)
        except JobsUnavailableError as exc:
            log.warning("job_result_waits", job=self.job_id, reason=str(exc))
            return
        if job is None:
            log.info("job_given_up", job=self.job_id)
        elif job.state is JobState.QUEUED:
            log.info("job_paused", job=self.job_id, done=job.done)
        elif job.state is JobState.FAILED:
            log.warning("job_failed", job=self.job_id, reason=job.error, done=job.done)
        else:
            log.info("job_done", job=self.job_id, done=job.done, failed=job.failed, note=job.note)

    def _goes_on(self) -> bool:
        return not (self._over.is_set() or self._stopping.is_set())

    def _check(self) -> None:
        if self._over.is_set():
            raise Lost
        if self._stopping.is_set():
            raise Stopped

    def _wait(self, seconds: float) -> None:
        """Wait, unless the daemon stops or the job is lost."""
        until = time.monotonic() + seconds
        while self._goes_on() and (left := until - time.monotonic()) > 0:
            self._stopping.wait(min(left, 0.1))


def result_line(index: int, item: Item, *, envelope: bytes | None = None, error: str | None = None) -> bytes:
    """Write the result of one picture as one line of JSON, without its end."""
    head: dict[str, object] = {"index": index}
    if item.name is not None:
        head["name"] = item.name
    if item.frame is not None:
        head |= {"frame": item.frame, "position_ms": item.position_ms}
    if envelope is None:
        return json.dumps({**head, "error": SCRUBBER.scrub(error or "no picture")}, ensure_ascii=False).encode()
    return json.dumps(head, ensure_ascii=False).encode()[:-1] + b', "envelope": ' + envelope + b"}"
