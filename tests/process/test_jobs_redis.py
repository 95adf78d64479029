"""Several daemons on one Redis: they share the work, nobody does a job twice, and one goes on for another."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.process.daemon import Daemon, until
from tests.process.jobs import (
    assert_each_picture_once,
    job_of,
    predicted,
    results_of,
    send,
    settings,
    stamped_zip,
    until_done,
    until_ended,
)
from tests.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.process


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder) as server:
        yield server


def start(stack: ExitStack, tmp_path: Path, name: str, server: RedisServer, **sections: Any) -> Daemon:
    """Start one of several daemons: each with a configuration of its own, all with the same folder of uploads."""
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    wanted = settings(tmp_path, jobs={"redis_url": server.url}, **sections)
    daemon = stack.enter_context(Daemon(folder, wanted, FAULTY_JOURNAL=str(tmp_path / f"journal-{name}")))
    return daemon.until_ready()


def test_two_daemons_share_the_work_and_do_nothing_twice(tmp_path: Path, server: RedisServer) -> None:
    with ExitStack() as stack:
        one, two = (start(stack, tmp_path, name, server) for name in ("one", "two"))
        ids = [send(one if number % 2 else two, stamped_zip(10, first=100 * number)) for number in range(8)]
        for number, job_id in enumerate(ids):
            job = until_ended(one, job_id)
            assert (job["state"], job["failed"]) == ("done", 0)
            for daemon in (one, two):
                assert_each_picture_once(results_of(daemon, job_id), 10, first=100 * number)
        assert one.errors() + two.errors() == []
    shares = [predicted(tmp_path / f"journal-{name}") for name in ("one", "two")]
    assert all(len(share) >= 20 for share in shares), "one did (nearly) all of it"
    assert set((shares[0] + shares[1]).values()) == {1}
    assert not list((tmp_path / "jobs" / "uploads").iterdir())


def test_a_daemon_that_is_killed_leaves_its_job_to_the_other(tmp_path: Path, server: RedisServer) -> None:
    with ExitStack() as stack:
        one, two = (start(stack, tmp_path, name, server) for name in ("one", "two"))
        job_id = send(one, stamped_zip(150))
        until_done(two, job_id, pictures=5)
        worker, other = (one, two) if one.events("job_started") else (two, one)
        worker.send(signal.SIGKILL)
        worker.wait(seconds=10)
        assert until_ended(other, job_id)["state"] == "done"
        assert_each_picture_once(results_of(other, job_id), 150)
        assert other.events("job_recovered")
        assert other.errors() == []
    times = predicted(tmp_path / "journal-one") + predicted(tmp_path / "journal-two")
    assert set(times) == set(range(150))
    assert sum(times.values()) <= 151


def test_a_daemon_that_is_stopped_hands_its_job_on_at_once(tmp_path: Path, server: RedisServer) -> None:
    with ExitStack() as stack:
        one, two = (start(stack, tmp_path, name, server) for name in ("one", "two"))
        job_id = send(one, stamped_zip(80))
        until_done(two, job_id, pictures=5)
        worker, other = (one, two) if one.events("job_started") else (two, one)
        assert worker.stop()[0] == 0
        assert worker.events("job_paused")
        assert until_ended(other, job_id, seconds=15)["state"] == "done"
        assert_each_picture_once(results_of(other, job_id), 80)
    times = predicted(tmp_path / "journal-one") + predicted(tmp_path / "journal-two")
    assert set(times.values()) == {1}


def test_a_redis_that_goes_and_comes_back_costs_no_picture(tmp_path: Path, server: RedisServer) -> None:
    with ExitStack() as stack:
        one = start(stack, tmp_path, "one", server)
        job_id = send(one, stamped_zip(60))
        until_done(one, job_id, pictures=5)
        server.stop()
        until(lambda: one.get("/api/v1/jobs").status_code == 503, what=one.story)
        assert one.get("/healthz").status_code == 200
        answer = one.client.post("/api/v1/jobs", files={"file": ("a.zip", stamped_zip(1))})
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        server.start()
        assert until_ended(one, job_id)["state"] == "done"
        assert_each_picture_once(results_of(one, job_id), 60)
        assert set(predicted(tmp_path / "journal-one").values()) == {1}
        assert one.errors() == []
        assert one.stop()[0] == 0


def test_a_daemon_starts_without_its_redis_and_takes_up_its_jobs_later(tmp_path: Path, server: RedisServer) -> None:
    with ExitStack() as stack:
        one = start(stack, tmp_path, "one", server)
        job_id = send(one, stamped_zip(40))
        until_done(one, job_id, pictures=3)
        one.stop()
        server.stop()
        two = start(stack, tmp_path, "two", server)
        assert two.get("/api/v1/jobs").status_code == 503
        assert two.get("/healthz").status_code == 200
        server.start()
        until(lambda: two.get("/api/v1/jobs").status_code == 200, seconds=40, what=two.story)
        assert until_ended(two, job_id)["state"] == "done"
        assert_each_picture_once(results_of(two, job_id), 40)
        assert [event["logger"] for event in two.events("jobs_unavailable")] != []


def test_the_password_of_the_redis_stands_nowhere(tmp_path: Path, server: RedisServer) -> None:
    url = server.url.replace("redis://", "redis://user:s3cret-of-the-queue@")
    folder = tmp_path / "one"
    folder.mkdir()
    with Daemon(folder, settings(tmp_path, jobs={"redis_url": url}, log={"level": "debug"})) as daemon:
        answer = daemon.client.post("/api/v1/jobs", files={"file": ("a.zip", stamped_zip(1))})
        assert answer.status_code == 503
        until(lambda: daemon.events("jobs_unavailable"), what=daemon.story)
        assert "s3cret-of-the-queue" not in answer.text + daemon.stderr + daemon.stdout


def test_a_job_whose_file_only_another_daemon_sees_is_left_to_it(tmp_path: Path, server: RedisServer) -> None:
    with ExitStack() as stack:
        wanted = {"jobs": {"redis_url": server.url, "directory": str(tmp_path / "elsewhere")}}
        (tmp_path / "blind").mkdir()
        blind = stack.enter_context(Daemon(tmp_path / "blind", settings(tmp_path, **wanted)))
        blind.until_ready()
        sees = start(stack, tmp_path, "sees", server)
        ids = [send(sees, stamped_zip(5, first=10 * number)) for number in range(4)]
        for number, job_id in enumerate(ids):
            assert until_ended(blind, job_id)["state"] == "done"
            assert_each_picture_once(results_of(blind, job_id), 5, first=10 * number)
        assert job_of(blind, ids[0])["done"] == 5
        assert blind.errors() == []
