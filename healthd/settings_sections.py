"""The sections of the settings: names, types, bounds, defaults and meanings. The descriptions are the reference."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_serializer, field_validator
from pydantic_core import PydanticCustomError

from healthd.redact import SourceUrl
from healthd.settings_base import Seconds, SecondsOrOff, Section
from healthd.settings_options import protected, redacted


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class ShutdownSettings(Section):
    """`[shutdown]`: how long a stop may take. The process is gone after the sum of the two, a moment later at most."""

    grace_seconds: SecondsOrOff = Field(5, description="How long open requests may take to end.")
    drain_seconds: SecondsOrOff = Field(10, description="How long cameras and models may take to finish.")


class LogSettings(Section):
    """`[log]`: what is logged to standard error, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)] = Field(
        "info", description="Least severe level that is logged."
    )
    format: Annotated[Literal["auto", "console", "json"], BeforeValidator(_lower)] = Field(
        "auto", description="`console` for people, `json` for machines, `auto`: console on a terminal, else JSON."
    )


class ConfigSettings(Section):
    """`[config]`: how changes of the file are noticed."""

    watch: bool = Field(
        False, description="`true`: the file is read again when it has changed; else on SIGHUP or by the API alone."
    )


class SnapshotsSettings(Section):
    """`[snapshots]`: the pictures that are served."""

    quality: int = Field(75, ge=1, le=95, description="JPEG quality where neither camera nor caller says another.")


class StreamsSettings(Section):
    """`[streams]`: open MJPEG and event streams."""

    max_viewers: int = Field(200, ge=1, le=10_000, description="Open streams at most, events included.")
    max_viewers_per_camera: int = Field(100, ge=1, le=10_000, description="Open streams of one camera at most.")
    max_viewers_per_client: int = Field(
        100, ge=1, le=10_000, description="Open streams of one address (of IPv6: of one /64) at most."
    )
    write_timeout_seconds: Seconds = Field(5, description="A viewer that does not read for so long is dropped.")
    max_seconds: SecondsOrOff = Field(0, description="How long one stream may last; 0: as long as its viewer looks.")


class ModelsSettings(Section):
    """`[models]`: the models that watch the cameras and answer the inference API."""

    directory: Path = Field(Path("models"), description="Where model files are looked for.")
    cache_directory: Path | None = Field(
        None,
        description="Where compiled models are kept for the next start; several daemons may share it. "
        "Absent: `healthd` in the user's cache (`$XDG_CACHE_HOME`, else `~/.cache`).",
    )
    cache_max_bytes: int = Field(
        1_073_741_824,
        ge=0,
        description="How much is kept there at most, what was used longest ago goes first; 0: nothing.",
    )
    allow_pickle: bool = Field(
        True,
        description="`false`: no model file is loaded that may be a program, such as a `.pt`; `.onnx` and OpenVINO are "
        "none.",
    )
    idle_unload_seconds: SecondsOrOff = Field(
        300, description="A model that nobody used for so long is unloaded; 0: never."
    )
    load_timeout_seconds: Seconds = Field(120, description="How long loading a model may take.")
    failed_load_seconds: SecondsOrOff = Field(
        10, description="A model that could not be loaded is not loaded again by a request for so long."
    )
    preload: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(
        (), description="Models that are loaded at the start and kept, e.g. `yolo11n-pose.onnx`."
    )
    default: str | None = Field(
        None, min_length=1, description="The model of a request that names none; absent: that of the first camera."
    )
    max_loaded: int = Field(
        8, ge=1, le=1000, description="Models in memory at most; the one used longest ago makes room."
    )
    memory_budget_bytes: int = Field(
        0, ge=0, description="Memory that all models together may take, by their own account; 0: no limit."
    )
    concurrency: int = Field(
        1, ge=1, le=64, description="Predictions of one model at a time, where the model can do more than one."
    )
    isolation: Literal["thread", "process"] = Field(
        "thread",
        description="`process`: each model runs in a process of its own, which is ended when it hangs or crashes. "
        "Linux only.",
    )
    batch_window_ms: float = Field(
        3,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="How long a model that takes several pictures at once waits for a camera that is due; 0: never.",
    )
    queue_size: int = Field(16, ge=1, le=10_000, description="Requests that may wait for one model; more get a 503.")
    queue_timeout_seconds: Seconds = Field(5, description="A request that has waited so long for its turn gets a 503.")

    @field_validator("isolation")
    @classmethod
    def _only_where_children_end(cls, isolation: str) -> str:
        if isolation == "process" and sys.platform != "linux":
            raise PydanticCustomError("linux_only", "needs Linux: leave it out here")
        return isolation

    @property
    def cache_place(self) -> Path | None:
        """Where compiled models are kept; None: nowhere, because this user has no home."""
        if self.cache_directory is not None:
            return self.cache_directory.absolute()
        said = Path(os.environ.get("XDG_CACHE_HOME", ""))
        if said.is_absolute():
            return said / "healthd"
        try:
            return Path.home() / ".cache" / "healthd"
        except RuntimeError:
            return None


