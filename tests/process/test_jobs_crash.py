"""Jobs and what may happen to the daemon: killed, stopped, started again; each picture has its result exactly once."""

import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.jobs.pictures import video
from tests.process.daemon import DEMO, INSTALLED, Daemon, new_client, until
from tests.process.jobs import (
    assert_each_picture_once,
    job_of,
    lines_of,
    predicted,
    results_of,
    send,
    settings,
    stamped_zip,
    until_done,
    until_ended,
)

pytestmark = pytest.mark.process
COUNT = 60
SLACK_SECONDS = 1.5


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_a_daemon_that_is_killed_in_the_middle_goes_on_where_it_was(seed: int, tmp_path: Path) -> None:
    chance, journal = random.Random(seed), tmp_path / "journal"
    job_id, before = "", list[str]()
    kills = 3
    for _ in range(kills):
        with Daemon(tmp_path, settings(tmp_path), FAULTY_JOURNAL=str(journal)) as daemon:
            job_id = job_id or send(daemon, stamped_zip(COUNT))
            until_done(daemon, job_id, pictures=len(before) + 2)
            time.sleep(chance.uniform(0, 0.3))
            now = lines_of(daemon, job_id)
            daemon.send(signal.SIGKILL)
            daemon.wait(seconds=10)
            assert now[: len(before)] == before, "a result has changed"
            before = now
    assert len(before) < COUNT
    with Daemon(tmp_path, settings(tmp_path), FAULTY_JOURNAL=str(journal)) as daemon:
        job = until_ended(daemon, job_id)
        assert (job["state"], job["done"], job["failed"], job["total"]) == ("done", COUNT, 0, COUNT), job
        assert lines_of(daemon, job_id)[: len(before)] == before, "a result was computed again"
        assert_each_picture_once(results_of(daemon, job_id), COUNT)
        assert not list((tmp_path / "jobs" / "uploads").iterdir())
        assert daemon.errors() == []
    times = predicted(journal)
    assert set(times) == set(range(COUNT))
    assert sum(times.values()) - COUNT <= kills, f"more was done twice than what was in hand: {times}"


def test_a_job_is_kept_from_the_moment_it_was_accepted(tmp_path: Path) -> None:
    with Daemon(tmp_path, settings(tmp_path)) as daemon:
        ids = [send(daemon, stamped_zip(3, first=10 * number)) for number in range(4)]
        daemon.send(signal.SIGKILL)
        daemon.wait(seconds=10)
    with Daemon(tmp_path, settings(tmp_path)) as daemon:
        for number, job_id in enumerate(ids):
            assert until_ended(daemon, job_id)["state"] == "done"
            assert_each_picture_once(results_of(daemon, job_id), 3, first=10 * number)
        assert [job["id"] for job in daemon.get("/api/v1/jobs").json()] == ids


def test_sigterm_in_the_middle_is_a_pause(tmp_path: Path) -> None:
    journal, job_id = tmp_path / "journal", ""
    done = 0
    for _ in range(3):
        with Daemon(tmp_path, settings(tmp_path), FAULTY_JOURNAL=str(journal)) as daemon:
            job_id = job_id or send(daemon, stamped_zip(COUNT))
            until_done(daemon, job_id, pictures=done + 2)
            code, seconds = daemon.stop()
            assert code == 0
            assert seconds < 1 + SLACK_SECONDS
            assert daemon.errors() == []
            (paused,) = daemon.events("job_paused")
            done = paused["done"]
    with Daemon(tmp_path, settings(tmp_path), FAULTY_JOURNAL=str(journal)) as daemon:
        assert until_ended(daemon, job_id)["state"] == "done"
        assert_each_picture_once(results_of(daemon, job_id), COUNT)
    assert set(predicted(journal).values()) == {1}, "a pause is after the picture in hand: nothing is done twice"


