"""The real daemon reads its configuration again: by signal, by request, by watching its file, and in bounded time."""

import itertools
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIG_DFL, SIGHUP, SIGTERM, signal
from typing import Any

import httpx
import psutil
import pytest

from tests.process.daemon import Daemon, to_toml, until
from tests.process.test_start import owns_its_signals

pytestmark = pytest.mark.process

STEADY = {"plugin": "faulty", "options": {"fps": 50}}
CALM = {"plugin": "faulty", "options": {"fps": 20}}
"""So slow that a viewer misses a frame when healthd pauses, not when the machine is late for a moment."""


@pytest.fixture(autouse=True)
def hangups_count() -> Iterator[None]:
    """Under `nohup`, whose children inherit it, SIGHUP is ignored, and so it is while healthd starts."""
    before = signal(SIGHUP, SIG_DFL)
    yield
    signal(SIGHUP, before)


def write(daemon: Daemon, cameras: dict[str, Any], **sections: Any) -> None:
    """Put another configuration in the place of the first, as an editor does."""
    other = daemon.config.with_suffix(".new")
    base = {"server": {"port": 0}, "shutdown": {"grace_seconds": 1, "drain_seconds": 1}}
    other.write_text(to_toml({**base, **sections, "cameras": cameras}), encoding="utf-8")
    other.replace(daemon.config)


def names(daemon: Daemon) -> list[str]:
    return [camera["name"] for camera in daemon.get("/api/v1/cameras").json()]


def lost_frames(daemon: Daemon) -> dict[str, float]:
    """Frames of `gym` that were lost by reading; `unseen` and the like nobody wanted."""
    dropped = 'healthd_camera_frames_dropped_total{{camera="gym",reason="{}"}}'
    return {
        reason: daemon.samples().get(dropped.format(reason), 0.0) for reason in ("lost", "backlog", "failed", "invalid")
    }


def test_on_sighup_and_by_request_only_what_differs_is_touched_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    with Daemon(tmp_path, {"cameras": {"gym": CALM, "rack": STEADY}}) as daemon:
        daemon.until_state("gym", "live")
        ids: list[int] = []
        over = threading.Event()

        def look() -> None:
            with httpx.stream("GET", f"{daemon.url}/api/v1/cameras/gym/stream", timeout=10, trust_env=False) as answer:
                for line in answer.iter_lines():
                    if line.startswith("X-Frame-Id:"):
                        ids.append(int(line.split(":")[1]))
                    if over.is_set():
                        return

        looking = threading.Thread(target=look)
        looking.start()
        until(lambda: len(ids) > 10)
        before = lost_frames(daemon)
        write(daemon, {"yard": STEADY, "gym": CALM}, log={"level": "debug"})
        daemon.send(SIGHUP)
        until(lambda: names(daemon) == ["yard", "gym"], what=daemon.story)
        daemon.until_state("yard", "live")
        (told,) = daemon.events("config_reloaded")
        assert (told["trigger"], told["added"], told["removed"], told["restarted"]) == (
            "signal",
            ["yard"],
            ["rack"],
            [],
        )
        assert told["changed"] == ["log.level"]

        daemon.config.write_text(f"{daemon.config.read_text()}\n[sever]\n[cameras.new]\nplugin = 'nope'\n")
        daemon.send(SIGHUP)
        until(lambda: daemon.events("config_reload_failed"), what=daemon.story)
        answer = daemon.client.post("/api/v1/config/reload")
        assert answer.status_code == 422
        assert "sever" in answer.text
        assert names(daemon) == ["yard", "gym"]
        assert daemon.samples()['healthd_config_reloads_total{outcome="failed"}'] == 2

        write(daemon, {"gym": CALM, "yard": {**STEADY, "options": {"fps": 40}}}, server={"port": 1})
        done = daemon.client.post("/api/v1/config/reload").json()
        assert done == {
            "added": [],
            "removed": [],
            "restarted": ["yard"],
            "changed": ["log.level"],
            "restart_needed": ["server.port"],
        }
        seen = len(ids)
        until(lambda: len(ids) > seen + 10)
        over.set()
        looking.join(timeout=5)
        gym = daemon.camera("gym")
        assert gym["reconnects"] == 0
        assert ids == sorted(set(ids)), "no frame twice, none back"
        assert lost_frames(daemon) == before, "it reads on as if nothing was"
        assert max(later - earlier for earlier, later in itertools.pairwise(ids)) <= 2, "the viewer misses nothing"
        assert daemon.stop()[0] == 0, daemon.story()


