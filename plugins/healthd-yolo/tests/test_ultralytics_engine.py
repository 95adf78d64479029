"""Engine `ultralytics` on real checkpoints, and every way in which it cannot."""

import importlib
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from healthd.errors import ModelError, SettingsError
from healthd.frames import Image
from healthd.models.model import InferenceParams, Model
from healthd_yolo import ultralytics_model

pytestmark = [pytest.mark.assets, pytest.mark.filterwarnings("ignore::UserWarning")]
Load = Callable[..., Model]


@pytest.fixture(scope="module")
def pose(weights: Path, load: Load, vendor: Any) -> Model:  # vendor skips where the extra is missing
    return load(weights / "yolo11n-pose.pt")


def test_a_checkpoint_finds_the_four_people(pose: Model, pictures: dict[str, Image]) -> None:
    prediction = pose.predict(pictures["bus"], InferenceParams())
    assert pose.task == "pose"
    assert dict(pose.labels) == {0: "person"}
    assert [round(found.confidence, 2) for found in prediction.results] == [0.89, 0.88, 0.87, 0.43]
    assert all(len(found.keypoints or ()) == 17 for found in prediction.results)
    assert prediction.metadata["engine"] == "ultralytics"
    assert (prediction.metadata["width"], prediction.metadata["height"]) == (810, 1080)
    assert (pose.memory_bytes or 0) > 5e6


def test_thresholds_and_classes_reach_ultralytics(
    weights: Path, load: Load, vendor: Any, pictures: dict[str, Image]
) -> None:
    model = load(weights / "yolo11n.pt", imgsz=320)
    found = model.predict(pictures["bus"], InferenceParams(classes=("bus",))).results
    assert [(detection.class_name, detection.keypoints) for detection in found] == [("bus", None)]
    assert len(model.predict(pictures["bus"], InferenceParams(max_det=1)).results) == 1
    with pytest.raises(SettingsError, match="did you mean `bus`"):
        model.predict(pictures["bus"], InferenceParams(classes=("buss",)))


def test_it_runs_onnx_files_too_when_asked(weights: Path, load: Load, vendor: Any, pictures: dict[str, Image]) -> None:
    pytest.importorskip("onnxruntime")
    model = load(weights / "yolo26n-pose.onnx", engine="ultralytics")
    assert model.task == "pose"
    assert len(model.predict(pictures["bus"], InferenceParams()).results) == 4


@pytest.mark.parametrize("image", [np.zeros((1, 1, 3), np.uint8), np.zeros((2, 3000, 3), np.uint8)])
def test_images_of_any_size_work(pose: Model, image: Image) -> None:
    assert pose.predict(image, InferenceParams()).results == ()


def test_what_is_no_image_is_refused(pose: Model) -> None:
    with pytest.raises(ModelError, match="not an image"):
        pose.predict(np.zeros((4, 4), np.uint8), InferenceParams())