def test_a_model_that_hangs_does_not_hold_the_stop(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Daemon(tmp_path, settings(tmp_path, model="noting-stuck"), FAULTY_JOURNAL=str(journal)) as daemon:
        job_id = send(daemon, stamped_zip(10))
        until(lambda: "stuck" in (journal.read_text() if journal.exists() else ""), what=daemon.story)
        code, seconds = daemon.stop()
        assert code == 0
        assert seconds < 2 + SLACK_SECONDS, daemon.story()
        assert [event["job"] for event in daemon.events("job_abandoned")] == [job_id]
    with Daemon(tmp_path, settings(tmp_path, model="noting-stuck"), FAULTY_JOURNAL=str(journal)) as daemon:
        until(lambda: job_of(daemon, job_id)["done"] > 4, seconds=30, what=daemon.story)  # the model is fresh


@pytest.mark.skipif(sys.platform != "linux", reason="processes for videos are Linux' alone")
def test_a_video_that_crashes_its_decoder_costs_its_job_and_nothing_else(tmp_path: Path) -> None:
    film = video(tmp_path / "a.mp4", 2000)
    with Daemon(tmp_path, settings(tmp_path)) as daemon:
        job_id = send(daemon, film.read_bytes(), name="a.mp4")
        until_done(daemon, job_id, pictures=5)
        (decoder,) = (child for child in psutil.Process(daemon.pid).children(recursive=True) if child.name() == "video")
        decoder.send_signal(signal.SIGSEGV)
        job = until_ended(daemon, job_id)
        assert job["state"] == "failed"
        assert "the process that decodes the video was ended by SIGSEGV, at frame " in job["error"]
        assert len(lines_of(daemon, job_id)) == job["done"] >= 5
        assert until_ended(daemon, send(daemon, stamped_zip(2)))["state"] == "done"
        assert daemon.errors() == []


def test_an_upload_that_was_cut_off_by_a_crash_leaves_nothing(tmp_path: Path) -> None:
    uploads = tmp_path / "jobs" / "uploads"
    with Daemon(tmp_path, settings(tmp_path)) as daemon:
        until_ended(daemon, send(daemon, stamped_zip(1)))
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'

        def endless() -> Iterator[bytes]:
            yield head
            while True:
                yield bytes(100_000)
                if any(path.stat().st_size for path in uploads.iterdir()):
                    daemon.send(signal.SIGKILL)

        with new_client(daemon.url) as client, pytest.raises(httpx.TransportError):
            client.post("/api/v1/jobs", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"})
        daemon.wait(seconds=10)
        assert list(uploads.iterdir())
    with Daemon(tmp_path, settings(tmp_path)) as daemon:
        until(lambda: not list(uploads.iterdir()), what=daemon.story)


def test_nothing_is_made_where_nobody_has_a_job(tmp_path: Path) -> None:
    with Daemon(tmp_path, {"models": {"default": "noting"}}) as daemon:
        assert daemon.get("/api/v1/jobs").json() == []
        assert daemon.get("/metrics").status_code == 200
        assert daemon.stop()[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml"]


def test_the_directory_is_relative_to_the_configuration(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "etc", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    video(folder / "clip.mp4", 3, size=(192, 320))
    relative = {"models": {"default": "counter"}, "jobs": {"directory": "work", "allowed_directories": ["."]}}
    with Daemon(folder, relative, prefix=["env", "-C", str(elsewhere)]) as daemon:
        answer = daemon.client.post("/api/v1/jobs", json={"path": "clip.mp4"})
        assert answer.status_code == 202, answer.text
        assert until_ended(daemon, answer.json()["id"])["done"] == 3
    assert (folder / "work").is_dir()
    assert list(elsewhere.iterdir()) == []


def test_the_demo_leaves_nothing_where_it_is_tried(tmp_path: Path) -> None:
    here, state = tmp_path / "here", tmp_path / "state"
    here.mkdir()
    with Daemon(here, arguments=["demo", "--port", 0], plugins=[INSTALLED, DEMO], XDG_STATE_HOME=str(state)) as daemon:
        answer = daemon.client.post("/api/v1/jobs?model=counter", files={"file": ("a.zip", stamped_zip(2))})
        if answer.status_code == 404:  # the cameras of this demo have no model
            assert "unknown model" in answer.text
        else:
            until_ended(daemon, answer.json()["id"])
        daemon.stop()
    assert list(here.iterdir()) == []
    assert (state / "healthd" / "demo-jobs").is_dir()


@pytest.mark.assets
@pytest.mark.thorough
def test_real_weights_say_of_the_pictures_of_a_killed_job_what_they_say_of_a_request(
    tmp_path: Path, assets: Path
) -> None:
    wanted = {
        "models": {"directory": str(assets / "weights"), "default": "yolov8n-pose.onnx"},
        "jobs": {"directory": str(tmp_path / "jobs"), "allowed_directories": [str(assets)]},
    }
    clip = "clips/squat_side_3.mp4"
    order = {"path": clip, "every": 8, "conf": 0.4}
    with Daemon(tmp_path, wanted, plugins=[]) as daemon:
        answer = daemon.client.post("/api/v1/jobs", json=order)
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["id"]
        until_done(daemon, job_id, pictures=5)
        daemon.send(signal.SIGKILL)
        daemon.wait(seconds=10)
    with Daemon(tmp_path, wanted, plugins=[]) as daemon:
        job = until_ended(daemon, job_id)
        lines = results_of(daemon, job_id)
        assert [line["frame"] for line in lines] == list(range(0, 322, 8))
        assert job["failed"] == 0
        again = daemon.client.post("/api/v1/jobs", json=order).json()["id"]
        until_ended(daemon, again)
        for one, other in zip(lines, results_of(daemon, again), strict=True):
            assert one["position_ms"] == other["position_ms"]
            assert one["envelope"]["results"] == other["envelope"]["results"]
        assert sum(bool(line["envelope"]["results"]) for line in lines) > len(lines) * 0.8
        picture = min((assets / "coco8-pose").rglob("*.jpg"))
        asked = daemon.client.post("/api/v1/infer", files={"file": picture.read_bytes()}).json()
        named = str(picture.relative_to(assets))
        single = daemon.client.post("/api/v1/jobs", json={"path": named}).json()["id"]
        until_ended(daemon, single)
        (line,) = results_of(daemon, single)
        assert {**line["envelope"], "inference_time_ms": 0} == {**asked, "inference_time_ms": 0}