def test_a_watched_file_is_read_when_it_is_whole_and_with_what_it_refers_to(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("the-first-key-of-all")
    auth = {"keys": [{"name": "me", "key": f"file:{key}", "scope": "admin"}]}
    with Daemon(tmp_path, {"config": {"watch": True}, "auth": auth, "cameras": {"gym": STEADY}}) as daemon:
        daemon.until_ready()
        daemon.client.headers["X-Api-Key"] = "the-first-key-of-all"
        assert names(daemon) == ["gym"]
        key.write_text("the-second-key-of-all")
        whole = daemon.config.read_text() + "\n[cameras.rack]\nplugin = 'faulty'\n"
        with daemon.config.open("w") as file:
            for part in (whole[: len(whole) // 2], whole[len(whole) // 2 :]):
                file.write(part)
                file.flush()
                time.sleep(0.6)  # a second would be taken for the end
        daemon.client.headers["X-Api-Key"] = "the-second-key-of-all"
        until(lambda: daemon.get("/api/v1/cameras").status_code == 200, what=daemon.story)
        assert names(daemon) == ["gym", "rack"]
        assert not daemon.events("config_reload_failed")
        daemon.config.unlink()
        until(lambda: daemon.events("config_file_gone"), what=daemon.story)
        assert names(daemon) == ["gym", "rack"]
        assert daemon.stop()[0] == 0, daemon.story()


def test_a_config_map_that_is_swapped_is_taken_as_kubernetes_swaps_it(tmp_path: Path) -> None:
    """The file is a link to a link to a folder: that is what changes, in one rename, and the file itself never does."""
    with Daemon(tmp_path, {"config": {"watch": True}, "cameras": {"gym": CALM}}) as daemon:
        first = daemon.config.read_text()
        swap(daemon.config, "..2026_01", first)
        daemon.until_ready()
        swap(daemon.config, "..2026_02", f"{first}\n[cameras.rack]\nplugin = 'faulty'\n")
        until(lambda: names(daemon) == ["gym", "rack"], what=daemon.story)
        swap(daemon.config, "..2026_03", f"{first}\n[sever]\n")
        until(lambda: daemon.events("config_reload_failed"), what=daemon.story)
        assert names(daemon) == ["gym", "rack"]
        swap(daemon.config, "..2026_04", first)
        until(lambda: names(daemon) == ["gym"], what=daemon.story)
        assert daemon.camera("gym")["reconnects"] == 0
        assert not daemon.events("config_file_gone")
        assert daemon.stop()[0] == 0, daemon.story()


def swap(config: Path, version: str, text: str) -> None:
    """Put a text in the place of the file as a kubelet does that updates a mounted ConfigMap."""
    folder, data, new = config.parent / version, config.parent / "..data", config.parent / "..data_tmp"
    old = data.resolve() if data.is_symlink() else None
    folder.mkdir()
    (folder / config.name).write_text(text, encoding="utf-8")
    new.symlink_to(version)
    new.replace(data)
    if not config.is_symlink():
        link = config.parent / "link"
        link.symlink_to(f"..data/{config.name}")
        link.replace(config)
    if old is not None:
        shutil.rmtree(old)


@pytest.mark.parametrize("moment", [0.0, 0.6])
def test_a_sighup_during_the_start_is_neither_fatal_nor_lost(tmp_path: Path, moment: float) -> None:
    with Daemon(tmp_path, {"cameras": {"gym": STEADY}}) as daemon:
        until(lambda: owns_its_signals(daemon.pid), seconds=30, what=daemon.story)
        time.sleep(moment)
        write(daemon, {"rack": STEADY})
        daemon.send(SIGHUP)
        until(lambda: names(daemon) == ["rack"], what=daemon.story)
        assert daemon.stop()[0] == 0, daemon.story()


def test_a_stop_during_a_reload_that_hangs_ends_in_time(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a-key-that-will-not-be-read")
    auth = {"keys": [{"name": "me", "key": f"file:{key}"}], "mode": "none"}
    with Daemon(tmp_path, {"auth": auth, "cameras": {"gym": STEADY}}) as daemon:
        daemon.until_state("gym", "live")
        key.unlink()
        os.mkfifo(key)  # who reads it waits for a writer
        daemon.send(SIGHUP)
        asked = threading.Thread(
            target=lambda: httpx.post(f"{daemon.url}/api/v1/config/reload", timeout=60, trust_env=False)
        )
        asked.start()
        time.sleep(0.5)
        assert daemon.camera("gym")["state"] == "live"
        code, seconds = daemon.stop(SIGTERM)
        assert code == 0, daemon.story()
        assert seconds < 4
        asked.join(timeout=5)
        assert daemon.left_behind() == []


@pytest.mark.skipif(sys.platform != "linux", reason="processes for cameras are Linux' alone")
def test_the_first_camera_that_comes_with_a_reload_costs_no_more_than_one_that_was_there(tmp_path: Path) -> None:
    with Daemon(tmp_path, {"cameras": {}}) as daemon:
        daemon.until_ready()
        write(daemon, {"gym": STEADY})
        assert daemon.client.post("/api/v1/config/reload").json()["added"] == ["gym"]
        daemon.until_state("gym", "live", seconds=40)
        (child,) = [one for one in psutil.Process(daemon.pid).children(recursive=True) if one.name() == "gym"]
        assert child.memory_full_info().uss < 20e6, "what it imports, it shares with what it was forked from"
        assert daemon.stop()[0] == 0, daemon.story()
