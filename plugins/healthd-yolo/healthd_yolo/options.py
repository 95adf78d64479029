"""The settings of a YOLO camera."""

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from healthd.cameras.capture import CaptureOptions
from healthd.cameras.source import PredictOptions
from healthd_yolo.engines import Engine, shared_engine
from healthd_yolo.model_options import (
    BATCH_HELP,
    DEVICE_HELP,
    ENGINE_HELP,
    HALF_HELP,
    IMGSZ_HELP,
    PRECISION_HELP,
    RECTANGULAR_HELP,
    Precision,
    YoloModelOptions,
    precision_of,
)


class YoloOptions(CaptureOptions, PredictOptions):
    """The settings under `[cameras.NAME.options]` of `yolo-pose` and `yolo-detect`."""

    model: str = Field(
        min_length=1,
        description="Model file or OpenVINO directory: a path, or a name in `models.directory`,"
        " e.g. `yolo11n-pose.onnx`; with engine `ultralytics` also a known weight name such as `yolo11n-pose.pt`.",
    )
    engine: Engine = Field("auto", description=ENGINE_HELP)
    imgsz: int | None = Field(None, ge=32, le=4096, description=IMGSZ_HELP)
    precision: Precision = Field("auto", description=PRECISION_HELP)
    half: bool | None = Field(None, description=HALF_HELP)
    device: str | None = Field(None, description=DEVICE_HELP)
    rectangular: bool = Field(True, description=RECTANGULAR_HELP)
    batch: int | None = Field(None, ge=1, le=64, description=BATCH_HELP)

    @model_validator(mode="after")
    def _one_precision(self) -> "YoloOptions":
        if self.half is not None and self.precision != "auto":
            raise PydanticCustomError("one_precision", "half: `precision` says it already; leave one of the two out")
        return self

    def model_options(self) -> YoloModelOptions:
        """Return what decides how the model is loaded, in the form under which equal wishes are equal."""
        return YoloModelOptions(
            engine=shared_engine(self.engine, self.model),
            imgsz=self.imgsz,
            precision=precision_of(self.precision, half=self.half),
            device=self.device,
            rectangular=self.rectangular,
            batch=self.batch,
        )
