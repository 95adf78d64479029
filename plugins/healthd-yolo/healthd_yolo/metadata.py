"""What a network says of itself: the metadata that ultralytics writes into its exports, checked."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # types-PyYAML is one more package for one call

from healthd.errors import SettingsError

TASKS = ("detect", "pose")
"""The tasks whose heads this plugin decodes."""

_STRUCTURED = ("stride", "batch", "channels", "imgsz", "names", "kpt_shape", "args", "end2end")


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """One network, as its own metadata describes it."""

    task: str
    labels: Mapping[int, str]
    stride: int
    """The input's sides are multiples of it, in pixels."""
    image_size: tuple[int, int]
    """Height and width in pixels that it was exported for."""
    keypoint_shape: tuple[int, int] | None
    """Points per body, and 2 (x, y) or 3 (x, y, confidence) numbers per point; None without points."""
    one_to_one: bool
    """An end-to-end head: each object comes once, no suppression is wanted."""
    nms_inside: bool
    """The export has its own suppression, with thresholds of its own."""

    @property
    def extras(self) -> int:
        """Numbers per detection beyond box and class scores."""
        return self.keypoint_shape[0] * self.keypoint_shape[1] if self.keypoint_shape else 0

    @property
    def channels(self) -> int:
        """Numbers per anchor of the undecided output: box, one score per class, extras."""
        return 4 + len(self.labels) + self.extras


def network_info(raw: Mapping[str, Any], name: str) -> NetworkInfo:
    """Check the metadata of the network called `name`; values may be strings, as ONNX stores them.

    Raises:
        SettingsError: there is no such metadata, or it describes a network that this plugin cannot decode.
    """
    if "task" not in raw or "names" not in raw:
        raise SettingsError(
            f"{name} has no ultralytics metadata (task and class names); export it with"
            " `yolo export model=YOUR.pt format=onnx`"
        )
    data = {key: _literal(raw[key]) if key in _STRUCTURED else raw[key] for key in raw}
    task = str(data["task"])
    if task not in TASKS:
        raise SettingsError(f"{name} is a `{task}` network; healthd-yolo decodes {' and '.join(TASKS)}")
    try:
        return _checked(task, data)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as exc:
        raise SettingsError(f"{name} has metadata that makes no sense: {exc!r}") from exc


def read_sidecar(folder: Path) -> Mapping[str, Any]:
    """Read the `metadata.yaml` beside an OpenVINO model; empty when there is none or it is not a mapping.

    Raises:
        SettingsError: it is there and cannot be read.
    """
    path = folder / "metadata.yaml"
    if not path.is_file():
        return {}
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as exc:
        raise SettingsError(f"{path.name} of {folder.name} cannot be read: {exc!r}") from exc
    return data if isinstance(data, dict) else {}


def _checked(task: str, data: Mapping[str, Any]) -> NetworkInfo:
    names = data["names"]
    labels = dict(enumerate(names)) if isinstance(names, list | tuple) else dict(names)
    if not labels or not all(isinstance(key, int) for key in labels):
        raise ValueError(f"names={names!r}")
    if int(data.get("channels", 3)) != 3:
        raise ValueError(f"channels={data['channels']!r}: only colour images are supported")
    arguments = data.get("args") or {}
    return NetworkInfo(
        task=task,
        labels={int(key): str(value) for key, value in sorted(labels.items())},
        stride=_pair(int(data.get("stride", 32)))[0],
        image_size=_pair(data.get("imgsz", 640)),
        keypoint_shape=_keypoint_shape(data["kpt_shape"]) if task == "pose" else None,
        one_to_one=bool(data.get("end2end", False)),
        nms_inside=bool(arguments.get("nms", False)),
    )


def _keypoint_shape(value: Any) -> tuple[int, int]:
    points, numbers = _pair(value)
    if numbers not in (2, 3):
        raise ValueError(f"kpt_shape={value!r}")
    return points, numbers


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    if min(first, second) < 1:
        raise ValueError(f"{value!r} is not two sizes")
    return int(first), int(second)


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return value
