"""A camera whose driver hangs or crashes costs itself one session, and nobody else anything."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.jobs.pictures import video
from tests.process.daemon import Daemon, until

pytestmark = [pytest.mark.process, pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux' alone")]

STALL_SECONDS = 0.7
BACK_SECONDS = 3.0
"""Stalled, killed, paused for half a second, opened anew; generous for a loaded machine."""
CLIP = Path(__file__).resolve().parent.parent / "data" / "counter.mp4"

CRASHES = {
    "segv": "was ended by SIGSEGV",
    "abort": "was ended by SIGABRT",
    "leave": "ended by itself with exit status 3",
}
"""What a plugin does, and what is told of it."""


def camera(plugin: str = "faulty", **settings: Any) -> dict[str, Any]:
    bounds = {"stall_timeout_seconds": STALL_SECONDS, "open_timeout_seconds": 5, "reconnect_max_seconds": 0.5}
    return {"plugin": plugin, **bounds, **settings}


def misbehaving(do: str) -> dict[str, Any]:
    return camera(options={"do": do, "after": 10, "fps": 20}, max_crashes=0)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    cameras = {
        "witness": camera(options={"fps": 20, "model": "own"}),
        "outside": camera(options={"fps": 20}),
        "recording": camera("faulty-capture", url=str(CLIP), isolation="process"),
        "hang-in-c": misbehaving("hang-in-c"),
        **{name: misbehaving(name) for name in CRASHES},
    }
    with Daemon(tmp_path_factory.mktemp("isolation"), {"cameras": cameras}) as running:
        for name in ("witness", "outside"):
            running.until_state(name, "live", seconds=40)
        yield running
        assert running.stop()[0] == 0, running.story()
        assert running.left_behind() == []


def process_of(daemon: Daemon, name: str) -> psutil.Process:
    """The process of a camera, once it has one."""

    def found() -> psutil.Process | None:
        for child in psutil.Process(daemon.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() == name:
                    return child
        return None

    process: psutil.Process = until(found, what=f"a process of {name}")
    return process


def reasons(seen: dict[str, Any]) -> str:
    return " | ".join(error["reason"] for error in seen["errors"])


def ends(daemon: Daemon, name: str, reason: str) -> float:
    return daemon.samples()[f'healthd_camera_process_ends_total{{camera="{name}",reason="{reason}"}}']


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_costs_one_session_and_is_told_with_its_signal(name: str, daemon: Daemon) -> None:
    until(lambda: daemon.camera(name)["reconnects"] >= 2, what=daemon.story)
    seen = daemon.until_state(name, "live")
    assert CRASHES[name] in reasons(seen)
    assert ends(daemon, name, "exited" if name == "leave" else "crashed") >= 2
    told = [event for event in daemon.events("camera_process_ended") if event["camera"] == name]
    if name == "segv":
        assert any("Segmentation fault" in line for line in told[0]["last_output"]), "and where it was"


def test_a_driver_that_hangs_in_c_is_killed_and_opened_anew(daemon: Daemon) -> None:
    until(lambda: daemon.camera("hang-in-c")["reconnects"] >= 2, what=daemon.story)
    assert "no image within 0.7 s" in reasons(daemon.camera("hang-in-c"))
    assert ends(daemon, "hang-in-c", "stalled") >= 2
    assert daemon.camera("hang-in-c")["workers_stuck"] == 0, "no thread was given up for it"
    assert daemon.samples()['healthd_camera_workers_abandoned_total{camera="hang-in-c"}'] == 0


@pytest.mark.parametrize(("number", "told"), [(signal.SIGSTOP, "no image within"), (signal.SIGKILL, "SIGKILL")])
def test_a_process_that_is_stopped_or_killed_from_outside_is_replaced(
    number: signal.Signals, told: str, daemon: Daemon
) -> None:
    daemon.until_state("outside", "live")
    process, begun = process_of(daemon, "outside"), time.monotonic()
    os.kill(process.pid, number)
    daemon.until_state("outside", "stalled", "reconnecting")
    seen = daemon.until_state("outside", "live")
    assert time.monotonic() - begun < STALL_SECONDS + BACK_SECONDS
    assert told in seen["errors"][-1]["reason"]
    assert not psutil.pid_exists(process.pid), "reaped"
    assert process_of(daemon, "outside").pid != process.pid


def test_pause_and_restart_end_a_process_that_hangs(daemon: Daemon) -> None:
    daemon.until_state("outside", "live")
    for order in ("restart", "pause"):
        process = process_of(daemon, "outside")
        os.kill(process.pid, signal.SIGSTOP)
        begun = time.monotonic()
        daemon.client.post(f"/api/v1/cameras/outside/{order}").raise_for_status()
        until(lambda p=process: not psutil.pid_exists(p.pid), seconds=3)
        assert time.monotonic() - begun < 3
        if order == "restart":
            daemon.until_state("outside", "live")
    assert daemon.camera("outside")["state"] == "paused"
    daemon.client.post("/api/v1/cameras/outside/resume").raise_for_status()
    daemon.until_state("outside", "live")


def test_a_recording_is_delivered_whole_from_a_process_too(daemon: Daemon) -> None:
    seen = daemon.until_state("recording", "ended")
    assert seen["isolation"] == "process"
    assert seen["frames"]["read"] == seen["frames"]["predicted"] > 50
    assert seen["codec"] == "h264"


def test_the_witness_has_lost_nothing_and_nothing_piles_up(daemon: Daemon) -> None:
    process = psutil.Process(daemon.pid)
    before, sessions = process.num_fds(), daemon.camera("segv")["reconnects"]
    witness = daemon.camera("witness")
    until(lambda: daemon.camera("segv")["reconnects"] >= sessions + 4, what=daemon.story)
    until(lambda: abs(process.num_fds() - before) < 12, what="a few belong to sessions that are open now")
    after = daemon.camera("witness")
    assert (after["errors"], after["reconnects"], after["isolation"]) == ([], 0, "process")
    frames = after["frames"]
    assert frames["read"] == frames["predicted"] + sum(frames["dropped"].values()) + frames["in_hand"]
    assert frames["predicted"] > witness["frames"]["predicted"]
    assert not [child for child in process.children(recursive=True) if child.status() == psutil.STATUS_ZOMBIE]


def test_a_stop_kills_what_hangs_and_abandons_nobody(tmp_path: Path) -> None:
    cameras = {
        name: camera(stall_timeout_seconds=60, options={"do": do, "after": 3})
        for name, do in (("c", "hang-in-c"), ("python", "hang"))
    }
    with Daemon(tmp_path, {"cameras": cameras, "shutdown": {"drain_seconds": 5}}) as daemon:
        for name in cameras:
            until(lambda n=name: daemon.camera(n)["frame_id"] == 3, seconds=40, what=daemon.story)
        code, seconds = daemon.stop()
        assert (code, daemon.events("stopped")[0]["abandoned"]) == (0, [])
        assert seconds < 4
        assert daemon.left_behind() == []
        assert not daemon.events("session_failed"), "quiet"


@pytest.mark.parametrize("stopped", [(), ("healthd-nursery",)], ids=["at once", "its nursery stopped"])
def test_nothing_is_left_of_a_daemon_that_was_killed(stopped: tuple[str, ...], tmp_path: Path) -> None:
    cameras = {
        "c": camera(stall_timeout_seconds=60, options={"do": "hang-in-c", "after": 3}),
        "program": camera(stall_timeout_seconds=60, options={"do": "start", "after": 3}),
    }
    with Daemon(tmp_path, {"cameras": cameras}) as daemon:
        until(lambda: daemon.camera("c")["frame_id"] == 3, seconds=40, what=daemon.story)
        until(lambda: daemon.camera("program")["frame_id"] > 3, seconds=40, what=daemon.story)
        family = {child.name(): child for child in psutil.Process(daemon.pid).children(recursive=True)}
        assert set(family) == {"healthd-nursery", "c", "program", "sleep"}
        for name in stopped:
            family[name].suspend()
        daemon.send(signal.SIGKILL)
        daemon.wait(seconds=5)
        assert daemon.left_behind() == []


@pytest.mark.thorough  # half a minute, for two looks of the daemon; what it does is tested in test_orphans.py
def test_as_pid_1_it_reaps_what_is_left_to_it_when_its_nursery_is_killed(pid_namespace: None, tmp_path: Path) -> None:
    cameras = {"program": camera(stall_timeout_seconds=60, options={"do": "start", "after": 3})}
    with Daemon(tmp_path, {"cameras": cameras}, as_pid_1=True) as daemon:
        until(lambda: (daemon.camera("program")["frame_id"] or 0) > 3, seconds=40, what=daemon.story)
        process_of(daemon, "healthd-nursery").kill()

        def zombies() -> list[str]:
            found = []
            for child in psutil.Process(daemon.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.status() == psutil.STATUS_ZOMBIE:
                        found.append(child.name())
            return found

        until(lambda: "sleep" in zombies(), what="the program to end")
        until(lambda: not zombies(), seconds=60, what="it to be reaped, at the second look")
        until(lambda: daemon.camera("program")["state"] == "live", what=daemon.story)
        assert daemon.stop()[0] == 0, daemon.story()
        assert daemon.errors() == []


def test_nothing_is_left_of_a_killed_daemon_whose_models_and_videos_have_processes_too(tmp_path: Path) -> None:
    settings = {
        "models": {"isolation": "process", "default": "slow"},
        "jobs": {"directory": str(tmp_path / "jobs"), "allowed_directories": [str(tmp_path)]},
        "cameras": {"gym": camera(options={"fps": 20, "model": "counter"})},
    }
    clip = video(tmp_path / "long.mp4", 600)
    with Daemon(tmp_path, settings) as daemon:
        until(lambda: daemon.camera("gym")["frames"]["predicted"] > 3, seconds=40, what=daemon.story)
        asked = daemon.client.post("/api/v1/jobs", json={"path": str(clip)})
        assert asked.status_code == 202, asked.text
        job = f"/api/v1/jobs/{asked.json()['id']}"
        until(lambda: daemon.get(job).json()["done"] > 3, seconds=40, what=daemon.story)
        family = {child.name(): child for child in psutil.Process(daemon.pid).children(recursive=True)}
        assert set(family) == {"healthd-nursery", "gym", "model counter", "model slow", "video"}
        assert daemon.get(job).json()["state"] == "running"
        daemon.send(signal.SIGKILL)
        daemon.wait(seconds=5)
        assert daemon.left_behind() == []
