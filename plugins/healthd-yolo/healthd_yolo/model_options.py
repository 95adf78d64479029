"""How a YOLO model is loaded: the options that its users must share to share it in memory."""

from pydantic import Field

from healthd.models.model import ModelOptions
from healthd_yolo.engines import Engine

ENGINE_HELP = "`openvino` for .onnx and OpenVINO directories, `ultralytics` for the rest; `auto` chooses."
IMGSZ_HELP = "Side of the network's input in pixels; the model's own when absent."
HALF_HELP = "Compute in half precision where the device is fast in it."
RECTANGULAR_HELP = "Compute only the part of the input that the picture's shape fills, where the network allows it."
DEVICE_HELP = "OpenVINO: `CPU`, `GPU`, `NPU`, `AUTO`. ultralytics: `cpu`, `cuda:0`, `mps`. Absent: the engine's choice."


class YoloModelOptions(ModelOptions):
    """How a YOLO model is loaded. Users of one file with equal options share it in memory."""

    engine: Engine = Field("auto", description=ENGINE_HELP)
    imgsz: int | None = Field(None, ge=32, le=4096, description=IMGSZ_HELP)
    half: bool = Field(False, description=HALF_HELP)
    device: str | None = Field(None, description=DEVICE_HELP)
    rectangular: bool = Field(True, description=RECTANGULAR_HELP)
    threads: int | None = Field(
        None, ge=1, le=1024, description="Threads of one prediction; what the process may use when absent."
    )
