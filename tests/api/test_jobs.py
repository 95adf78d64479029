"""Jobs over the real server: what is taken in and what is refused, progress, results, cancelling, and the limits."""

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx
import pytest
import structlog.testing

from healthd.errors import ModelError, ParameterError
from healthd.frames import Image
from healthd.jobs import uploads
from healthd.jobs.errors import JobsUnavailableError
from healthd.models.model import Detection, InferenceParams, Model, ModelSpec, Prediction
from tests.api.house import ADMIN, KEYS, READ, FakeFamily, House, assert_error, open_house
from tests.eventually import eventually
from tests.fakes import prediction
from tests.jobs.pictures import jpeg, pictures_zip, video, zipped

SECONDS = 20.0


class Seen:
    """What the model of a test has seen, and what it does with a picture."""

    def __init__(self) -> None:
        self.pictures: list[Image] = []
        self.params: list[InferenceParams] = []
        self.do: Callable[[Image], Prediction] = prediction
        self.gate = threading.Event()
        self.gate.set()
        self.load: Callable[[ModelSpec], None] = lambda _: None


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    seen = Seen()

    class Watched(Model):
        task = "detect"
        labels: ClassVar = {0: "person"}

        def predict(self, image: Image, params: InferenceParams) -> Prediction:
            seen.pictures.append(image)
            seen.params.append(params)
            assert seen.gate.wait(SECONDS)
            return seen.do(image)

    def load(self: FakeFamily, spec: ModelSpec) -> Model:
        seen.load(spec)
        return Watched()

    monkeypatch.setattr(FakeFamily, "load", load)
    yield seen
    seen.gate.set()


@asynccontextmanager
async def house_with_jobs(folder: Path, jobs: dict[str, Any] | None = None, **sections: Any) -> AsyncIterator[House]:
    sections.setdefault("models", {"default": "watched.onnx", "directory": str(folder / "models")})
    async with open_house(jobs={"directory": str(folder / "jobs"), **(jobs or {})}, **sections) as house:
        yield house


async def send(house: House, data: bytes, *, name: str = "a.zip", **fields: Any) -> httpx.Response:
    return await house.client.post("/api/v1/jobs", files={"file": (name, data)}, data=fields)


async def begun(house: House, data: bytes, **fields: Any) -> str:
    answer = await send(house, data, **fields)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/api/v1/jobs/{job['id']}"
    return str(job["id"])


