"""The record of one job, and everything that may happen to it: pure functions, applied by a store in one step each.

A job that runs belongs to one run: its `owner` is a token that no other run has. Whatever a run writes names its token,
so that a run which was given up (its lease has expired, the job was cancelled) can write nothing any more.
"""

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Literal

MOST_ATTEMPTS = 5
"""So often a job may be taken up without a single picture getting done, before it counts as what kills its daemon."""

MediaKind = Literal["video", "zip", "directory", "picture"]


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = frozenset({JobState.QUEUED, JobState.RUNNING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job as it is kept. Times are seconds of the epoch, by the clock of the store."""

    job_id: str
    kind: MediaKind
    name: str
    """What is worked on, for people: the name of the file that was sent in, or the path that was named."""
    path: str
    """Where it lies: absolute, or, of an upload, relative to the uploads of `jobs.directory`."""
    uploaded: bool
    model: str
    params: dict[str, Any]
    """Of the `InferenceParams`: what was given."""
    every: int
    """Of a video, every so many-th frame."""
    created_at: float
    state: JobState = JobState.QUEUED
    total: int | None = None
    """Pictures in all; None where nobody knows before the end."""
    done: int = 0
    """Pictures with a result, errors included: the index of the next one."""
    failed: int = 0
    """Those whose result is an error."""
    skipped: int = 0
    """What was no picture by its name."""
    last_name: str | None = None
    """Of the last picture that is done, where pictures have names."""
    started_at: float | None = None
    ended_at: float | None = None
    error: str | None = None
    """Why it failed."""
    note: str | None = None
    """What people should know of a job that is done."""
    owner: str | None = None
    lease_until: float = 0.0
    attempts: int = 0
    """Runs that began since the last picture that is done."""
    run_started_at: float | None = None
    run_done: int = 0
    """`done` when the run began that is going on."""

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in LIVE

    def rate(self, now: float) -> float | None:
        """Pictures per second of the run that goes on, or of the last one; None where nothing can be said yet."""
        end = self.ended_at if self.ended_at is not None else now
        if self.run_started_at is None or self.done <= self.run_done or end <= self.run_started_at:
            return None
        return (self.done - self.run_done) / (end - self.run_started_at)

    def eta_seconds(self, now: float) -> float | None:
        """Seconds until it is done, at the rate so far; None where nobody can say."""
        rate = self.rate(now)
        if self.state is not JobState.RUNNING or self.total is None or rate is None:
            return None
        return max(0, self.total - self.done) / rate

    def to_json(self) -> bytes:
        """Write the record."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes | memoryview) -> "Job":
        """Read a record, one of a newer healthd too: what is not known here is left out."""
        fields = json.loads(bytes(data))
        known = {name: fields[name] for name in cls.__slots__ if name in fields}
        return cls(**{**known, "state": JobState(known["state"])})


def claimed(job: Job, now: float, *, owner: str, lease_seconds: float) -> Job | None:
    """Begin a run; None: it does not wait. A job that was begun too often in vain has failed instead."""
    if job.state is not JobState.QUEUED:
        return None
    if job.attempts >= MOST_ATTEMPTS:
        reason = f"the daemon ended {job.attempts} times while it worked at picture {job.done}; it is not tried again"
        return replace(job, state=JobState.FAILED, ended_at=now, error=reason)
    return replace(
        job,
        state=JobState.RUNNING,
        owner=owner,
        lease_until=now + lease_seconds,
        attempts=job.attempts + 1,
        started_at=job.started_at if job.started_at is not None else now,
        run_started_at=now,
        run_done=job.done,
    )


def _mine(job: Job, owner: str) -> bool:
    return job.state is JobState.RUNNING and job.owner == owner


def renewed(job: Job, now: float, *, owner: str, lease_seconds: float) -> Job | None:
    """Keep a run; None: it is no longer this owner's."""
    return replace(job, lease_until=now + lease_seconds) if _mine(job, owner) else None


def opened(job: Job, _now: float, *, owner: str, total: int | None, skipped: int) -> Job | None:
    """Note what a run has found when it opened the media."""
    return replace(job, total=total, skipped=skipped) if _mine(job, owner) else None


def with_result(job: Job, _now: float, *, owner: str, index: int, error: bool, name: str | None) -> Job | None:
    """Count the result of the picture in hand; None: it is no longer this owner's, or has its result already."""
    if not _mine(job, owner) or job.done != index:
        return None
    return replace(job, done=index + 1, failed=job.failed + error, last_name=name, attempts=0)


def paused(job: Job, _now: float, *, owner: str) -> Job | None:
    """Put a run back, in order: the next one goes on after it."""
    return replace(job, state=JobState.QUEUED, owner=None, attempts=0) if _mine(job, owner) else None


def recovered(job: Job, now: float, *, everybody: bool) -> Job | None:
    """Put back a run whose owner is gone: the lease has expired, or (`everybody`) there can be no other owner."""
    if job.state is not JobState.RUNNING or not (everybody or job.lease_until < now):
        return None
    return replace(job, state=JobState.QUEUED, owner=None)


def finished(job: Job, now: float, *, owner: str, note: str | None) -> Job | None:
    """End a run that has come to its end."""
    if not _mine(job, owner):
        return None
    return replace(job, state=JobState.DONE, owner=None, ended_at=now, total=job.done, note=note)


def failed(job: Job, now: float, *, owner: str, reason: str) -> Job | None:
    """End a run that cannot go on."""
    if not _mine(job, owner):
        return None
    return replace(job, state=JobState.FAILED, owner=None, ended_at=now, error=reason)


def cancelled(job: Job, now: float) -> Job | None:
    """End a job that waits or runs, whoever owns it."""
    return replace(job, state=JobState.CANCELLED, owner=None, ended_at=now) if job.live else None


def refused(job: Job, now: float, *, reason: str) -> Job | None:
    """End a job that waits and can never begin."""
    return replace(job, state=JobState.FAILED, ended_at=now, error=reason) if job.state is JobState.QUEUED else None
