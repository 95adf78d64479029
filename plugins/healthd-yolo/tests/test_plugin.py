"""The plugin as healthd finds it: entry points, contract, demo."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from healthd.cameras.source import CameraSource
from healthd.models.model import ModelFamily
from healthd_yolo.demo import config
from healthd_yolo.engines import automatic_engine, is_model_name, shared_engine
from healthd_yolo.family import YoloFamily
from healthd_yolo.options import YoloOptions
from healthd_yolo.threads import thread_limit


@pytest.mark.parametrize(
    ("group", "name", "base"),
    [
        ("healthd.camera_sources", "yolo-pose", CameraSource),
        ("healthd.camera_sources", "yolo-detect", CameraSource),
        ("healthd.model_families", "yolo", ModelFamily),
    ],
)
def test_every_entry_point_loads_and_keeps_the_contract(group: str, name: str, base: type) -> None:
    found = entry_points(group=group, name=name)
    if not found:
        pytest.skip("healthd-yolo is not installed, only importable")
    (point,) = found
    plugin = point.load()
    assert issubclass(plugin, base)
    assert plugin.contract == 1
    assert point.dist is not None
    assert point.dist.name == "healthd-yolo"


def test_the_demo_is_found_by_its_entry_point() -> None:
    found = entry_points(group="healthd.demos", name="yolo")
    if not found:
        pytest.skip("healthd-yolo is not installed, only importable")
    (point,) = found
    assert point.load() is config


def test_importing_the_plugin_loads_no_engine() -> None:
    program = (
        "import sys, healthd_yolo.sources, healthd_yolo.family, healthd_yolo.demo;"
        "print([name for name in ('openvino', 'torch', 'ultralytics', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_demo_names_two_cameras_with_valid_options() -> None:
    cameras = config()["cameras"]
    assert {name: camera["plugin"] for name, camera in cameras.items()} == {"gym": "yolo-pose", "rack": "yolo-detect"}
    for camera in cameras.values():
        options = YoloOptions(**camera["options"])
        assert options.realtime
        assert options.loop
        assert Path(camera["url"]).is_absolute()
        assert Path(options.model).parent == Path(camera["url"]).parent


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("yolo11n.onnx", "openvino"),
        ("models/YOLO11N.ONNX", "openvino"),
        ("yolo11n_openvino_model", "openvino"),
        ("a/yolo11n_openvino_model/", "openvino"),
        ("yolo11n.xml", "openvino"),
        ("yolo11n.pt", "ultralytics"),
        ("yolo11n.engine", "ultralytics"),
        ("yolo11n_ncnn_model", "ultralytics"),
    ],
)
def test_auto_is_decided_by_the_name_and_shares_with_what_it_stands_for(name: str, engine: str) -> None:
    assert automatic_engine(name) == engine
    assert shared_engine(engine, name) == "auto"  # type: ignore[arg-type]
    assert YoloFamily().serves(name)


def test_a_folder_with_a_network_in_it_is_for_openvino_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "net.xml").touch()
    assert automatic_engine(tmp_path.name, tmp_path) == "openvino"


@pytest.mark.parametrize("name", ["person", "gpt-4", "notes.txt", "clip.mp4", "model.yaml", ""])
def test_the_family_claims_no_other_names(name: str) -> None:
    assert not is_model_name(name)


def test_threads_are_what_was_asked_or_what_a_container_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert thread_limit(3) == 3
    monkeypatch.setattr("healthd_yolo.threads.usable_cpus", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert thread_limit(None) == 1
    monkeypatch.setattr("healthd_yolo.threads.usable_cpus", lambda: 64)
    assert thread_limit(None) is None
