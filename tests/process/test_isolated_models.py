"""Real networks in processes of their own, through the whole house."""

import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.process.daemon import Daemon, until

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="processes of their own are for Linux"),
]
SECONDS = 60.0
"""Until a network is compiled and has predicted, on a loaded machine."""


def processes_of_models(daemon: Daemon) -> dict[str, psutil.Process]:
    """Return the processes of models, by what `ps` calls them."""
    found = {one.name(): one for one in psutil.Process(daemon.pid).children(recursive=True) if one.is_running()}
    return {name: one for name, one in found.items() if name.startswith("model ")}


def predicted(daemon: Daemon, name: str) -> int:
    return int(camera(daemon, name)["frames"]["predicted"])


def camera(daemon: Daemon, name: str) -> dict[str, Any]:
    said: dict[str, Any] = daemon.get(f"/api/v1/cameras/{name}").raise_for_status().json()
    return said


def test_a_model_whose_process_is_killed_costs_its_camera_a_moment_and_nobody_else_anything(tmp_path: Path) -> None:
    try:
        version("healthd-yolo")
    except PackageNotFoundError:
        pytest.skip("healthd-yolo is not installed")
    with Daemon(tmp_path, arguments=["demo", "--port", 0], plugins=[], HEALTHD_MODELS__ISOLATION="process") as daemon:
        daemon.until_ready(seconds=SECONDS)
        until(lambda: predicted(daemon, "gym") and predicted(daemon, "rack"), seconds=SECONDS, what=daemon.story)
        models = processes_of_models(daemon)
        assert len(models) == 2, models
        assert all(
            one["memory_bytes"] > 50 * 2**20 for one in daemon.get("/api/v1/models").json() if one["memory_bytes"]
        )
        victim = next(one for name, one in models.items() if name.startswith("model gym"))
        victim.send_signal(signal.SIGKILL)
        until(lambda: daemon.events("model_process_ended"), seconds=SECONDS, what=daemon.story)
        assert daemon.get("/api/v1/cameras/gym/snapshot").status_code == 200
        before = predicted(daemon, "gym"), predicted(daemon, "rack")
        until(lambda: camera(daemon, "gym")["model"]["state"] == "ready", seconds=SECONDS, what=daemon.story)
        until(lambda: predicted(daemon, "gym") > before[0] + 3, seconds=SECONDS, what=daemon.story)
        assert predicted(daemon, "rack") > before[1]
        (ended,) = daemon.events("model_process_ended")
        assert "was ended by SIGKILL" in ended["reason"]
        assert {event["camera"] for event in daemon.events("session_failed")} == {"gym"}
        assert camera(daemon, "gym")["state"] == "live"
        assert 'healthd_model_unloads_total{reason="crashed"} 1.0' in daemon.get("/metrics").text
        code, _ = daemon.stop()
        assert code == 0, daemon.story()
        assert daemon.events("stopped")[0]["abandoned"] == []
        until(lambda: not daemon.left_behind(), seconds=5, what=daemon.left_behind)