async def ended(house: House, job_id: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    async def look() -> bool:
        seen.update((await house.get(f"/api/v1/jobs/{job_id}")).json())
        return seen["state"] not in {"queued", "running"}

    for _ in range(int(SECONDS / 0.05)):
        if await look():
            return seen
        await asyncio.sleep(0.05)
    raise AssertionError(seen)


async def results(house: House, job_id: str, **query: Any) -> list[dict[str, Any]]:
    answer = await house.get(f"/api/v1/jobs/{job_id}/results", params=query)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text == "" or answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


def left(folder: Path) -> list[str]:
    """What lies in the folder of the uploads."""
    return sorted(path.name for path in (folder / "jobs" / "uploads").glob("*"))


# -- the ordinary way --------------------------------------------------------------------------------------------------


async def test_a_zip_becomes_a_line_for_each_picture(tmp_path: Path, seen: Seen) -> None:
    found = (Detection((1, 2, 3, 4), 0.9, 0, "person"),)
    seen.do = lambda image: prediction(image, results=found)
    async with house_with_jobs(tmp_path) as house:
        job_id = await begun(house, pictures_zip(7), name="holiday.zip", conf="0.6", max_det="5", text_queries="a hat")
        job = await ended(house, job_id)
        assert {key: job[key] for key in ("state", "kind", "name", "done", "failed", "total", "error")} == {
            "state": "done",
            "kind": "zip",
            "name": "holiday.zip",
            "done": 7,
            "failed": 0,
            "total": 7,
            "error": None,
        }
        assert job["model"] == "watched.onnx"
        assert job["params"] == {"conf": 0.6, "max_det": 5, "text_queries": ["a hat"]}
        assert job["created_at"] <= job["started_at"] <= job["ended_at"]
        lines = await results(house, job_id)
        assert [line["index"] for line in lines] == list(range(7))
        assert [line["name"] for line in lines] == [f"{number:05d}.jpg" for number in range(7)]
        assert all(line["envelope"]["metadata"] == {"task": "detect", "width": 64, "height": 48} for line in lines)
        assert all(line["envelope"]["model_id"] == "watched.onnx" for line in lines)
        assert all(line["envelope"]["results"][0]["class_name"] == "person" for line in lines)
        assert len(seen.pictures) == 7
        assert (seen.params[0].confidence, seen.params[0].max_det) == (0.6, 5)
        assert (await house.get("/api/v1/jobs")).json() == [job]
        assert [line["index"] for line in await results(house, job_id, after=4)] == [5, 6]
        assert await results(house, job_id, after=6) == []
        metrics = (await house.get("/metrics")).text
        assert 'healthd_jobs{state="done"} 1.0' in metrics
        assert 'healthd_job_pictures_total{result="predicted"} 7.0' in metrics
    assert left(tmp_path) == []


async def test_a_video_becomes_a_line_for_every_nth_frame(tmp_path: Path, seen: Seen) -> None:
    data = video(tmp_path / "a.mp4", 20).read_bytes()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "other.onnx").write_bytes(b"weights")
    async with house_with_jobs(tmp_path) as house:
        answer = await house.client.post("/api/v1/jobs?every=3&model=other.onnx", files={"file": ("C:\\a.mp4", data)})
        assert answer.status_code == 202, answer.text
        assert answer.json()["total"] == 7
        job = await ended(house, answer.json()["id"])
        assert (job["kind"], job["name"], job["every"], job["total"]) == ("video", "a.mp4", 3, 7)
        lines = await results(house, job["id"])
        assert [(line["index"], line["frame"]) for line in lines] == [(n, 3 * n) for n in range(7)]
        assert [line["position_ms"] for line in lines] == pytest.approx([300 * n for n in range(7)], abs=1)
        assert lines[0]["envelope"]["model_id"] == "other.onnx"


async def test_the_envelope_is_the_one_that_a_request_for_the_picture_gets(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path) as house:
        asked = await house.client.post("/api/v1/infer", files={"file": ("a.jpg", jpeg(3))})
        job_id = await begun(house, zipped({"a.jpg": jpeg(3)}))
        await ended(house, job_id)
        (line,) = await results(house, job_id)
        assert line["envelope"] == asked.json()


async def test_pictures_that_fail_are_lines_of_their_own_and_the_rest_goes_on(tmp_path: Path, seen: Seen) -> None:
    def do(image: Image) -> Prediction:
        match len(seen.pictures):
            case 2:
                raise ModelError("not this one")
            case 3:
                raise KeyError("a bug of the family")
            case 4:
                return Prediction("m", 1.0, (), {"odd": object()})
        return prediction(image)

    seen.do = do
    members = {f"{number}.jpg": jpeg(number) for number in range(6)} | {"text.jpg": b"no picture", "last.jpg": jpeg(9)}
    async with house_with_jobs(tmp_path) as house:
        job_id = await begun(house, zipped(members))
        job = await ended(house, job_id)
        assert (job["state"], job["done"], job["failed"]) == ("done", 8, 4)
        lines = await results(house, job_id)
        assert [line["index"] for line in lines if "error" in line] == [1, 2, 3, 6]
        assert "not this one" in lines[1]["error"]
        assert lines[2]["error"].startswith("KeyError")
        assert "envelope" not in lines[1]
        assert "error" not in lines[0]


