"""The demo, and real networks on real clips, through the whole house."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from signal import SIGINT
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from healthd.cameras.draw import _PALETTE
from tests.process.daemon import Daemon, until

pytestmark = pytest.mark.process

SECONDS = 60.0
"""Until a network is compiled and has predicted, on a loaded machine."""


@pytest.fixture(scope="module")
def yolo() -> Path:
    """The folder of the plugin; the test is skipped where it is not installed."""
    try:
        version("healthd-yolo")
    except PackageNotFoundError:
        pytest.skip("healthd-yolo is not installed")
    import healthd_yolo  # noqa: PLC0415  only where it is installed

    return Path(healthd_yolo.__file__).parent


@pytest.fixture(scope="module")
def demo(yolo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """`healthd demo`, as somebody starts it who has just installed healthd."""
    if not list((yolo / "demo").glob("*.onnx")):
        pytest.skip("the demo's networks are not there yet")
    with Daemon(tmp_path_factory.mktemp("demo"), arguments=["demo", "--port", 0], plugins=[]) as daemon:
        yield daemon.until_ready(seconds=SECONDS)


@pytest.fixture(scope="module")
def real(yolo: Path, assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Real weights on real clips: two pose cameras that share their network, and one that detects."""
    walking, street = (str(assets / "clips" / f"people_{name}.mp4") for name in ("walking_720p", "street_1080p"))
    cameras = {
        "walking": camera("yolo-pose", walking, "yolov8n-pose.onnx"),
        "again": camera("yolo-pose", walking, "yolov8n-pose.onnx"),
        "street": camera("yolo-detect", street, "yolo11n.onnx"),
    }
    settings = {"models": {"directory": str(assets / "weights")}, "cameras": cameras}
    with Daemon(tmp_path_factory.mktemp("real"), settings, plugins=[]) as daemon:
        yield daemon.until_ready(seconds=SECONDS)


def camera(plugin: str, url: str, model: str) -> dict[str, Any]:
    return {
        "plugin": plugin,
        "url": url,
        "predict_fps": 5,
        "options": {"model": model, "realtime": True, "loop": True},
    }


def snapshot(daemon: Daemon, name: str, **parameters: Any) -> tuple[httpx.Response, np.ndarray]:
    answer = daemon.get(f"/api/v1/cameras/{name}/snapshot", **parameters).raise_for_status()
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return answer, picture


def prediction(daemon: Daemon, name: str) -> dict[str, Any]:
    """Return the newest prediction that found something."""

    def found() -> dict[str, Any] | None:
        answer = daemon.get(f"/api/v1/cameras/{name}/prediction")
        said: dict[str, Any] = answer.json()
        return said if answer.status_code == 200 and said["results"] else None

    return until(found, seconds=SECONDS, what=lambda: f"a prediction: {daemon.camera(name)}\n{daemon.story()}")


def coloured(picture: np.ndarray, result: dict[str, Any]) -> float:
    """Return how much of the outline of a result's box has the colour that its class is drawn in, from 0 to 1."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = (round(value) for value in result["box_xyxy"])
    colour = np.array(_PALETTE[result["class_id"] % len(_PALETTE)])
    edges: Sequence[np.ndarray] = [
        picture[y2, max(x1, 0) : x2] if y2 < height else picture[:0, 0],
        picture[max(y1, 0) : y2, x1] if x1 >= 0 else picture[:0, 0],
        picture[max(y1, 0) : y2, x2] if x2 < width else picture[:0, 0],
    ]
    pixels = np.concatenate(edges).reshape(-1, 3).astype(int)
    return float((np.abs(pixels - colour).max(axis=1) < 60).mean()) if len(pixels) else 1.0


def drawn_with_its_prediction(daemon: Daemon, name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a drawn picture and the prediction of that very frame."""
    found: list[tuple[np.ndarray, dict[str, Any]]] = []

    def same_frame() -> bool:
        answer, picture = snapshot(daemon, name, overlay=True, q=95)
        said = daemon.get(f"/api/v1/cameras/{name}/prediction").json()
        if said.get("results") and said["frame_id"] == int(answer.headers["X-Frame-Id"]):
            found.append((picture, said))
        return bool(found)

    until(same_frame, seconds=SECONDS)
    return found[0]


def accounted_for(daemon: Daemon, name: str) -> bool:
    """Tell whether one scrape knows where every frame of a camera is."""
    samples = daemon.samples()
    camera = f'{{camera="{name}"}}'
    read, predicted = (samples[f"healthd_camera_frames_{what}_total{camera}"] for what in ("read", "predicted"))
    start = f'healthd_camera_frames_dropped_total{{camera="{name}",'
    dropped = sum(value for sample, value in samples.items() if sample.startswith(start))
    return read == predicted + dropped + samples[f"healthd_camera_frames_in_hand{camera}"] and read > 0


