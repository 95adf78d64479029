"""How a YOLO model is loaded: the options that its users must share to share it in memory."""

from typing import Literal, TypeAlias

from pydantic import Field

from healthd.models.model import ModelOptions
from healthd_yolo.engines import Engine

Precision: TypeAlias = Literal["auto", "f32", "bf16", "f16", "int8"]

ENGINE_HELP = "`openvino` for .onnx and OpenVINO directories, `ultralytics` for the rest; `auto` chooses."
IMGSZ_HELP = "Side of the network's input in pixels; the model's own when absent."
PRECISION_HELP = (
    "`auto`: what this machine is fast in, f32 or a half precision, measured at the first load; `f32`, `bf16`, `f16`;"
    " `int8`: for quantized networks only."
)
HALF_HELP = "`true`: the half precision that the device is fast in; `false`: f32. Absent: `precision` says it."
RECTANGULAR_HELP = "Compute only the part of the input that the picture's shape fills, where the network allows it."
BATCH_HELP = (
    "Pictures computed at once at most, from cameras that share the model; engine `ultralytics` only."
    " Absent: what an export was made for; for a checkpoint 8 on a GPU, else 1."
)
DEVICE_HELP = "OpenVINO: `CPU`, `GPU`, `NPU`, `AUTO`. ultralytics: `cpu`, `cuda:0`, `mps`. Absent: the engine's choice."
ACTIVATIONS_PER_INPUT = 8
"""Memory of one inference, as a multiple of its input in float32; measured 5 to 10 on nano networks."""


def precision_of(precision: Precision, *, half: bool | None) -> Precision | Literal["half"]:
    """Return the precision that the two options mean together; `half` is the older word and stands for `auto` alone."""
    if half is None:
        return precision
    return "half" if half else "f32"


class YoloModelOptions(ModelOptions):
    """How a YOLO model is loaded. Users of one file with equal options share it in memory."""

    engine: Engine = Field("auto", description=ENGINE_HELP)
    imgsz: int | None = Field(None, ge=32, le=4096, description=IMGSZ_HELP)
    precision: Precision | Literal["half"] = Field(
        "auto", description=PRECISION_HELP + " `half`: the half precision that the device is fast in."
    )
    device: str | None = Field(None, description=DEVICE_HELP)
    rectangular: bool = Field(True, description=RECTANGULAR_HELP)
    batch: int | None = Field(None, ge=1, le=64, description=BATCH_HELP)
    threads: int | None = Field(
        None, ge=1, le=1024, description="Threads of one prediction; what the process may use when absent."
    )
