"""What a network says of itself is checked before anything relies on it."""

from pathlib import Path
from typing import Any

import pytest

from healthd.errors import SettingsError
from healthd_yolo.metadata import network_info, read_sidecar

POSE = {
    "task": "pose",
    "names": "{0: 'person'}",
    "stride": "32",
    "imgsz": "[384, 640]",
    "kpt_shape": "[17, 3]",
    "channels": "3",
    "end2end": "False",
    "args": "{'nms': None, 'dynamic': True}",
}


def test_strings_of_an_onnx_file_and_values_of_a_yaml_file_mean_the_same() -> None:
    from_strings = network_info(POSE, "x.onnx")
    from_values = network_info(
        {
            **POSE,
            "names": {0: "person"},
            "stride": 32,
            "imgsz": [384, 640],
            "kpt_shape": [17, 3],
            "end2end": False,
            "args": {},
        },
        "x",
    )
    assert from_strings == from_values
    assert from_strings.labels == {0: "person"}
    assert from_strings.image_size == (384, 640)
    assert from_strings.channels == 4 + 1 + 51


def test_kinds_of_heads_are_told_apart() -> None:
    assert network_info({**POSE, "end2end": "True"}, "x").one_to_one
    assert network_info({**POSE, "args": "{'nms': True}"}, "x").nms_inside
    detect = network_info({"task": "detect", "names": "['a', 'b']", "imgsz": "640"}, "x")
    assert (detect.keypoint_shape, detect.extras, detect.image_size) == (None, 0, (640, 640))
    assert detect.labels == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"task": "segment"}, "`segment` network"),
        ({"names": "{}"}, "names"),
        ({"names": "{'a': 1}"}, "names"),
        ({"names": "__import__('os')"}, "makes no sense"),
        ({"channels": "1"}, "colour"),
        ({"kpt_shape": "[17, 4]"}, "kpt_shape"),
        ({"kpt_shape": "None"}, "makes no sense"),
        ({"imgsz": "[0, 640]"}, "two sizes"),
        ({"imgsz": "(" * 5000}, "makes no sense"),
        ({"stride": "fast"}, "makes no sense"),
        ({"args": "7"}, "makes no sense"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused_with_the_reason(change: dict[str, str], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        network_info({**POSE, **change}, "x.onnx")


@pytest.mark.parametrize("missing", ["task", "names"])
def test_a_network_without_metadata_is_refused_with_what_to_do(missing: str) -> None:
    raw = {key: value for key, value in POSE.items() if key != missing}
    with pytest.raises(SettingsError, match="yolo export"):
        network_info(raw, "somebodys.onnx")


@pytest.mark.parametrize(
    ("text", "expected"), [("task: pose\nstride: 32\n", {"task": "pose", "stride": 32}), ("7", {})]
)
def test_a_sidecar_is_read(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    (tmp_path / "metadata.yaml").write_text(text)
    assert read_sidecar(tmp_path) == expected


def test_an_absent_sidecar_is_empty_and_a_broken_one_an_error(tmp_path: Path) -> None:
    assert read_sidecar(tmp_path) == {}
    (tmp_path / "metadata.yaml").write_text("a: [1,")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_sidecar(tmp_path)
    (tmp_path / "metadata.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_sidecar(tmp_path)
