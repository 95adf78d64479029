"""The example plugins in a real daemon: JPEGs pass through, and faults come and go as they were told."""

import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.jpegs import jpeg, pixels
from tests.process.daemon import Daemon, until

pytestmark = pytest.mark.process
SNAPSHOT = "/api/v1/cameras/{}/snapshot"
DECODES = 'healthd_camera_jpeg_decode_seconds_count{{camera="{}",outcome="ok"}}'


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    for name in ("healthd-snapshot-url", "healthd-faults"):
        try:
            version(name)
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module")
def esp32() -> Iterator[str]:
    """The address of a camera of single JPEGs, each of them another."""
    served = [0]

    class Camera(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served[0] += 1
            body = jpeg(1 + served[0] % 5, size=(480, 640))
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://admin:hidden-password@127.0.0.1:{server.server_port}/capture"
        server.shutdown()


def drill(*faults: dict[str, Any], **more: Any) -> dict[str, Any]:
    options = {key: more.pop(key) for key in ("model", "model_faults", "jpeg", "fps", "allow_crash") if key in more}
    bounds = {"stall_timeout_seconds": 1, "reconnect_max_seconds": 1, "predict_timeout_seconds": 1}
    return {"plugin": "faults", **bounds, **more, "options": {"faults": list(faults), **options}}


@pytest.fixture(scope="module")
def daemon(esp32: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    coop = {"plugin": "snapshot-url", "url": esp32, "options": {"interval_seconds": 0.1}}
    cameras = {
        "coop": coop,
        "watched": {**coop, "options": {**coop["options"], "model": "faults", "model_family": "faults"}},
        "fine": drill(fps=20, jpeg=True, model="faults"),
        "hangs": drill({"kind": "hang", "after_seconds": 2, "for_seconds": 3}),
        "freezes": drill({"kind": "freeze", "after_frames": 5}, frozen_after_seconds=1),
        "drops": drill({"kind": "drop", "every_frames": 7}),
        "broken": drill({"kind": "corrupt", "corrupt": "jpeg_broken", "every_frames": 2}, model="faults"),
        "lies": drill(model="faults", model_faults=[{"kind": "nan"}, {"kind": "many", "every_frames": 2}]),
        "fails": drill(model="faults", model_faults=[{"kind": "fail", "every_frames": 3}]),
    }
    with Daemon(tmp_path_factory.mktemp("ours"), {"cameras": cameras}, plugins=[]) as running:
        yield running.until_ready()
        assert running.stop()[0] == 0, running.story()
        assert running.left_behind() == []
        assert "hidden-password" not in running.story()
        assert "HTTP Request" not in running.stderr


def test_the_bytes_of_a_camera_pass_through_and_nothing_is_decoded(daemon: Daemon) -> None:
    known = {jpeg(number, size=(480, 640)) for number in range(1, 6)}
    daemon.until_state("coop", "live")
    with httpx.stream("GET", daemon.url + SNAPSHOT.format("coop").replace("snapshot", "stream"), timeout=10) as stream:
        body = b""
        for piece in stream.iter_raw():
            body += piece
            if len(body) > 5 * max(map(len, known)):
                break
    assert any(one in body for one in known)
    for _ in range(10):
        answer = daemon.get(SNAPSHOT.format("coop"))
        assert answer.content in known
        time.sleep(0.05)
    samples = daemon.samples()
    assert samples[DECODES.format("coop")] == 0
    assert samples['healthd_jpeg_passed_total{camera="coop"}'] >= 11
    assert (
        sum(value for name, value in samples.items() if name.startswith('healthd_jpeg_encodes_total{camera="coop"'))
        == 0
    )
    assert pixels(daemon.get(SNAPSHOT.format("coop"), width=320).content).shape[1] == 320
    assert daemon.samples()[DECODES.format("coop")] == 1


def test_a_model_that_watches_it_decodes_each_picture_once(daemon: Daemon) -> None:
    until(lambda: daemon.camera("watched")["frames"]["predicted"] >= 5)
    seen = daemon.camera("watched")
    assert seen["model"]["state"] == "ready"
    samples = daemon.samples()
    predicted = samples['healthd_camera_frames_predicted_total{camera="watched"}']
    assert predicted <= samples[DECODES.format("watched")] <= predicted + 1


def test_faults_come_and_go_as_they_were_told(daemon: Daemon) -> None:
    assert daemon.until_state("freezes", "frozen")["reason"].startswith("the picture has not changed")
    until(lambda: daemon.camera("drops")["reconnects"] >= 2)
    assert any(error["reason"] == "the connection was lost" for error in daemon.camera("drops")["errors"])
    until(lambda: daemon.camera("hangs")["errors"], what="the hang to be noticed")
    assert "no image within 1 s" in daemon.camera("hangs")["errors"][-1]["reason"]
    daemon.until_state("hangs", "live")
    until(lambda: daemon.samples()['healthd_camera_workers_stuck{camera="hangs"}'] == 0, what="the thread to be back")
    fine = daemon.camera("fine")
    assert (fine["state"], fine["errors"], fine["reconnects"]) == ("live", [], 0)


def test_a_model_that_lies_or_fails_takes_no_camera_down(daemon: Daemon) -> None:
    until(lambda: daemon.camera("lies")["frames"]["predicted"] >= 6)
    until(lambda: daemon.camera("fails")["frames"]["dropped"]["failed"] >= 2)
    until(lambda: daemon.camera("broken")["frames"]["dropped"]["invalid"] >= 3)
    for name in ("lies", "fails", "broken"):
        assert daemon.camera(name)["state"] == "live"
        assert daemon.get(SNAPSHOT.format(name)).status_code == 200
    assert daemon.camera("broken")["reconnects"] == 0
    assert daemon.camera("broken")["model"]["state"] == "ready"
    said = daemon.get("/api/v1/cameras/lies/prediction")
    assert said.status_code == 200
    assert "NaN" not in said.text
    assert daemon.get(SNAPSHOT.format("lies"), overlay=True).status_code == 200


def test_a_crash_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    """It ends the camera's process; that of the daemon where the camera is read in it, as the option warns."""
    fault = {"kind": "crash", "after_frames": 3}
    cameras = {"refused": drill(fault), "alone": drill(fault, allow_crash=True)}
    with Daemon(tmp_path, {"cameras": cameras}, plugins=[]) as daemon:
        assert "allow_crash = true" in daemon.until_state("refused", "failed")["reason"]
        until(lambda: daemon.camera("alone")["errors"], what="the crash to be noticed")
        assert daemon.camera("alone")["errors"][0]["reason"] == "the camera's process was ended by SIGSEGV"
        assert daemon.stop()[0] == 0
    inside = drill(fault, allow_crash=True, isolation="thread")
    with Daemon(tmp_path, {"cameras": {"inside": inside}}, plugins=[]) as daemon:
        assert daemon.wait(seconds=30) == -signal.SIGSEGV