class InferenceSettings(Section):
    """`[inference]`: pictures that are sent in."""

    max_upload_bytes: int = Field(
        20_971_520, ge=1024, le=1_073_741_824, description="Size of one picture at most, as it is sent."
    )
    max_pixels: int = Field(
        50_000_000, ge=1, le=1_000_000_000, description="Pixels of one picture at most, whatever its size in bytes."
    )
    max_uploads: int = Field(64, ge=1, le=10_000, description="Requests with a picture at a time; more get a 503.")
    max_uploads_per_client: int = Field(
        16,
        ge=1,
        le=10_000,
        description="Requests with a picture of one address (of IPv6: of one /64) at a time; more get a 503.",
    )
    upload_timeout_seconds: Seconds = Field(30, description="How long one picture may take to arrive.")
    max_sockets: int = Field(32, ge=1, le=10_000, description="Open WebSockets at most.")
    max_sockets_per_client: int = Field(
        16,
        ge=1,
        le=10_000,
        description="Open WebSockets of one address (of IPv6: of one /64) at most.",
    )


class JobsSettings(Section):
    """`[jobs]`: batch work over many pictures or a video."""

    enabled: bool = Field(True, description="`false`: no jobs are taken.")
    directory: Path = Field(Path("jobs"), description="Where uploads, the queue and the results are kept.")
    redis_url: SourceUrl | None = Field(
        None, description="A Redis that several daemons share, e.g. `redis://queue.lan/0`; absent: SQLite."
    )
    allowed_directories: tuple[Path, ...] = Field(
        (), description="Directories on this machine whose pictures and videos a job may name by their path."
    )
    max_upload_bytes: int = Field(
        2_147_483_648, ge=1024, le=1_099_511_627_776, description="Size of one video or zip at most."
    )
    max_jobs: int = Field(100, ge=1, le=100_000, description="Jobs that may wait or run; more get a 503.")
    workers: int = Field(1, ge=1, le=64, description="Jobs that run at a time in this daemon.")
    keep_hours: float = Field(
        168, gt=0, le=87_600, allow_inf_nan=False, description="How long the results of an ended job are kept."
    )


class PerformanceSettings(Section):
    """`[performance]`: how much of the machine healthd takes."""

    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads of one model, or of one video that is no live camera; 0: as many as the CPU quota of the "
        "container, or the affinity, allows.",
    )


class CameraSettings(Section):
    """`[cameras.NAME]`: one camera."""

    plugin: str = Field(min_length=1, description="Plugin that serves the camera, e.g. `yolo-pose`.")
    url: SourceUrl | None = Field(
        None, description="Address of the camera: a URL, the path of a recording or a device, or a device number."
    )
    enabled: bool = Field(True, description="`false`: listed, but never opened.")
    isolation: Literal["process", "thread"] | None = Field(
        None,
        description="Where the camera is opened and read: in a `process` of its own, which is killed when it hangs, or "
        "in a `thread` of healthd. Absent: `thread` for files, `process` for all others, on Linux.",
    )
    predict_fps: float | None = Field(
        None, ge=0.1, le=120, allow_inf_nan=False, description="Predictions per second at most; absent: all it can."
    )
    predict_when: Literal["always", "motion"] = Field(
        "always", description="`motion`: the model rests while nothing moves in the picture."
    )
    motion_threshold: float = Field(
        12,
        ge=2,
        le=100,
        allow_inf_nan=False,
        description="Grey levels of 255 by which a spot must differ from the seconds before to count as changed.",
    )
    motion_area: float = Field(
        0.002,
        ge=0.0001,
        le=1,
        allow_inf_nan=False,
        description="Share of the picture that must change in one place to count as motion.",
    )
    motion_hold_seconds: SecondsOrOff = Field(
        3, description="How long the model goes on after the last motion, or the last change of what it sees."
    )
    motion_detections_hold_seconds: SecondsOrOff = Field(
        30, description="How long detections that stand still keep the model awake; 0: not at all."
    )
    motion_max_interval_seconds: SecondsOrOff = Field(
        10, description="Where nothing moves, the model looks all the same after so long; 0: never."
    )
    quality: int | None = Field(
        None,
        ge=1,
        le=95,
        description="JPEG quality; absent: `snapshots.quality`, or the camera's own bytes if it sends JPEGs.",
    )
    stall_timeout_seconds: Seconds = Field(5, description="Without an image for so long, the camera is opened anew.")
    stale_after_seconds: Seconds = Field(5, description="An older picture is not served as a snapshot.")
    frozen_after_seconds: SecondsOrOff = Field(
        30, description="A picture that has not changed for so long is reported as frozen; 0: never."
    )
    open_timeout_seconds: Seconds = Field(10, description="How long opening the camera may take.")
    predict_timeout_seconds: Seconds = Field(10, description="How long one prediction may take.")
    reconnect_max_seconds: Seconds = Field(30, description="Longest pause between two attempts to open the camera.")
    max_abandoned_workers: int = Field(
        4, ge=1, le=64, description="Threads stuck in a driver or model after which the camera is given up."
    )
    max_crashes: int = Field(
        10,
        ge=0,
        le=1000,
        description="Crashes within `crash_window_seconds` after which a camera, or its model, is given up; 0: never.",
    )
    crash_window_seconds: Seconds = Field(600, description="For how long a crash counts.")
    crash_cooldown_seconds: SecondsOrOff = Field(
        600, description="A camera or model that was given up is tried again after so long; 0: only when it is told to."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the plugin, checked by the plugin: `healthd plugins` lists them."
    )

    @field_validator("options")
    @classmethod
    def _hide_secrets(cls, options: dict[str, Any]) -> dict[str, Any]:
        return protected(options)

    @field_serializer("options", when_used="json")
    def _show_no_secrets(self, options: dict[str, Any]) -> dict[str, Any]:
        return redacted(options)
