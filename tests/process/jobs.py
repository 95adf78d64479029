"""Jobs of a real daemon: sent, waited for, and read."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2

from tests.faulty_plugin.installed.healthd_faulty.stamps import Stamp, stamped_picture
from tests.jobs.pictures import zipped
from tests.process.daemon import Daemon, until

SECONDS = 60.0
ENDED = {"done", "failed", "cancelled"}


def stamped_zip(count: int, *, first: int = 0) -> bytes:
    """Pictures that carry the numbers from `first` on."""
    members = {}
    for number in range(first, first + count):
        done, data = cv2.imencode(".png", stamped_picture(Stamp(number, 0)))
        assert done
        members[f"{number:06d}.png"] = data.tobytes()
    return zipped(members)


def settings(folder: Path, *, model: str = "noting", **sections: Any) -> dict[str, Any]:
    return {
        "models": {"default": model},
        "jobs": {"directory": str(folder / "jobs"), **sections.pop("jobs", {})},
        **sections,
    }


def send(daemon: Daemon, data: bytes, *, name: str = "pictures.zip", **fields: Any) -> str:
    answer = daemon.client.post("/api/v1/jobs", files={"file": (name, data)}, data=fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def job_of(daemon: Daemon, job_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = daemon.get(f"/api/v1/jobs/{job_id}").raise_for_status().json()
    return answer


def until_done(daemon: Daemon, job_id: str, *, pictures: int) -> None:
    """Wait until so many pictures have their result."""
    until(lambda: job_of(daemon, job_id)["done"] >= pictures, seconds=SECONDS, what=daemon.story)


def until_ended(daemon: Daemon, job_id: str, *, seconds: float = SECONDS) -> dict[str, Any]:
    until(lambda: job_of(daemon, job_id)["state"] in ENDED, seconds=seconds, what=daemon.story)
    return job_of(daemon, job_id)


def lines_of(daemon: Daemon, job_id: str) -> list[str]:
    return daemon.get(f"/api/v1/jobs/{job_id}/results").raise_for_status().text.splitlines()


def results_of(daemon: Daemon, job_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(daemon, job_id)]


def assert_each_picture_once(lines: list[dict[str, Any]], count: int, *, first: int = 0) -> None:
    """Every picture has one result, in order, and it is its own."""
    assert [line["index"] for line in lines] == list(range(count))
    assert [line["name"] for line in lines] == [f"{first + number:06d}.png" for number in range(count)]
    assert [line["envelope"]["metadata"]["number"] for line in lines] == list(range(first, first + count))


def predicted(journal: Path) -> Counter[int]:
    """How often the model has seen each picture."""
    seen = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    return Counter(int(line.split()[1]) for line in seen if line.startswith("predicted"))
