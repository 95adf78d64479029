"""A network exported for one size computes other shapes only where it says there what it should, to the last bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from healthd.frames import Image
from healthd.models.model import InferenceParams, Model
from healthd_yolo import openvino_network
from healthd_yolo.anchors import AnchorGrid, rebuilt

Load = Callable[..., Model]
Export = Callable[..., Path]

OLD, NEW = AnchorGrid((8, 16, 32), (640, 640)), AnchorGrid((8, 16, 32), (384, 640))


@pytest.mark.parametrize(
    ("size", "anchors", "strides"),
    [
        ((640, 640), 8400, (8, 16, 32)),
        ((384, 640), 5040, (8, 16, 32)),
        ((640, 640), 34000, (4, 8, 16, 32)),
        ((1280, 1280), 34000, (8, 16, 32, 64)),
        ((320, 320), 2100, (8, 16, 32)),
    ],
)
def test_a_head_is_known_by_the_number_of_its_anchors(
    size: tuple[int, int], anchors: int, strides: tuple[int, ...]
) -> None:
    grid = AnchorGrid.of(size, anchors)
    assert grid is not None
    assert (grid.strides, grid.count) == (strides, anchors)


@pytest.mark.parametrize(("size", "anchors"), [((640, 640), 8399), ((640, 640), 0), ((650, 650), 8400)])
def test_another_number_of_anchors_is_no_head(size: tuple[int, int], anchors: int) -> None:
    assert AnchorGrid.of(size, anchors) is None


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("offset", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_tables_of_anchors_are_written_anew_whatever_was_folded_into_them(
    kind: Any, offset: float, factor: float
) -> None:
    def tables(grid: AnchorGrid) -> list[np.ndarray]:
        stride, x, y, x_pixels, y_pixels = grid.bases()
        pixels = np.stack([x_pixels[0] + offset * stride[0], y_pixels[0] + offset * stride[0]])
        return [stride[:1] * factor, np.stack([x[0], y[0]])[None] * factor + offset, pixels * factor]

    for old, new in zip(tables(OLD), tables(NEW), strict=True):
        found = rebuilt(old.astype(kind), OLD, NEW)
        assert found is not None
        assert found.dtype == kind
        assert np.array_equal(found, new.astype(kind))


def test_a_table_that_differs_in_one_number_is_none_of_anchors() -> None:
    table = OLD.bases()[1][0].astype(np.float32)
    table[4711] = np.nextafter(table[4711], np.float32(1e9))
    assert rebuilt(table, OLD, NEW) is None
    assert rebuilt(np.random.default_rng(2).normal(size=(2, OLD.count)), OLD, NEW) is None


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("yolov8n-pose", {}),
        pytest.param("yolo11n", {}, marks=pytest.mark.thorough),
        pytest.param("yolo11n-pose", {"simplify": True}, marks=pytest.mark.thorough),
        pytest.param("yolo26n-pose", {"nms": False}, marks=pytest.mark.thorough),
    ],
    ids=["v8", "11", "11 simplified", "26 end-to-end"],
)
def test_a_fixed_export_computes_the_shape_of_the_camera_exactly_as_a_dynamic_one_does(
    name: str,
    arguments: dict[str, Any],
    export: Export,
    load: Load,
    pictures: dict[str, Image],
    clip_frames: list[Image],
) -> None:
    fixed, dynamic = load(export(name, **arguments)), load(export(name, dynamic=True, **arguments))
    shapes = set()
    for image in [*pictures.values(), *clip_frames[::10]]:
        found, expected = (model.predict(image, InferenceParams()) for model in (fixed, dynamic))
        assert found.metadata["input_shape"] == expected.metadata["input_shape"]
        assert found.results == expected.results
        shapes.add(tuple(found.metadata["input_shape"]))
    assert {(384, 640), (640, 384), (640, 480)} <= shapes


@pytest.mark.assets
@pytest.mark.thorough
def test_every_kind_of_weights_at_hand_is_flexible(weights: Path, load: Load) -> None:
    for path in (*weights.glob("*.onnx"), *weights.glob("*_openvino_model")):
        model = load(path)
        assert model._network.file.fixed_because is None, path.name  # type: ignore[attr-defined]


@pytest.mark.assets
def test_a_network_that_is_built_otherwise_stays_at_its_size_and_says_so(
    weights: Path, load: Load, pictures: dict[str, Image], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    network = onnx.load(weights / "yolov8n-pose.onnx")
    constants = [entry.t for node in network.graph.node for entry in node.attribute if entry.name == "value"]
    tables = [tensor for tensor in (*network.graph.initializer, *constants) if list(tensor.dims) == [1, 8400]]
    for tensor in tables:
        table = onnx.numpy_helper.to_array(tensor).copy()
        table[0, 17] *= 1.01
        tensor.CopyFrom(onnx.numpy_helper.from_array(table, tensor.name))
    assert tables
    onnx.save(network, tmp_path / "odd.onnx")
    prediction = load(tmp_path / "odd.onnx").predict(pictures["bus"], InferenceParams())
    assert prediction.metadata["input_shape"] == [640, 640]
    assert "none of anchors" in prediction.metadata["input_fixed"]
    assert len(prediction.results) == 4


@pytest.mark.assets
def test_a_network_with_its_own_suppression_stays_at_its_size_and_says_so(
    export: Export, load: Load, pictures: dict[str, Image]
) -> None:
    metadata = load(export("yolo11n", nms=True)).predict(pictures["bus"], InferenceParams()).metadata
    assert metadata["input_shape"] == [640, 640]
    assert "suppression" in metadata["input_fixed"]


@pytest.mark.assets
def test_the_whole_input_is_computed_when_the_camera_asks_for_it(
    weights: Path, load: Load, pictures: dict[str, Image]
) -> None:
    model = load(weights / "yolov8n-pose.onnx", rectangular=False)
    prediction = model.predict(pictures["bus"], InferenceParams())
    assert prediction.metadata["input_shape"] == [640, 640]
    assert "input_fixed" not in prediction.metadata
    assert [round(found.confidence, 2) for found in prediction.results] == [0.89, 0.87, 0.87, 0.32]


@pytest.mark.assets
def test_cameras_of_different_shapes_do_not_make_each_other_compile(
    weights: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = compilations(monkeypatch)
    model = load(weights / "yolov8n-pose.onnx", imgsz=640)
    for _ in range(3):
        for size in ((720, 1280), (1280, 720), (480, 640), (1080, 1920), (544, 960)):
            model.predict(np.zeros((*size, 3), np.uint8), InferenceParams())
    assert compiled == [(384, 640), (640, 384), (480, 640)]


@pytest.mark.assets
def test_pictures_of_all_shapes_compile_a_bounded_number_of_times(
    export: Export, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, now = compilations(monkeypatch), [0.0]
    monkeypatch.setattr(openvino_network, "monotonic", lambda: now[0])
    model = load(export("yolo11n", dynamic=True), imgsz=160)
    widths = (32, 64, 96, 128, 160, 200, 260, 400)
    for _ in range(2):
        shapes = [
            model.predict(np.zeros((160, width, 3), np.uint8), InferenceParams()).metadata["input_shape"]
            for width in widths
        ]
        assert shapes[:3] == [[160, 32], [160, 64], [160, 96]]
        assert shapes[3:] == [[160, 160]] * 5, "what has no variant of its own fits into the full size"
    assert compiled[0] == (96, 160), "the shape of most cameras, at load"
    assert len(compiled) == openvino_network.MOST_VARIANTS
    now[0] += openvino_network.IDLE_SECONDS
    model.predict(np.zeros((160, 32, 3), np.uint8), InferenceParams())
    last = model.predict(np.zeros((160, 400, 3), np.uint8), InferenceParams())
    assert last.metadata["input_shape"] == [64, 160], "it takes the place of one that nobody has used for long"
    assert len(compiled) == openvino_network.MOST_VARIANTS + 1


def compilations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list that grows with each size that is compiled."""
    sizes: list[tuple[int, int]] = []
    plain = openvino_network.Network._compile

    def counted(network: Any, size: tuple[int, int], hint: Any) -> Any:
        sizes.append(size)
        return plain(network, size, hint)

    monkeypatch.setattr(openvino_network.Network, "_compile", counted)
    return sizes
