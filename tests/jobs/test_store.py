"""Records and results, in SQLite and in Redis: one step at a time, by whoever owns the job."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from healthd.jobs import records
from healthd.jobs.errors import JobsUnavailableError, StorageFullError
from healthd.jobs.queue import redis_storage, sqlite_storage
from healthd.jobs.records import MOST_ATTEMPTS, Job, JobState
from healthd.jobs.store import RedisStore, SqliteStore, Store
from healthd.redact import SourceUrl
from tests.redis_server import redis_server


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        storage = sqlite_storage(str(tmp_path / "jobs.sqlite3"))
        yield SqliteStore(storage)
        storage.close()
        return
    with redis_server(tmp_path) as server:
        storage = redis_storage(SourceUrl(server.url))
        yield RedisStore(storage)
        storage.pool.disconnect()


def make(job_id: str = "a", *, at: float = 1.0) -> Job:
    return Job(
        job_id=job_id,
        kind="zip",
        name="a.zip",
        path="",
        uploaded=True,
        model="m.onnx",
        params={"confidence": 0.5},
        every=1,
        created_at=at,
    )


def claim(owner: str = "me", seconds: float = 100.0) -> "partial[Job | None]":
    return partial(records.claimed, owner=owner, lease_seconds=seconds)


def result(index: int, owner: str = "me", *, error: bool = False) -> "partial[Job | None]":
    return partial(records.with_result, owner=owner, index=index, error=error, name=f"{index}.jpg")


def test_records_come_back_as_they_were_the_oldest_first(store: Store) -> None:
    jobs = [make(name, at=float(number)) for number, name in enumerate("cab")]
    for job in jobs:
        store.add(job)
    assert store.all() == jobs
    assert store.get("a") == jobs[1]
    assert store.get("absent") is None
    assert store.update("absent", claim()) is None


def test_only_one_of_many_takes_a_job_up(store: Store) -> None:
    store.add(make())
    barrier, taken = threading.Barrier(8), []

    def take(number: int) -> None:
        barrier.wait()
        if store.update("a", claim(f"owner-{number}")) is not None:
            taken.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    job = store.get("a")
    assert job is not None
    assert (job.state, job.owner, job.attempts) == (JobState.RUNNING, f"owner-{taken[0]}", 1)


def test_each_picture_gets_its_result_once_in_order_and_from_the_owner_alone(store: Store) -> None:
    store.add(make())
    store.update("a", claim())
    for index in range(5):
        assert store.update("a", result(index, "somebody"), line=b"wrong") is None
        assert store.update("a", result(index, error=index == 3), line=b"line %d" % index) is not None
        assert store.update("a", result(index), line=b"again") is None
        assert store.update("a", result(index + 2), line=b"too early") is None
    assert store.lines("a", start=0, count=100) == [b"line %d" % index for index in range(5)]
    assert store.lines("a", start=2, count=2) == [b"line 2", b"line 3"]
    assert store.lines("a", start=5, count=2) == []
    job = store.get("a")
    assert job is not None
    assert (job.done, job.failed, job.last_name, job.attempts) == (5, 1, "4.jpg", 0)


def test_a_change_that_fails_leaves_record_and_results_as_they_were(store: Store) -> None:
    store.add(make())
    store.update("a", claim())
    before = store.get("a")

    def broken(job: Job, now: float) -> Job:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        store.update("a", broken, line=b"half")
    assert store.get("a") == before
    assert store.lines("a", start=0, count=10) == []
    assert store.update("a", result(0), line=b"whole") is not None


def test_a_run_that_was_given_up_writes_nothing_any_more(store: Store) -> None:
    store.add(make())
    store.update("a", claim("first", seconds=-1))
    assert store.update("a", partial(records.recovered, everybody=False)) is not None
    assert store.update("a", claim("second")) is not None
    for change in (
        result(0, "first"),
        partial(records.renewed, owner="first", lease_seconds=100),
        partial(records.paused, owner="first"),
        partial(records.finished, owner="first", note=None),
        partial(records.failed, owner="first", reason="late"),
        partial(records.opened, owner="first", total=3, skipped=0),
    ):
        assert store.update("a", change) is None
    assert store.update("a", partial(records.recovered, everybody=False)) is None, "its lease has not expired"
    assert store.update("a", partial(records.recovered, everybody=True)) is not None


def test_a_cancelled_job_belongs_to_nobody(store: Store) -> None:
    store.add(make())
    store.update("a", claim())
    assert store.update("a", records.cancelled) is not None
    assert store.update("a", result(0), line=b"late") is None
    assert store.update("a", records.cancelled) is None
    assert store.update("a", claim()) is None
    assert store.remove("a")
    assert not store.remove("a")
    assert store.get("a") is None
    assert store.all() == []


def test_what_is_removed_takes_its_results_along(store: Store) -> None:
    for name in "ab":
        store.add(make(name))
        store.update(name, claim())
        store.update(name, result(0), line=name.encode())
    store.remove("a")
    assert store.lines("a", start=0, count=10) == []
    assert store.lines("b", start=0, count=10) == [b"b"]


def test_a_job_that_kills_its_daemon_each_time_is_given_up(store: Store) -> None:
    store.add(make())
    for _ in range(MOST_ATTEMPTS):
        assert store.update("a", claim()) is not None
        assert store.update("a", partial(records.recovered, everybody=True)) is not None
    job = store.update("a", claim())
    assert job is not None
    assert job.state is JobState.FAILED
    assert "5 times" in str(job.error)


def test_pauses_and_progress_are_no_failed_attempts(store: Store) -> None:
    store.add(make())
    for index in range(2 * MOST_ATTEMPTS):
        assert store.update("a", claim()) is not None
        if index % 2:
            assert store.update("a", partial(records.paused, owner="me")) is not None
        else:
            job = store.get("a")
            assert job is not None
            assert store.update("a", result(job.done), line=b"x") is not None
            assert store.update("a", partial(records.recovered, everybody=True)) is not None
    job = store.get("a")
    assert job is not None
    assert job.state is JobState.QUEUED


def test_rate_and_time_left_are_those_of_the_run_that_goes_on() -> None:
    job = make()
    running = records.claimed(job, 100.0, owner="me", lease_seconds=10)
    assert running is not None
    assert running.rate(100.0) is None
    running = records.opened(running, 100.0, owner="me", total=10, skipped=0)
    assert running is not None
    for index in range(4):
        running = records.with_result(running, 0.0, owner="me", index=index, error=False, name=None)
        assert running is not None
    assert running.rate(102.0) == 2.0
    assert running.eta_seconds(102.0) == 3.0
    again = records.paused(running, 0.0, owner="me")
    assert again is not None
    again = records.claimed(again, 200.0, owner="me", lease_seconds=10)
    assert again is not None
    assert again.rate(201.0) is None
    assert again.started_at == 100.0


def test_a_record_of_a_newer_healthd_can_be_read() -> None:
    data = make().to_json()
    assert Job.from_json(data) == make()
    assert Job.from_json(data[:-1] + b',"something_new":1}') == make()


def test_a_disk_that_is_full_is_told_as_such(tmp_path: Path) -> None:
    storage = sqlite_storage(str(tmp_path / "jobs.sqlite3"))
    store = SqliteStore(storage)
    store.add(make())
    store.update("a", claim())
    storage.conn.execute("pragma max_page_count = 16")
    with pytest.raises(StorageFullError, match="no room left"):
        for index in range(100):
            store.update("a", result(index), line=bytes(10_000))
    job = store.get("a")
    assert job is not None
    assert job.done == len(store.lines("a", start=0, count=1000)), "a result that found no room was counted"
    storage.conn.execute("pragma max_page_count = 100000")
    assert store.update("a", result(job.done), line=bytes(10_000)) is not None
    storage.close()


def test_a_redis_that_is_gone_or_full_is_told_as_such(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        storage = redis_storage(SourceUrl(f"redis://user:pa55word@127.0.0.1:{server.port}/0"))
        with pytest.raises(JobsUnavailableError) as refused:
            RedisStore(storage).now()
        assert "pa55word" not in str(refused.value)
        storage = redis_storage(SourceUrl(server.url))
        store = RedisStore(storage)
        store.add(make())
        storage.conn.config_set("maxmemory", "1")
        with pytest.raises(StorageFullError, match="no memory left"):
            store.add(make("b"))
        server.stop()
        with pytest.raises(JobsUnavailableError, match="does not answer"):
            store.get("a")
        server.start()
        assert store.get("a") is not None
        storage.pool.disconnect()
