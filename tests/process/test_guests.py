"""Plugins that misbehave while they are imported, beside a real daemon: it goes on, names them, and safe mode helps."""

import json
from pathlib import Path

import pytest

from tests.installing import IN_C, after, install
from tests.process.daemon import Daemon, run_verb, to_toml

pytestmark = pytest.mark.process
CAMERAS = {"hall": {"plugin": "guest"}, "attic": {"plugin": "other"}}
FINE = """
    import time
    from contextlib import contextmanager
    import numpy
    from healthd.cameras.source import CameraSource

    class Source(CameraSource):
        contract = 1

        @contextmanager
        def camera(self):
            def read():
                time.sleep(0.05)
                return numpy.random.default_rng().integers(0, 255, (48, 64, 3), numpy.uint8)
            yield read
"""
SINS = (
    IN_C.format(number=15)
    + """
import logging, os, sys
print("rtsp://admin:hunter2hunter2@cam.lan/1")
os.write(1, b"rtsp://admin:hunter2hunter2@cam.lan/2\\n")
print("to stderr", file=sys.stderr)
logging.disable()
os.chdir("/")
"""
)


def test_a_guest_that_changes_what_is_everybodys_is_named_and_the_daemon_works_and_stops(tmp_path: Path) -> None:
    install(tmp_path, "guest", after(SINS, FINE), distribution="healthd-guest")
    install(tmp_path, "other", FINE)
    with Daemon(tmp_path, {"cameras": CAMERAS}, plugins=[tmp_path]) as daemon:
        daemon.until_state("hall", "live")
        daemon.until_state("attic", "live")
        listed = {plugin["name"]: plugin for plugin in daemon.get("/api/v1/plugins").json()}
        assert listed["guest"]["state"] == "loaded"
        assert listed["guest"]["notes"] == [
            "it changed how signals are handled (SIGTERM); put back",
            "it changed logging.disable; put back",
            "it changed the working directory; put back",
            "it printed 3 lines: rtsp://***@cam.lan/1",
        ]
        assert listed["other"]["notes"] == []
        (misbehaved,) = daemon.events("plugin_misbehaved")
        assert (misbehaved["plugin"], misbehaved["distribution"]) == ("guest", "healthd-guest")
        assert misbehaved["did"] == listed["guest"]["notes"]
        (printed,) = daemon.events("plugin_printed")
        assert printed["text"].splitlines() == ["rtsp://***@cam.lan/1", "rtsp://***@cam.lan/2", "to stderr"]
        code, seconds = daemon.stop()
        assert (code, daemon.errors()) == (0, [])
        assert seconds < 5
    assert "hunter2" not in daemon.stdout + daemon.stderr
    assert daemon.stdout.splitlines()[0].startswith("healthd is at ")
    told = run_verb("plugins", folder=tmp_path, plugins=[tmp_path])
    assert told.stderr == ""
    assert "    note: at import it changed logging.disable; put back" in told.stdout.splitlines()


def test_a_guest_that_ends_the_process_is_the_last_word_of_the_log_and_safe_mode_starts_without_it(
    tmp_path: Path,
) -> None:
    install(tmp_path, "guest", "import os; os._exit(7)", distribution="healthd-guest")
    install(tmp_path, "other", FINE)
    with Daemon(tmp_path, {"cameras": CAMERAS}, plugins=[tmp_path]) as dying:
        assert dying.wait(seconds=20) == 7
    last = json.loads(dying.stderr.splitlines()[-1])
    assert (last["event"], last["plugin"], last["distribution"]) == ("plugin_importing", "guest", "healthd-guest")

    arguments = ["run", "--config", tmp_path / "config.toml", "--safe-mode"]
    with Daemon(tmp_path, {"cameras": CAMERAS}, arguments=arguments, plugins=[tmp_path]) as daemon:
        assert daemon.get("/health").json()["safe_mode"] is True
        assert daemon.get("/api/v1/state").json()["safe_mode"] is True
        listed = {plugin["name"]: plugin for plugin in daemon.get("/api/v1/plugins").json()}
        for name, camera in (("guest", "hall"), ("other", "attic")):
            assert listed[name]["state"] == "skipped"
            assert "start healthd without --safe-mode" in listed[name]["reason"]
            seen = daemon.camera(camera)
            assert seen["state"] == "failed"
            assert listed[name]["reason"] in seen["reason"]
        assert {"guest", "other"} <= set(daemon.events("safe_mode")[0]["skipped"])
        assert daemon.stop()[0] == 0

    assert (
        "SKIPPED: not imported in safe mode"
        in run_verb("plugins", "--safe-mode", folder=tmp_path, plugins=[tmp_path]).stdout
    )
    (tmp_path / "config.toml").write_text(to_toml({"server": {"safe_mode": True}, "cameras": CAMERAS}))
    checked = run_verb("check-config", "--config", "config.toml", folder=tmp_path, plugins=[tmp_path])
    assert checked.returncode == 0, checked.stderr
    assert "hint: cameras.hall: plugin `guest` is skipped: not imported in safe mode" in checked.stderr