RACE = """
import faulthandler, sys, threading
faulthandler.dump_traceback_later(15, exit=True)  # needs no GIL, which is what they would be waiting for
sys.setswitchinterval(1e-6)
from healthd_yolo.openvino_runtime import openvino
vendor, together = openvino(), threading.Barrier(4)
def first_use():
    together.wait()
    vendor.Type.u8.to_dtype()
threads = [threading.Thread(target=first_use, daemon=True) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
"""What loading two networks at the same time comes to: the first use of a table that OpenVINO makes on its first use,
with a C++ lock held that another thread waits for with the GIL in its hand. Then the whole process stands still."""


def test_networks_that_are_loaded_at_the_same_time_do_not_lock_each_other_out(yolo: Path) -> None:
    for _ in range(3):
        raced = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=60, check=False)
        assert raced.returncode == 0, raced.stderr[-2000:]


@pytest.mark.parametrize("name", ["gym", "rack"])
def test_the_demo_shows_pictures_that_move(name: str, demo: Daemon) -> None:
    answer, picture = snapshot(demo, name)
    assert picture.shape == (360, 640, 3)
    assert picture.std() > 10, "nothing can be seen on it"
    first = int(answer.headers["X-Frame-Id"])
    later, _ = snapshot(demo, name, after=first, wait=5000)
    assert int(later.headers["X-Frame-Id"]) > first
    assert later.headers["ETag"] != answer.headers["ETag"]


@pytest.mark.parametrize("name", ["gym", "rack"])
def test_a_picture_that_one_has_already_is_not_sent_again(name: str, demo: Daemon) -> None:
    def unchanged() -> bool:
        answer, _ = snapshot(demo, name)
        again = demo.client.get(f"/api/v1/cameras/{name}/snapshot", headers={"If-None-Match": answer.headers["ETag"]})
        if again.status_code == 304:
            assert again.content == b""
        return again.status_code == 304

    until(unchanged)


@pytest.mark.parametrize(("name", "task"), [("gym", "pose"), ("rack", "detect")])
def test_the_demo_finds_what_it_was_trained_to_find(name: str, task: str, demo: Daemon) -> None:
    said = prediction(demo, name)
    assert said["metadata"]["task"] == task
    assert said["metadata"]["width"] == 640
    assert all(0 < result["confidence"] <= 1 for result in said["results"])
    if task == "pose":
        assert {result["class_name"] for result in said["results"]} == {"person"}
        assert all(len(result["keypoints"]) == 17 for result in said["results"])


@pytest.mark.parametrize("name", ["gym", "rack"])
def test_the_drawn_picture_has_the_boxes_of_that_very_frame(name: str, demo: Daemon) -> None:
    picture, said = drawn_with_its_prediction(demo, name)
    drawn = [coloured(picture, result) for result in said["results"]]
    _, plain = snapshot(demo, name, q=95)
    bare = [coloured(plain, result) for result in said["results"]]
    assert np.median(drawn) > 0.6, (drawn, bare)
    assert np.median(drawn) > np.median(bare) + 0.3, (drawn, bare)


def test_the_demo_accounts_for_every_frame(demo: Daemon) -> None:
    for name in ("gym", "rack"):
        assert accounted_for(demo, name)
        seen = demo.camera(name)
        assert (seen["state"], seen["errors"], seen["reconnects"]) == ("live", [], 0)


def test_the_demo_needs_no_torch(demo: Daemon) -> None:
    prediction(demo, "gym")
    mapped = Path(f"/proc/{demo.pid}/maps").read_text(encoding="utf-8", errors="replace")
    assert "libopenvino" in mapped
    assert "libtorch" not in mapped


def test_ctrl_c_ends_the_demo_with_exit_code_0(demo: Daemon) -> None:
    assert demo.errors() == []
    code, seconds = demo.stop(SIGINT)
    assert code == 0
    assert seconds < 3
    assert demo.left_behind() == []


@pytest.mark.assets
@pytest.mark.parametrize(("name", "task"), [("walking", "pose"), ("again", "pose"), ("street", "detect")])
def test_real_networks_find_the_people_on_real_clips(name: str, task: str, real: Daemon) -> None:
    found: list[dict[str, Any]] = []

    def enough() -> bool:
        said = prediction(real, name)
        found[:] = [result for result in said["results"] if result["class_name"] == "person"]
        return len(found) >= 5

    until(enough, seconds=SECONDS, what=lambda: found)
    assert all(bool(result.get("keypoints")) == (task == "pose") for result in found)
    assert accounted_for(real, name)


@pytest.mark.assets
def test_the_drawn_people_are_where_they_were_found(real: Daemon) -> None:
    picture, said = drawn_with_its_prediction(real, "walking")
    assert np.median([coloured(picture, result) for result in said["results"]]) > 0.5


@pytest.mark.assets
def test_cameras_on_the_same_weights_share_one_model_in_memory(real: Daemon) -> None:
    for name in ("walking", "again", "street"):
        prediction(real, name)
    assert real.get("/api/v1/state").json()["models_loaded"] == 2
    samples = real.samples()
    assert samples["healthd_models_loaded"] == 2
    users = {re.sub(r".*/", "", sample): value for sample, value in samples.items() if "healthd_model_users" in sample}
    assert [value for sample, value in users.items() if "yolov8n-pose.onnx" in sample] == [2]
    assert [value for sample, value in users.items() if "yolo11n.onnx" in sample] == [1]


@pytest.mark.assets
def test_with_real_networks_it_stops_cleanly_too(real: Daemon) -> None:
    assert real.errors() == []
    code, seconds = real.stop()
    assert code == 0
    assert seconds < 4
    assert real.events("stopped")[0]["abandoned"] == []
    assert real.left_behind() == []
