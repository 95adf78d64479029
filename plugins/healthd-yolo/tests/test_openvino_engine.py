"""Engine `openvino` on real weights: what it reads, what it refuses, and that it needs no torch and no network."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from healthd.errors import ModelError, SettingsError
from healthd.frames import Image
from healthd.models.model import InferenceParams, Model

pytestmark = pytest.mark.assets
Load = Callable[..., Model]


@pytest.fixture(scope="module")
def pose(weights: Path, load: Load) -> Model:
    return load(weights / "yolov8n-pose.onnx")


@pytest.fixture(scope="module")
def objects(weights: Path, load: Load) -> Model:
    return load(weights / "yolo11n.onnx")


def test_task_and_names_come_from_the_model_itself(pose: Model, objects: Model) -> None:
    assert (pose.task, dict(pose.labels)) == ("pose", {0: "person"})
    assert objects.task == "detect"
    assert (len(objects.labels), objects.labels[5]) == (80, "bus")
    assert 20e6 < (pose.memory_bytes or 0) < 200e6


def test_the_four_people_in_the_bus_picture_are_found_with_their_noses(pose: Model, pictures: dict[str, Image]) -> None:
    prediction = pose.predict(pictures["bus"], InferenceParams())
    assert [round(found.confidence, 2) for found in prediction.results] == [0.90, 0.88, 0.87, 0.43]
    for found in prediction.results:
        assert found.class_name == "person"
        assert found.keypoints is not None
        assert len(found.keypoints) == 17
    left, top, right, bottom = prediction.results[0].box_xyxy
    nose = prediction.results[0].keypoints[0]  # type: ignore[index]
    assert left < nose.x < right
    assert top < nose.y < (top + bottom) / 2


def test_the_envelope_can_be_sent_as_json(pose: Model, pictures: dict[str, Image]) -> None:
    prediction = pose.predict(pictures["bus"], InferenceParams())
    metadata = json.loads(json.dumps(prediction.metadata))
    assert metadata == {
        "task": "pose",
        "width": 810,
        "height": 1080,
        "engine": "openvino",
        "device": "CPU",
        "precision": "f32",
        "input_shape": [640, 480],
    }
    json.dumps([found.box_xyxy for found in prediction.results])
    assert prediction.inference_time_ms > 0


def test_thresholds_classes_and_limits_are_kept(objects: Model, pictures: dict[str, Image]) -> None:
    bus = pictures["bus"]
    every = objects.predict(bus, InferenceParams(confidence=0.25)).results
    assert [found.class_name for found in every] == ["bus", "person", "person", "person", "person"]
    assert len(objects.predict(bus, InferenceParams(confidence=0.8)).results) == 4
    assert len(objects.predict(bus, InferenceParams(max_det=2)).results) == 2
    only = objects.predict(bus, InferenceParams(classes=("Bus",))).results
    assert [found.class_name for found in only] == ["bus"]
    assert objects.predict(bus, InferenceParams(classes=())).results == ()
    assert len(objects.predict(bus, InferenceParams(confidence=0.0, iou=1.0, max_det=1000)).results) == 1000


def test_a_class_the_model_does_not_have_is_refused(objects: Model, pictures: dict[str, Image]) -> None:
    with pytest.raises(SettingsError, match="did you mean `person`"):
        objects.predict(pictures["bus"], InferenceParams(classes=("persons",)))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2), (33, 31), (2160, 3840), (4320, 7680)])
def test_images_of_any_size_work_and_boxes_stay_inside_them(pose: Model, size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    prediction = pose.predict(image, InferenceParams(confidence=0.0))
    assert (prediction.metadata["height"], prediction.metadata["width"]) == size
    for found in prediction.results:
        left, top, right, bottom = found.box_xyxy
        assert 0 <= left <= right <= size[1]
        assert 0 <= top <= bottom <= size[0]


def test_read_only_and_strided_images_work_as_well(pose: Model, pictures: dict[str, Image]) -> None:
    bus = pictures["bus"]
    expected = pose.predict(bus, InferenceParams()).results
    frozen = bus.copy()
    frozen.flags.writeable = False
    assert pose.predict(frozen, InferenceParams()).results == expected
    wide = np.zeros((1080, 1620, 3), dtype=np.uint8)
    wide[:, ::2] = bus
    assert pose.predict(wide[:, ::2], InferenceParams()).results == expected


@pytest.mark.parametrize(
    "image",
    [
        None,
        "picture",
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
    ids=["none", "text", "grey", "alpha", "float", "empty"],
)
def test_what_is_no_image_is_refused_and_the_model_goes_on(pose: Model, image: Any, pictures: dict[str, Image]) -> None:
    with pytest.raises(ModelError, match="not an image"):
        pose.predict(image, InferenceParams())
    assert len(pose.predict(pictures["bus"], InferenceParams()).results) == 4


def test_one_camera_after_the_other_on_one_model_leaves_no_trace(pose: Model, pictures: dict[str, Image]) -> None:
    alone = {name: pose.predict(image, InferenceParams()).results for name, image in pictures.items()}
    for _ in range(2):
        for name, image in pictures.items():
            assert pose.predict(image, InferenceParams()).results == alone[name]


def test_half_precision_is_taken_where_the_processor_has_it(
    weights: Path, load: Load, pictures: dict[str, Image]
) -> None:
    prediction = load(weights / "yolov8n-pose.onnx", precision="half").predict(pictures["bus"], InferenceParams())
    assert prediction.metadata["precision"] in {"bf16", "f16", "f32"}
    assert len(prediction.results) >= 3


def test_a_dynamic_export_computes_the_rectangle_that_the_image_needs(
    export: Callable[..., Path], load: Load, pictures: dict[str, Image]
) -> None:
    path = export("yolo11n", dynamic=True)
    assert load(path).predict(pictures["bus"], InferenceParams()).metadata["input_shape"] == [640, 480]
    small = load(path, imgsz=300).predict(pictures["zidane"], InferenceParams())
    assert small.metadata["input_shape"] == [192, 320]
    assert [found.class_name for found in small.results][:2] == ["person", "person"]


def test_a_fixed_export_refuses_another_size_instead_of_ignoring_it(weights: Path, load: Load) -> None:
    with pytest.raises(SettingsError, match="was exported for 640x640"):
        load(weights / "yolo11n.onnx", imgsz=320)
    assert load(weights / "yolo11n.onnx", imgsz=640).task == "detect"


def test_a_directory_and_its_xml_file_are_the_same_model(weights: Path, load: Load, pictures: dict[str, Image]) -> None:
    folder = weights / "yolov8n-pose_int8_openvino_model"
    found = [load(path).predict(pictures["bus"], InferenceParams()).results for path in (folder, *folder.glob("*.xml"))]
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_a_model_that_sees_nothing_is_no_error(weights: Path, load: Load, pictures: dict[str, Image]) -> None:
    model = load(weights / "bad" / "loads_but_detects_nothing.onnx")
    model.warm_up()
    assert model.predict(pictures["bus"], InferenceParams()).results == ()


def test_files_that_are_no_models_are_refused_with_a_reason(weights: Path, load: Load, tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "cut.onnx").write_bytes((weights / "yolo11n.onnx").read_bytes()[:300_000])
    (tmp_path / "broken.xml").write_text("<net")
    for name in ("empty.onnx", "text.onnx", "cut.onnx", "broken.xml"):
        with pytest.raises(SettingsError, match=f"{name} is not a model that OpenVINO can read") as caught:
            load(tmp_path / name)
        assert "Exception from" not in str(caught.value)


def test_folders_that_are_no_models_are_refused_with_a_reason(weights: Path, load: Load, tmp_path: Path) -> None:
    (tmp_path / "a_openvino_model").mkdir()
    with pytest.raises(SettingsError, match=r"0 \.xml files"):
        load(tmp_path / "a_openvino_model")
    shutil.copytree(
        weights / "yolov8n-pose_int8_openvino_model", tmp_path / "b_openvino_model", copy_function=shutil.copyfile
    )
    (tmp_path / "b_openvino_model").chmod(0o755)
    (tmp_path / "b_openvino_model" / "metadata.yaml").unlink()
    with pytest.raises(SettingsError, match="no ultralytics metadata"):
        load(tmp_path / "b_openvino_model")


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, load: Load) -> None:
    with pytest.raises(SettingsError, match=r"no `nothing\.onnx`, neither as a path nor in models\.directory"):
        load(tmp_path / "nothing.onnx")


def test_a_checkpoint_is_not_for_this_engine_and_the_message_says_what_is(weights: Path, load: Load) -> None:
    with pytest.raises(SettingsError, match=r"yolo export model=yolo11n-pose\.pt format=onnx"):
        load(weights / "yolo11n-pose.pt", engine="openvino")


def test_a_device_that_is_not_there_is_refused_with_those_that_are(weights: Path, load: Load) -> None:
    with pytest.raises(SettingsError, match="no `cuda:0` here, only CPU"):
        load(weights / "yolo11n.onnx", device="cuda:0")


def test_an_output_that_does_not_fit_the_metadata_is_refused(weights: Path, load: Load, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    network = onnx.load(weights / "yolo11n.onnx")
    for entry in network.metadata_props:
        if entry.key == "names":
            entry.value = "{0: 'person'}"
    onnx.save(network, tmp_path / "odd.onnx")
    with pytest.raises(SettingsError, match="a detect network of 1 classes"):
        load(tmp_path / "odd.onnx")


OVERWRITTEN = """
import os, sys
from pathlib import Path
import numpy as np
from healthd.models.model import InferenceParams, ModelSpec
from healthd_yolo.family import YoloFamily
from healthd_yolo.model_options import YoloModelOptions
folder = Path(sys.argv[1])
model = YoloFamily().load(ModelSpec(folder.name, folder, folder.parent, YoloModelOptions()))
image = np.zeros((720, 1280, 3), np.uint8)
model.predict(image, InferenceParams())
for file in folder.glob("*.bin"):
    os.truncate(file, 0)
model.predict(image, InferenceParams())
print("alive")
"""


def test_weights_that_are_cut_short_while_they_are_used_do_not_end_the_process(weights: Path, tmp_path: Path) -> None:
    """`cp other.bin model.bin` does that for a moment: from a mapping of the file the next prediction would die."""
    folder = tmp_path / "yolov8n-pose_int8_openvino_model"
    folder.mkdir()
    for file in (weights / folder.name).iterdir():
        shutil.copyfile(file, folder / file.name)
    done = subprocess.run(
        [sys.executable, "-c", OVERWRITTEN, str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
