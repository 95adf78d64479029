"""Which engine runs which file."""

from pathlib import Path, PurePath
from typing import Literal, TypeAlias

import structlog

from healthd.errors import SettingsError
from healthd.models.model import ModelSpec

Engine: TypeAlias = Literal["auto", "openvino", "ultralytics"]

log = structlog.get_logger(__name__)
_OPENVINO_SUFFIXES = (".onnx", ".xml")
_OPENVINO_FOLDER = "_openvino_model"
_ULTRALYTICS_SUFFIXES = (".pt", ".torchscript", ".engine", ".mlpackage", ".mlmodel", ".pb", ".tflite", ".mnn")
_ULTRALYTICS_FOLDERS = ("_saved_model", "_paddle_model", "_ncnn_model", "_rknn_model", "_executorch_model")

_DATA_SUFFIXES = (".onnx", _OPENVINO_FOLDER, ".tflite", ".mnn", "_ncnn_model")
"""What ultralytics reads as data alone. Reading any other may run code of whoever made it: pickles above all."""
_PROGRAMS = tuple(one for one in (*_ULTRALYTICS_SUFFIXES, *_ULTRALYTICS_FOLDERS) if one not in _DATA_SUFFIXES)


def is_model_name(name: str) -> bool:
    """Whether a name looks like a file or folder that ultralytics writes."""
    plain = name.rstrip("/").lower()
    return plain.endswith((*_OPENVINO_SUFFIXES, _OPENVINO_FOLDER, *_ULTRALYTICS_SUFFIXES, *_ULTRALYTICS_FOLDERS))


def automatic_engine(name: str, path: Path | None = None) -> Literal["openvino", "ultralytics"]:
    """Return the engine that `auto` stands for: OpenVINO for what it reads by itself, ultralytics for the rest."""
    plain = PurePath(name).name.lower()
    if plain.endswith((*_OPENVINO_SUFFIXES, _OPENVINO_FOLDER)):
        return "openvino"
    if path is not None and path.is_dir() and any(path.glob("*.xml")):
        return "openvino"
    return "ultralytics"


def shared_engine(engine: Engine, name: str) -> Engine:
    """Return `auto` where it stands for the engine asked for: so `auto` and its meaning share one loaded model."""
    return "auto" if engine == automatic_engine(name) else engine


def check_program(spec: ModelSpec) -> None:
    """Say that a model file may be a program before ultralytics reads it.

    Its name alone tells ultralytics what it is, wherever in the name that stands: it takes `net.pt.xml` for a `.pt`.

    Raises:
        SettingsError: `models.allow_pickle` forbids it.
    """
    name = (spec.model_id if spec.path is None else spec.path.name).lower()
    if name.endswith(_DATA_SUFFIXES) and not any(program in name for program in _PROGRAMS):
        return
    if not spec.allow_pickle:
        raise SettingsError(
            f"{spec.model_id} may be a program, and models.allow_pickle = false forbids to load it; on a machine where"
            f" you trust it: `healthd models prepare {PurePath(spec.model_id).name}`, then name what that makes"
        )
    log.warning("model_file_may_be_program", model=PurePath(spec.model_id).name)
