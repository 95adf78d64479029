"""Wire shapes: what the API answers, field by field. Times are RFC 3339, ages milliseconds, sizes pixels."""

from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct


class Error(Struct):
    """Every error of the API."""

    status_code: int
    detail: str
    extra: dict[str, Any] | list[Any] = msgspec.field(default_factory=dict)


class Status(Struct):
    """One word of health."""

    status: str


class Health(Struct):
    """For people and uptime monitors."""

    status: str
    version: str | None
    """Null for strangers, where keys are needed."""
    uptime_seconds: float
    cameras: dict[str, int]
    """Cameras by state."""
    models_loaded: int
    safe_mode: bool
    """Whether only the plugins of the healthd project are loaded."""


class Process(Struct):
    """What the process of the daemon takes; null where its system does not tell."""

    cpu_seconds: float
    """CPU time since its start, of all threads: its growth per second is the load, 1 for one core."""
    cpu_share: float | None
    """The load of the last five seconds or so, 1 for one core; null in the first ones."""
    cpus: int
    """Cores that it may use."""
    resident_memory_bytes: int | None
    threads: int | None
    """Native ones too."""
    open_fds: int | None


class DaemonState(Struct):
    """The daemon at a glance."""

    status: str
    version: str
    started_at: datetime
    uptime_seconds: float
    cameras: dict[str, int]
    """Cameras by state."""
    viewers: int
    models_loaded: int
    safe_mode: bool
    """Whether only the plugins of the healthd project are loaded."""
    waiting_for: list[str]
    restart_needed: list[str]
    """Settings of the file that count from the next start of the daemon on."""
    process: Process
    versions: dict[str, str]
    """Of healthd, Python, the system and the libraries that matter."""


class ConfigReload(Struct):
    """What came of reading the configuration again."""

    added: list[str]
    """Cameras."""
    removed: list[str]
    restarted: list[str]
    """Cameras that were left, and are opened anew with other settings."""
    changed: list[str]
    """Settings that count at once."""
    restart_needed: list[str]
    """Settings that count from the next start of the daemon on, those of earlier reloads included."""


class FrameCounts(Struct):
    """Where every frame went: read = predicted + dropped + in_hand."""

    read: int
    predicted: int
    dropped: dict[str, int]
    in_hand: int


class CameraModel(Struct):
    """The model that watches a camera."""

    id: str | None
    state: str
    reason: str | None
    idle: bool
    """True: nothing moves in the picture, and the model rests (`predict_when`)."""


class Tuning(Struct):
    """What PATCH can change, as it is now; null where it does not apply."""

    predict_fps: float | None
    quality: int
    confidence: float | None
    iou: float | None
    max_det: int | None


class CameraError(Struct):
    """One failure of a camera's reader or predictor."""

    at: datetime
    task: str
    reason: str


class CameraProcess(Struct):
    """The process in which a camera is read."""

    memory_bytes: int | None
    """What it holds for itself alone, a quarter of a minute ago at most; null without a session."""
    ends: dict[str, int]
    """How often it had to be killed, or crashed, since the daemon began, by reason."""


class Camera(Struct):
    """One configured camera."""

    name: str
    plugin: str
    source: str | None
    """Where its pictures come from, without user info and query."""
    state: str
    since: datetime
    reason: str | None
    connected: bool
    has_frame: bool
    fps: float
    predicted_fps: float
    frame_id: int | None
    frame_age_ms: float | None
    width: int | None
    height: int | None
    codec: str | None
    nominal_fps: float | None
    recording: bool
    frames: FrameCounts
    reconnects: int
    isolation: str
    """`process` or `thread`: where the camera is opened and read."""
    process: CameraProcess | None
    """Null in a thread."""
    workers_stuck: int
    """Threads given up in a call that has not returned; at `max_abandoned_workers` the camera has failed."""
    viewers: int
    model: CameraModel
    tuning: Tuning
    errors: list[CameraError]


class CameraChange(Struct, forbid_unknown_fields=True):
    """Hot changes: only what is given is changed."""

    predict_fps: float | msgspec.UnsetType | None = msgspec.UNSET
    """0.1 to 120; null: as fast as the model can."""
    quality: int | msgspec.UnsetType = msgspec.UNSET
    """1 to 95."""
    confidence: float | msgspec.UnsetType = msgspec.UNSET
    """0 to 1."""
    iou: float | msgspec.UnsetType = msgspec.UNSET
    """0 to 1."""
    max_det: int | msgspec.UnsetType = msgspec.UNSET
    """1 to 1000."""


