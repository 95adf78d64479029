"""Files as cameras: one that loops, is replaced by one that hangs and comes back, and one that ends."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clips import COUNTER_MP4, COUNTER_MP4_PICTURES, number_of
from tests.process.daemon import Daemon, until
from tests.process.watching import Watcher, ids_that_went_back

pytestmark = pytest.mark.process

STALL_SECONDS = 1.0
LOOP_SECONDS = 3.6


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    shutil.copy(COUNTER_MP4, tmp_path / "loop.mp4")
    journal = {"journal": str(tmp_path / "journal")}
    common = {
        "plugin": "faulty-capture",
        "stall_timeout_seconds": STALL_SECONDS,
        "stale_after_seconds": STALL_SECONDS,
        "open_timeout_seconds": 1,
        "reconnect_max_seconds": 0.5,
        "max_abandoned_workers": 16,
    }
    cameras: dict[str, Any] = {
        "loop": {**common, "url": "loop.mp4", "options": {**journal, "realtime": True, "loop": True}},
        "once": {**common, "url": str(COUNTER_MP4), "options": journal},
        "missing": {**common, "url": "no-such-file.mp4", "options": journal},
    }
    with Daemon(tmp_path, {"cameras": cameras}) as running:
        running.until_state("loop", "live", seconds=60)
        yield running


def test_a_file_that_hangs_is_a_404_in_time_and_comes_back_without_loading_the_model_again(daemon: Daemon) -> None:
    file = daemon.folder / "loop.mp4"
    with Watcher(daemon.port, "loop") as watcher:
        file.unlink()
        os.mkfifo(file)  # whoever opens it waits for a writer, for ever
        broken = time.monotonic()
        lost = daemon.until_state("loop", "stalled", "reconnecting", seconds=LOOP_SECONDS + STALL_SECONDS + 10)
        known = time.monotonic()
        assert known - broken < LOOP_SECONDS + STALL_SECONDS + 1.5
        assert "no image" in lost["reason"]
        until(lambda: len(daemon.camera("loop")["errors"]) > 1)
        mended = time.monotonic()
        file.unlink()
        shutil.copy(COUNTER_MP4, file)
        daemon.until_state("loop", "live")
        until(lambda: len(daemon.camera("loop")["errors"]) and watcher.answers[-1].status == 200)
    assert watcher.failure is None
    dark = [answer for answer in watcher.answers if known < answer.sent and answer.received < mended]
    assert dark
    assert {answer.status for answer in dark} == {404}
    assert {answer.state for answer in dark} <= {"stalled", "reconnecting"}
    assert all((answer.said_age or 0.0) <= STALL_SECONDS for answer in watcher.answers)
    assert all(number_of(answer.picture) is not None for answer in watcher.answers if answer.status == 200)
    assert ids_that_went_back(watcher.answers) == []
    journal = (daemon.folder / "journal").read_text(encoding="utf-8").split("\n")
    assert journal.count("loop loaded") == 1
    assert daemon.stop()[0] == 0


def test_a_recording_is_read_to_its_last_image_then_ended_and_begins_anew_when_told_to(daemon: Daemon) -> None:
    ended = daemon.until_state("once", "ended")
    assert ended["frames"]["read"] == ended["frames"]["predicted"] == COUNTER_MP4_PICTURES
    picture = daemon.get("/api/v1/cameras/once/snapshot")
    assert (picture.status_code, picture.json()["extra"]["state"]) == (404, "ended")
    assert daemon.client.post("/api/v1/cameras/once/restart").status_code == 202
    again = until(
        lambda: (
            (seen := daemon.camera("once"))["state"] == "ended"
            and seen["frames"]["read"] > COUNTER_MP4_PICTURES
            and seen
        ),
        what=lambda: daemon.camera("once"),
    )
    assert again["frames"]["predicted"] == 2 * COUNTER_MP4_PICTURES
    missing = daemon.until_state("missing", "reconnecting", "failed")
    assert "no-such-file.mp4" in missing["reason"]
