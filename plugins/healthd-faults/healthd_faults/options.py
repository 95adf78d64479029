"""The settings of a camera that misbehaves: which faults, and when."""

from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from healthd.cameras.source import PredictOptions
from healthd_faults.deeds import Crash, Leak, Wrong
from healthd_faults.schedule import Schedule

Corrupt = Literal["any", "dtype", "shape", "empty", "text", "jpeg_cut", "jpeg_broken"]
CameraKind = Literal[
    "hang", "half_open", "slow", "burst", "drop", "end", "error", "corrupt", "resize", "freeze", "leak", "crash"
]
SECONDS_HELP = "How long one takes: `slow` 1, `burst` 2, all others to the end of their time, or for ever."


class _Fault(Schedule):
    """What cameras and models have in common."""

    seconds: float | None = Field(None, gt=0, description=SECONDS_HELP)
    spin: bool = Field(False, description="`hang`: computing, in place of waiting.")
    error: Wrong = Field("bug", description="`error`: what is raised.")
    leak: Leak = Field("descriptor", description="`leak`: what is never given back.")
    size_bytes: int = Field(1_000_000, ge=4096, le=1_000_000_000, description="`leak`: of memory, each time.")
    most: int = Field(100, ge=1, le=100_000, description="`leak`: so many at most.")
    crash: Crash = Field("segv", description="`crash`: how the process ends.")


class CameraFault(_Fault):
    """One fault of a camera."""

    kind: CameraKind = Field(description="What goes wrong.")
    at: Literal["open", "read", "close"] = Field("read", description="`hang`, `slow`, `drop`, `error`, `crash`: where.")
    corrupt: Corrupt = Field("any", description="`corrupt`: what is delivered; `any`: one after the other.")

    @model_validator(mode="after")
    def _has_its_place(self) -> Self:
        if self.at != "read" and self.kind not in {"hang", "slow", "drop", "error", "crash", "leak"}:
            raise PydanticCustomError("place", "at: this fault happens in `read` alone")
        return self


class ModelFault(_Fault):
    """One fault of a model."""

    kind: Literal["hang", "slow", "fail", "error", "nan", "many", "garbage", "type", "leak", "crash"] = Field(
        description="What goes wrong."
    )
    at: Literal["load", "predict", "close"] = Field(
        "predict", description="`hang`, `slow`, `fail`, `error`, `crash`: where."
    )

    @model_validator(mode="after")
    def _has_its_place(self) -> Self:
        if self.at != "predict" and self.kind in {"nan", "many", "garbage", "type"}:
            raise PydanticCustomError("place", "at: this fault happens in `predict` alone")
        return self


class FaultsOptions(PredictOptions):
    """The settings under `[cameras.NAME.options]` of `faults`."""

    fps: float = Field(10.0, gt=0, le=1000, description="Pictures per second.")
    width: int = Field(320, ge=64, le=7680, description="Of a picture, in pixels.")
    height: int = Field(240, ge=64, le=4320, description="Of a picture, in pixels.")
    jpeg: bool = Field(False, description="Deliver JPEGs, as a camera that encodes its pictures does.")
    faults: tuple[CameraFault, ...] = Field((), description="What the camera does wrong, and when.")
    model: str | None = Field(None, min_length=1, description="Model that watches it; `faults` is its own.")
    model_family: str = Field("faults", min_length=1, description="Family of that model.")
    model_faults: tuple[ModelFault, ...] = Field((), description="What the model `faults` does wrong, and when.")
    seed: int = Field(0, description="Of what happens by `probability`.")
    allow_crash: bool = Field(
        False,
        validate_default=True,
        description="Faults may be of kind `crash`: they end the process, the whole daemon where not isolated.",
    )

    @field_validator("allow_crash")
    @classmethod
    def _is_meant(cls, allowed: bool, info: ValidationInfo) -> bool:  # noqa: FBT001  pydantic's way to call it
        kinds = {fault.kind for key in ("faults", "model_faults") for fault in info.data.get(key, ())}
        if "crash" in kinds and not allowed:
            raise PydanticCustomError(
                "allow_crash",
                "a `crash` ends the process with all its cameras: set `allow_crash = true` if that is meant",
            )
        return allowed

    @model_validator(mode="after")
    def _has_a_model_to_fail(self) -> Self:
        if self.model_faults and (self.model, self.model_family) != ("faults", "faults"):
            raise PydanticCustomError(
                "model_faults", 'model_faults: only the model `faults` has any: set model = "faults"'
            )
        return self