def test_a_failure_inside_ultralytics_is_a_model_error_and_passes(
    pose: Model, pictures: dict[str, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert\nand a long story")

    with monkeypatch.context() as patch:
        patch.setattr(pose._yolo, "predict", broken)  # type: ignore[attr-defined]
        with pytest.raises(ModelError, match=r"RuntimeError: CUDA error: device-side assert$"):
            pose.predict(pictures["bus"], InferenceParams())
    assert len(pose.predict(pictures["bus"], InferenceParams()).results) == 4


@pytest.mark.parametrize("name", ["mangled_yolov8n-pose.pt", "truncated_yolov8n-pose.pt"])
def test_a_damaged_checkpoint_is_refused_in_words(name: str, weights: Path, load: Load, vendor: Any) -> None:
    with pytest.raises(SettingsError, match=f"{name} cannot be loaded by ultralytics: .*corrupted"):
        load(weights / "bad" / name)


def test_a_checkpoint_that_is_a_program_is_not_run(load: Load, vendor: Any, tmp_path: Path) -> None:
    """A `.pt` file is a pickle, which may call anything; only the classes of ultralytics are let in."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "boom"),)

    importlib.import_module("torch").save({"model": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(SettingsError, match=r"bomb\.pt cannot be loaded"):
        load(tmp_path / "bomb.pt")
    assert not (tmp_path / "boom").exists()


def test_a_description_of_a_network_is_no_model(load: Load, vendor: Any, tmp_path: Path) -> None:
    (tmp_path / "yolo11n.yaml").write_text("nc: 80")
    with pytest.raises(SettingsError, match="holds no weights"):
        load(tmp_path / "yolo11n.yaml")


def test_a_name_nobody_knows_is_refused_without_asking_the_network(load: Load, vendor: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no `mine\.pt`.*no weight name that ultralytics knows"):
        load(tmp_path / "mine.pt")


def test_a_known_name_is_downloaded_into_the_models_directory(
    load: Load, vendor: Any, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("YOLO_OFFLINE", raising=False)
    downloads = importlib.import_module("ultralytics.utils.downloads")

    def transfer(url: str, file: Path, **_: Any) -> None:
        assert url.startswith("https://github.com/ultralytics/assets/")
        file.write_bytes((weights / "yolo11n-pose.pt").read_bytes())

    monkeypatch.setattr(downloads, "safe_download", transfer)
    assert load(tmp_path / "models" / "yolo11n-pose.pt").task == "pose"
    assert (tmp_path / "models" / "yolo11n-pose.pt").is_file()


def test_offline_a_known_name_is_an_error_that_may_pass_and_comes_soon(
    load: Load, vendor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("YOLO_OFFLINE", raising=False)
    downloads = importlib.import_module("ultralytics.utils.downloads")

    def unreachable(**_: Any) -> None:
        raise ConnectionError("Download failure. Environment may be offline.")

    monkeypatch.setattr(downloads, "safe_download", unreachable)
    begun = time.monotonic()
    with pytest.raises(ModelError, match=r"could not be downloaded .*offline.*put the file there"):
        load(tmp_path / "yolo26x-pose.pt")
    assert time.monotonic() - begun < 5


def test_who_forbids_downloads_gets_none(
    load: Load, vendor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLO_OFFLINE", "1")
    with pytest.raises(SettingsError, match="YOLO_OFFLINE forbids"):
        load(tmp_path / "yolo26x-pose.pt")


def test_a_device_that_is_not_there_is_refused(weights: Path, load: Load, vendor: Any) -> None:
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(SettingsError, match="CUDA"):
        load(weights / "yolo11n-pose.pt", device="cuda:0")


def test_another_task_is_refused(load: Load, vendor: Any, tmp_path: Path) -> None:
    network = vendor.YOLO("yolo11n-cls.yaml", task="classify")
    network.save(tmp_path / "cls.pt")
    with pytest.raises(SettingsError, match="`classify` model"):
        load(tmp_path / "cls.pt")


@pytest.mark.parametrize("missing", [("ultralytics",), ("torch",), ("ultralytics", "torch")])
def test_without_the_extra_the_message_is_the_line_to_type(
    missing: tuple[str, ...], load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in missing else find(name, *more))
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "yolo11n-pose.pt")
    assert 'pip install "healthd-yolo[ultralytics]"' in str(caught.value)
    assert ultralytics_model.INSTALL in str(caught.value)


def test_what_ultralytics_would_do_by_itself_is_off(vendor: Any) -> None:
    checks = importlib.import_module("ultralytics.utils.checks")
    events = importlib.import_module("ultralytics.utils.events")
    assert checks.AUTOINSTALL is False
    assert events.events.enabled is False
    assert vendor.settings["sync"] is False
    assert vendor.utils.ONLINE is False
    assert not str(vendor.utils.USER_CONFIG_DIR).startswith(str(Path.home() / ".config"))