class Result(Struct, omit_defaults=True):
    """One object in one image; coordinates in pixels of the image."""

    box_xyxy: tuple[float, float, float, float]
    confidence: float
    class_id: int
    class_name: str
    keypoints: list[tuple[float, float, float]] | None = None
    """x, y, confidence; left out where the model has none."""


class Envelope(Struct):
    """What a model said of one image, the same for every family."""

    model_id: str
    inference_time_ms: float
    results: list[Result]
    metadata: dict[str, Any]


class CameraPrediction(Struct):
    """The newest prediction of a camera: the envelope and the frame it belongs to."""

    model_id: str
    inference_time_ms: float
    results: list[Result]
    metadata: dict[str, Any]
    frame_id: int
    captured_at: datetime
    age_ms: float


class Plugin(Struct):
    """One installed plugin."""

    name: str
    group: str
    distribution: str
    version: str
    state: str
    """`loaded`, `broken`, or `skipped`: not imported, in safe mode."""
    reason: str | None
    """Why it is not loaded, and what to do."""
    notes: list[str]
    """What it did to others while it was imported, a sentence each."""
    cameras: list[str]
    settings: dict[str, Any] | None
    """Its own settings as JSON Schema."""


class Viewer(Struct):
    """One open stream."""

    id: str
    kind: str
    """`mjpeg`, `events`, `logs` or `socket`."""
    camera: str | None
    """Null: events of all cameras, the log, or a socket."""
    client: str
    since: datetime
    sent: int
    """Frames, events or answers."""
    skipped: int
    """What newer ones replaced before it could be sent, of what was asked for."""
    quality: int | None
    """JPEG quality at present."""
    last_write_age_ms: float


class ViewerEvent(Struct):
    """A stream was opened or has ended."""

    id: str
    kind: str
    camera: str | None
    what: str
    """`opened` or `ended`."""
    reason: str | None
    """Why it ended."""


class Job(Struct):
    """One job: what is to be done, and how far it is."""

    id: str
    state: str
    """`queued`, `running`, `done`, `failed` or `cancelled`."""
    kind: str
    """`video`, `zip`, `directory` or `picture`."""
    name: str
    """The name of the file that was sent in, or the path that was named."""
    model: str
    params: dict[str, Any]
    """What was asked of it, by the names of the request."""
    every: int
    """Of a video, every so many-th frame."""
    done: int
    """Pictures with a result, errors included."""
    failed: int
    """Those whose result is an error."""
    skipped: int
    """What is no picture by its name."""
    total: int | None
    """Null where nobody knows; of a video, what its header promises, until it is done."""
    rate: float | None
    """Pictures per second since it was last taken up; null where nothing can be said yet."""
    eta_seconds: float | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error: str | None
    """Why it failed."""
    note: str | None
    """What one should know of a job that is done, e.g. that the video is cut off."""


class JobResult(Struct, omit_defaults=True):
    """One line of the results: one picture."""

    index: int
    """From 0, without a gap."""
    name: str | None = None
    """Of a picture, its path within the zip or the directory."""
    frame: int | None = None
    """Of a video, the number of the frame, from 0."""
    position_ms: float | None = None
    """Of a video, the time of the frame from the beginning."""
    envelope: Envelope | None = None
    error: str | None = None
    """In place of the envelope: why there is none."""


class Login(Struct, forbid_unknown_fields=True):
    """An API key, shown once."""

    key: str


class Session(Struct):
    """Who the caller is; null where nobody."""

    name: str | None
    scope: str | None
    required: bool
    """Whether a key is needed at all."""
    expires_in_seconds: float | None
    """When the log-in of the page ends; null for a key, and where none is needed."""


class PageLogIn(Struct):
    """The log-in of a page."""

    id: str
    """Tells nothing of its token."""
    name: str
    """Of the key."""
    scope: str
    client: str
    """Where it was begun: an address, of IPv6 its network."""
    since: datetime
    expires_in_seconds: float
    idle_seconds: float
    """Since it was used last."""
    viewers: int
    """Streams that it has open."""
    own: bool
    """Whether it is the caller's."""


class Ended(Struct):
    """How many were ended."""

    ended: int