async def test_a_job_over_a_path_may_name_what_lies_in_an_allowed_directory(tmp_path: Path, seen: Seen) -> None:
    allowed = tmp_path / "allowed"
    (allowed / "deep").mkdir(parents=True)
    for number in range(3):
        (allowed / "deep" / f"{number}.jpg").write_bytes(jpeg(number))
    (allowed / "deep" / "notes.txt").write_text("text")
    clip = video(allowed / "a.mp4", 5)
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    (allowed / "deep" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    async with house_with_jobs(tmp_path, {"allowed_directories": [str(allowed)]}) as house:
        for text, names in (
            ("deep", ["0.jpg", "1.jpg", "2.jpg"]),
            (str(allowed / "deep" / "1.jpg"), ["1.jpg"]),
            (str(clip), [None] * 5),
        ):
            answer = await house.client.post("/api/v1/jobs", json={"path": text, "conf": 0.5, "half": True})
            assert answer.status_code == 202, answer.text
            job = await ended(house, answer.json()["id"])
            assert (job["state"], job["name"], job["params"]) == ("done", text, {"conf": 0.5, "half": True})
            assert [line.get("name") for line in await results(house, job["id"])] == names
        answer = await house.client.post("/api/v1/jobs", data={"path": "deep"})
        assert answer.status_code == 202
        assert clip.exists()


# -- what is refused ---------------------------------------------------------------------------------------------------


async def test_a_path_elsewhere_is_refused_without_a_word_of_whether_it_is_there(tmp_path: Path, seen: Seen) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (tmp_path / "there.jpg").write_bytes(jpeg())
    (allowed / "link.jpg").symlink_to(tmp_path / "there.jpg")
    (allowed / "notes.txt").write_text("text")
    said = set()
    async with house_with_jobs(tmp_path, {"allowed_directories": [str(allowed)]}) as house:
        for text in (str(tmp_path / "there.jpg"), str(tmp_path / "absent.jpg"), "../there.jpg", "link.jpg", "a\0b"):
            answer = await house.client.post("/api/v1/jobs", json={"path": text})
            said.add(json.dumps(assert_error(answer, 422)))
        assert len(said) == 1
        answer = await house.client.post("/api/v1/jobs", json={"path": "notes.txt"})
        assert "no video" in assert_error(answer, 400)["detail"]
    async with house_with_jobs(tmp_path) as house:
        answer = await house.client.post("/api/v1/jobs", json={"path": "/etc/passwd"})
        assert "jobs.allowed_directories is empty" in assert_error(answer, 422)["detail"]


@pytest.mark.parametrize(
    ("data", "status", "told"),
    [
        (b"", 400, "no video"),
        (b"just text", 400, "no video"),
        (b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", 400, "no video"),
        (jpeg(), 400, "/api/v1/infer"),
        (zipped({}), 400, "no picture in the zip"),
        (zipped({"a.txt": b"text"}), 400, "no picture in the zip"),
        (pictures_zip(2)[:-20], 400, "broken"),
        (b"\0\0\0\x20ftypisom" + bytes(5000), 400, "cannot be opened"),
    ],
)
async def test_what_is_neither_a_video_nor_a_zip_is_refused_at_once(
    data: bytes, status: int, told: str, tmp_path: Path, seen: Seen
) -> None:
    async with house_with_jobs(tmp_path) as house:
        assert told in assert_error(await send(house, data), status)["detail"]
        assert (await house.get("/api/v1/jobs")).json() == []
        await eventually(lambda: left(tmp_path) == [])


async def test_wrong_parameters_are_told_with_their_bounds(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path) as house:
        for fields, key in (
            ({"conf": "1.5"}, "conf"),
            ({"iou": "x"}, "iou"),
            ({"every": "0"}, "every"),
            ({"every": "1.5"}, "every"),
            ({"confidance": "0.5"}, "confidance"),
            ({"path": "/etc"}, "path"),
        ):
            error = assert_error(await send(house, pictures_zip(1), **fields), 422)
            assert error["extra"][0]["key"] == key
        error = assert_error(await house.client.post("/api/v1/jobs?conf=2", files={"file": b"x"}), 422)
        assert error["extra"][0]["key"] == "conf"
        answer = await house.client.post("/api/v1/jobs", json={"path": "a", "model": None})
        assert assert_error(answer, 422)["extra"][0]["key"] == "model"
        for answer in (
            await house.client.post("/api/v1/jobs", data={"conf": "0.5"}),
            await house.client.post("/api/v1/jobs", json={}),
            await house.client.post("/api/v1/jobs", json={"path": ["/a", "/b"]}),
            await house.client.post("/api/v1/jobs", files=[("file", b"a"), ("file", b"b")]),
        ):
            assert assert_error(answer, 422)["extra"][0]["key"] == "file"
        for content, kind, status in (
            (b"{", "application/json", 400),
            (b"[1]", "application/json", 400),
            (b'{"path": {"a": 1}}', "application/json", 400),
            (b"no form", "multipart/form-data; boundary=x", 400),
            (b"no form", "multipart/form-data", 400),
            (b"bytes", "application/octet-stream", 415),
            (b"", "", 415),
        ):
            answer = await house.client.post("/api/v1/jobs", content=content, headers={"Content-Type": kind})
            assert_error(answer, status)
        await eventually(lambda: left(tmp_path) == [])


async def test_an_unknown_model_is_told_before_the_job_is_taken_in(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path, models={"directory": str(tmp_path)}) as house:
        assert_error(await send(house, pictures_zip(1)), 404)
        assert (await house.get("/api/v1/jobs")).json() == []
        await eventually(lambda: left(tmp_path) == [])


async def test_a_file_that_is_too_large_is_refused_while_it_arrives(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path, {"max_upload_bytes": 2_000_000}) as house:
        error = assert_error(await send(house, bytes(5_000_000)), 413)
        assert "2,000,000 bytes" in error["detail"]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(house.url.rpartition(":")[2]))
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        writer.write(
            b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n%x\r\n%b\r\n" % (len(head), head)
        )
        answered = asyncio.create_task(reader.readline())
        while not answered.done():  # its body never ends
            writer.write(b"10000\r\n" + bytes(65_536) + b"\r\n")
            await writer.drain()
        assert b" 413 " in await answered
        writer.close()
        await eventually(lambda: left(tmp_path) == [])
        assert await begun(house, pictures_zip(3))


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path) as house:
        port = int(house.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        writer.write(
            b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + head + bytes(3_000_000)
        )
        await writer.drain()
        await eventually(lambda: left(tmp_path) != [])
        writer.close()
        await eventually(lambda: left(tmp_path) == [])


async def test_a_client_that_sends_nothing_any_more_has_its_time(tmp_path: Path, seen: Seen) -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' + bytes(100_000)
        await asyncio.sleep(5)

    async with house_with_jobs(tmp_path, inference={"upload_timeout_seconds": 0.3}) as house:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = await house.client.post("/api/v1/jobs", content=stalling(), headers=headers)
        assert_error(answer, 408)
        await eventually(lambda: left(tmp_path) == [])


async def test_a_disk_that_is_full_is_told_and_nothing_half_is_left(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house_with_jobs(tmp_path) as house:
        await ended(house, await begun(house, pictures_zip(1)))

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(uploads.os, "fsync", full)
            error = assert_error(await send(house, pictures_zip(2)), 507)
        assert "jobs.directory" in error["detail"]
        await eventually(lambda: left(tmp_path) == [])
        assert len((await house.get("/api/v1/jobs")).json()) == 1
        await ended(house, await begun(house, pictures_zip(2)))


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this machine")
async def test_a_disk_that_is_truly_full(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path) as house:
        await ended(house, await begun(house, pictures_zip(1)))
        folder = tmp_path / "jobs" / "uploads"
        begin = uploads.Uploads.begin

        def onto_a_full_disk(self: uploads.Uploads, job_id: str) -> uploads.Upload:
            upload = begin(self, job_id)
            upload._file.close()
            upload._file = FULL.open("wb", buffering=1024 * 1024)
            return upload

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(uploads.Uploads, "begin", onto_a_full_disk)
            assert_error(await send(house, bytes(3_000_000)), 507)
        await eventually(lambda: list(folder.iterdir()) == [])


async def test_too_many_jobs_are_told_to_come_later(tmp_path: Path, seen: Seen) -> None:
    seen.gate.clear()
    async with house_with_jobs(tmp_path, {"max_jobs": 2}) as house:
        first = await begun(house, pictures_zip(2))
        await begun(house, pictures_zip(2))
        answer = await send(house, pictures_zip(2))
        assert "jobs.max_jobs" in assert_error(answer, 503)["detail"]
        assert int(answer.headers["retry-after"]) > 0
        await house.client.delete(f"/api/v1/jobs/{first}")
        await begun(house, pictures_zip(2))
        seen.gate.set()


async def test_jobs_that_are_switched_off_say_so(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path, {"enabled": False}) as house:
        for answer in (
            await send(house, pictures_zip(1)),
            await house.get("/api/v1/jobs"),
            await house.get("/api/v1/jobs/a"),
            await house.get("/api/v1/jobs/a/results"),
            await house.client.delete("/api/v1/jobs/a"),
        ):
            assert "jobs.enabled" in assert_error(answer, 409)["detail"]
    assert not (tmp_path / "jobs").exists()


async def test_nothing_is_made_before_the_first_job(tmp_path: Path, seen: Seen) -> None:
    threads = {thread.name for thread in threading.enumerate()}
    async with house_with_jobs(tmp_path) as house:
        assert (await house.get("/api/v1/jobs")).json() == []
        for answer in (
            await house.get("/api/v1/jobs/absent"),
            await house.get("/api/v1/jobs/absent/results"),
            await house.client.delete("/api/v1/jobs/absent"),
        ):
            assert assert_error(answer, 404)["detail"] == "unknown job"
        assert (await house.get("/metrics")).status_code == 200
        for fields in ({"conf": "2"}, {"path": "/etc/passwd"}, {}):
            assert_error(await house.client.post("/api/v1/jobs", data=fields), 422 if fields else 415)
        assert not (tmp_path / "jobs").exists()
        new = {thread.name for thread in threading.enumerate()} - threads
        assert not {name for name in new if name.startswith(("Worker-", "jobs-keeper"))}


async def test_a_directory_of_another_daemon_is_left_to_it(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path) as first:
        await ended(first, await begun(first, pictures_zip(1)))
        async with house_with_jobs(tmp_path) as second:
            answer = await send(second, pictures_zip(1))
            assert "another healthd" in assert_error(answer, 503)["detail"]
            assert "another healthd" in assert_error(await second.get("/api/v1/jobs"), 503)["detail"]


async def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path, seen: Seen) -> None:
    (tmp_path / "jobs").write_text("a file in its place")
    async with house_with_jobs(tmp_path) as house:
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                assert "jobs.directory" in assert_error(await send(house, pictures_zip(1)), 503)["detail"]
            (tmp_path / "jobs").unlink()
            assert (await send(house, pictures_zip(1))).status_code == 202
        told = [(line["event"], line["log_level"]) for line in logs if "available" in line["event"]]
        assert told == [("jobs_unavailable", "warning"), ("jobs_available", "info")]
        assert "healthd_jobs_unavailable_total 1.0" in (await house.get("/metrics")).text


async def test_who_may_only_read_may_look_at_jobs_and_begin_none(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path, auth={"keys": KEYS}) as house:
        files = {"file": ("a.zip", pictures_zip(1))}
        assert_error(await house.client.post("/api/v1/jobs", files=files), 401)
        assert_error(await house.client.post("/api/v1/jobs", files=files, headers=READ), 403)
        answer = await house.client.post("/api/v1/jobs", files=files, headers=ADMIN)
        assert answer.status_code == 202
        path = answer.headers["location"]
        assert_error(await house.client.delete(path, headers=READ), 403)
        for where in ("/api/v1/jobs", path, f"{path}/results"):
            assert (await house.get(where, headers=READ)).status_code == 200
            assert_error(await house.get(where), 401)


# -- life --------------------------------------------------------------------------------------------------------------


async def test_a_job_that_runs_is_cancelled_by_one_delete_and_removed_by_the_next(tmp_path: Path, seen: Seen) -> None:
    seen.gate.clear()
    async with house_with_jobs(tmp_path) as house:
        job_id = await begun(house, pictures_zip(50))
        waiting = await begun(house, pictures_zip(3))
        await eventually(lambda: len(seen.pictures) == 1)
        job = (await house.get(f"/api/v1/jobs/{job_id}")).json()
        assert (job["state"], job["done"], job["total"]) == ("running", 0, 50)
        assert (await house.get(f"/api/v1/jobs/{waiting}")).json()["state"] == "queued"
        assert await results(house, job_id) == []
        answer = await house.client.delete(f"/api/v1/jobs/{job_id}")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        seen.gate.set()
        assert (await ended(house, waiting))["state"] == "done"
        assert len(seen.pictures) == 4
        assert (await house.get(f"/api/v1/jobs/{job_id}")).json()["done"] == 0
        assert (await house.client.delete(f"/api/v1/jobs/{job_id}")).status_code == 204
        assert_error(await house.get(f"/api/v1/jobs/{job_id}"), 404)
        assert_error(await house.get(f"/api/v1/jobs/{job_id}/results"), 404)
        assert_error(await house.client.delete(f"/api/v1/jobs/{job_id}"), 404)
        assert (await house.client.delete(f"/api/v1/jobs/{waiting}")).status_code == 204
        assert (await house.get("/api/v1/jobs")).json() == []
    assert left(tmp_path) == []


async def test_a_cancelled_job_keeps_the_results_it_has(tmp_path: Path, seen: Seen) -> None:
    def do(image: Image) -> Prediction:
        if len(seen.pictures) == 3:
            seen.gate.clear()
        return prediction(image)

    seen.do = do
    async with house_with_jobs(tmp_path) as house:
        job_id = await begun(house, pictures_zip(50))
        await eventually(lambda: len(seen.pictures) == 4)
        assert (await house.client.delete(f"/api/v1/jobs/{job_id}")).status_code == 200
        seen.gate.set()
        assert [line["index"] for line in await results(house, job_id)] == [0, 1, 2]
        assert left(tmp_path) == []


async def test_a_model_that_cannot_be_loaded_fails_the_job_with_the_reason(tmp_path: Path, seen: Seen) -> None:
    def load(spec: ModelSpec) -> None:
        raise ModelError("the weights are garbage")

    seen.load = load
    async with house_with_jobs(tmp_path) as house:
        job = await ended(house, await begun(house, pictures_zip(3)))
        assert (job["state"], job["done"]) == ("failed", 0)
        assert "the weights are garbage" in job["error"]


async def test_a_parameter_that_the_model_cannot_take_fails_the_job_with_the_reason(tmp_path: Path, seen: Seen) -> None:
    def do(image: Image) -> Prediction:
        raise ParameterError("this model answers no questions")

    seen.do = do
    async with house_with_jobs(tmp_path) as house:
        job = await ended(house, await begun(house, pictures_zip(3), question="why?"))
        assert (job["state"], job["error"]) == ("failed", "this model answers no questions")


async def test_a_job_waits_for_a_model_that_is_busy_however_long(tmp_path: Path, seen: Seen) -> None:
    seen.gate.clear()
    models = {"default": "watched.onnx", "queue_timeout_seconds": 0.1, "directory": str(tmp_path)}
    async with house_with_jobs(tmp_path, models=models) as house:
        asking = asyncio.create_task(house.client.post("/api/v1/infer", files={"file": ("a.jpg", jpeg(1))}))
        await eventually(lambda: len(seen.pictures) == 1)
        job_id = await begun(house, pictures_zip(3))
        await asyncio.sleep(1.0)
        assert (await house.get(f"/api/v1/jobs/{job_id}")).json()["state"] == "running"
        seen.gate.set()
        assert (await asking).status_code == 200
        job = await ended(house, job_id)
        assert (job["state"], job["done"], job["failed"]) == ("done", 3, 0)


async def test_what_is_left_at_the_stop_goes_on_at_the_next_start_with_nothing_done_twice(
    tmp_path: Path, seen: Seen
) -> None:
    def do(image: Image) -> Prediction:
        if len(seen.pictures) in {3, 6}:
            asyncio.run_coroutine_threadsafe(stop(), loop)
        return prediction(image)

    async def stop() -> None:
        stopped.set()
        current.services.jobs.request_stop()

    seen.do = do
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    job_id = ""
    for round_ in range(3):
        stopped.clear()
        async with house_with_jobs(tmp_path) as house:
            current = house
            job_id = job_id or await begun(house, pictures_zip(9))
            if round_ == 2:
                await ended(house, job_id)
                lines = await results(house, job_id)
            else:
                await asyncio.wait_for(stopped.wait(), SECONDS)
    assert [line["index"] for line in lines] == list(range(9))
    assert len(seen.pictures) == 9
    assert left(tmp_path) == []


async def test_a_model_that_hangs_does_not_hold_the_stop(tmp_path: Path, seen: Seen) -> None:
    seen.gate.clear()
    loop = asyncio.get_running_loop()
    async with house_with_jobs(tmp_path) as house:
        job_id = await begun(house, pictures_zip(3))
        await eventually(lambda: len(seen.pictures) == 1)
        at = loop.time()
        assert await house.services.jobs.drain(0.5) == (job_id,)
        assert loop.time() - at < 2
        seen.gate.set()


async def test_a_storage_that_hangs_when_it_is_closed_does_not_hold_the_stop(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    async with house_with_jobs(tmp_path) as house:
        await ended(house, await begun(house, pictures_zip(1)))
        jobs = house.services.jobs
        engine = jobs._engine
        assert engine is not None
        close = engine._close

        def hang() -> None:
            free.wait(SECONDS)
            close()

        monkeypatch.setattr(engine, "_close", hang)
        jobs.request_stop()
        await eventually(lambda: engine._queue.join(0))
        with structlog.testing.capture_logs() as events:
            assert await jobs.drain(0.5) == ()
        assert [event["event"] for event in events if event["log_level"] != "info"] == ["jobs_not_closed"]
        free.set()


async def test_a_beat_that_hangs_has_the_rest_of_the_time_at_the_stop_and_nothing_is_closed_under_it(
    tmp_path: Path, seen: Seen
) -> None:
    waits = list[float]()

    def join(_: float) -> bool:
        time.sleep(0.2)
        return True

    async with house_with_jobs(tmp_path) as house:
        await ended(house, await begun(house, pictures_zip(1)))
        engine = house.services.jobs._engine
        assert engine is not None
        with pytest.MonkeyPatch.context() as patch:
            keeper = SimpleNamespace(join=waits.append, is_alive=lambda: True)
            patch.setattr(engine, "_queue", SimpleNamespace(join=join))
            patch.setattr(engine, "_keeper", keeper)
            engine.drain(0.5)
        assert 0 <= waits[0] <= 0.31
        assert engine._lock is not None


async def test_a_storage_that_hangs_costs_four_threads_however_many_ask(tmp_path: Path) -> None:
    free = threading.Event()
    async with house_with_jobs(tmp_path) as house:
        jobs = house.services.jobs
        for _ in range(10):
            with pytest.raises(JobsUnavailableError, match="no answer"):
                await jobs._call(free.wait, timeout=0.01)
        assert jobs._pool.stuck == 4
        answer = await house.get("/api/v1/jobs")
        assert answer.status_code == 503
        assert "healthd_jobs_workers_stuck 4.0" in (await house.get("/metrics")).text
        free.set()
        await eventually(lambda: jobs._pool.stuck == 0)
        assert (await house.get("/api/v1/jobs")).status_code == 200


async def test_many_lines_come_as_they_are_and_only_whole_ones(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path) as house:
        job_id = await begun(house, pictures_zip(450))
        before = 0
        while (await house.get(f"/api/v1/jobs/{job_id}")).json()["state"] in {"queued", "running"}:
            lines = await results(house, job_id)
            assert [line["index"] for line in lines] == list(range(len(lines)))
            assert len(lines) >= before
            before = len(lines)
        assert [line["index"] for line in await results(house, job_id)] == list(range(450))
        for query in ({"after": "-2"}, {"after": "x"}):
            assert_error(await house.get(f"/api/v1/jobs/{job_id}/results", params=query), 422)


async def test_an_id_names_a_job_and_nothing_else(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path) as house:
        await ended(house, await begun(house, pictures_zip(1)))
        other = tmp_path / "jobs" / "uploads" / "0123456789abcdef.part"
        other.write_bytes(b"somebody sends this")
        for job_id in (other.name, "..", "%2e%2e", "%00", "a" * 5000, "0123456789abcdef", "%F0%9F%92%A9", "%ff"):
            for method, path in (("GET", ""), ("GET", "/results"), ("DELETE", "")):
                answer = await house.client.request(method, f"/api/v1/jobs/{job_id}{path}")
                assert answer.status_code in {404, 405}, (job_id, answer.text)
        assert other.exists()


async def test_ended_jobs_are_forgotten_after_their_time(tmp_path: Path, seen: Seen) -> None:
    async with house_with_jobs(tmp_path, {"keep_hours": 1e-6}) as house:
        job_id = await begun(house, pictures_zip(1))
        await eventually(lambda: len(seen.pictures) == 1)
    async with house_with_jobs(tmp_path, {"keep_hours": 1e-6}) as house:
        for _ in range(200):
            if (await house.get(f"/api/v1/jobs/{job_id}")).status_code == 404:
                break
            await asyncio.sleep(0.05)
        assert_error(await house.get(f"/api/v1/jobs/{job_id}"), 404)
