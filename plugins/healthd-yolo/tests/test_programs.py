"""Model files that are programs, and files that reach out of their folder."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import structlog

from healthd.errors import SettingsError
from healthd.models.model import ModelSpec
from healthd.models.prepare import PrepareProgress, PrepareRequest
from healthd_yolo.engines import check_program
from healthd_yolo.family import YoloFamily
from healthd_yolo.model_options import YoloModelOptions


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.mark, "boom")


class Mute(PrepareProgress):
    """Tells nobody."""


def spec_of(path: Path, *, allow_pickle: bool, **options: Any) -> ModelSpec:
    return ModelSpec(path.name, path, path.parent, YoloModelOptions(**options), allow_pickle=allow_pickle)


@pytest.mark.parametrize(
    "name",
    [
        *("net.pt", "NET.PT", "net.torchscript", "net.engine", "net.weights", "net_saved_model"),
        *("net.pt.xml", "net.engine.xml", "net.pt.onnx", "net_saved_model.onnx"),
    ],
)
def test_what_may_be_a_program_is_refused_before_it_is_read(name: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / name
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(SettingsError, match=r"models\.allow_pickle = false forbids .*`healthd models prepare"):
        YoloFamily().load(spec_of(path, allow_pickle=False, engine="ultralytics"))
    assert not mark.exists()


def test_weights_are_neither_downloaded_nor_prepared_where_programs_are_forbidden(tmp_path: Path) -> None:
    spec = ModelSpec("yolo11n.pt", None, tmp_path, YoloModelOptions(), allow_pickle=False)
    for forbidden in (
        lambda: YoloFamily().load(spec),
        lambda: YoloFamily().prepare(spec, PrepareRequest(), Mute()),
    ):
        with pytest.raises(SettingsError, match="allow_pickle"):
            forbidden()
    assert list(tmp_path.iterdir()) == []


def test_a_program_is_said_to_be_one_and_data_is_not(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logged:
        for name in ("net.pt", "net.onnx", "net_openvino_model"):
            check_program(spec_of(tmp_path / name, allow_pickle=True))
    assert [(entry["event"], entry["model"]) for entry in logged] == [("model_file_may_be_program", "net.pt")]


@pytest.mark.assets
@pytest.mark.usefixtures("vendor")
def test_each_load_of_a_program_says_so(weights: Path) -> None:
    with structlog.testing.capture_logs() as logged:
        YoloFamily().load(spec_of(weights / "yolo11n.pt", allow_pickle=True, imgsz=64)).close()
    assert warned(logged) == ["yolo11n.pt"]


def test_who_prepares_a_program_is_told_so_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.touch()
    with structlog.testing.capture_logs() as logged, pytest.raises(SettingsError):
        YoloFamily().prepare(spec_of(path, allow_pickle=True), PrepareRequest(format="nothing"), Mute())
    assert warned(logged) == ["net.pt"]


def warned(logged: Iterable[Any]) -> list[str]:
    return [entry["model"] for entry in logged if entry["event"] == "model_file_may_be_program"]


def test_a_pickle_that_is_no_checkpoint_runs_nothing(vendor: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    mark, path = tmp_path / "mark", tmp_path / "net.pt"
    torch.save({"model": Bomb(mark)}, path)
    with pytest.raises(SettingsError):
        YoloFamily().load(spec_of(path, allow_pickle=True))
    assert not mark.exists()


@pytest.mark.assets
@pytest.mark.parametrize("engine", ["openvino", "ultralytics"])
@pytest.mark.parametrize("way", ["../elsewhere/weights.bin", "absolute", "link.bin", "sub/../../elsewhere/weights.bin"])
def test_weights_beside_a_network_must_lie_in_its_folder(
    way: str, engine: str, weights: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    onnx = pytest.importorskip("onnx")
    if engine == "ultralytics":
        pytest.importorskip("onnxruntime")
        request.getfixturevalue("vendor")
    folder, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    path, secret = folder / "net.onnx", elsewhere / "weights.bin"
    network = onnx.load(weights / "yolo11n.onnx")
    onnx.save(network, path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    assert YoloFamily().load(spec_of(path, allow_pickle=False, engine=engine)).task == "detect", (
        "in its folder they are read"
    )
    (folder / "weights.bin").replace(secret)
    (folder / "link.bin").symlink_to(secret)
    network = onnx.load(path, load_external_data=False)
    for tensor in network.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(secret) if way == "absolute" else way
    path.write_bytes(network.SerializeToString())
    with pytest.raises(SettingsError, match=r"net\.onnx wants weights from outside its folder") as refused:
        YoloFamily().load(spec_of(path, allow_pickle=False, engine=engine))
    assert str(tmp_path) not in str(refused.value)
    assert "ONNXRuntime" not in str(refused.value)
