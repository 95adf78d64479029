"""Wire shapes of what the panel shows beyond cameras and models: settings, history, the log."""

from datetime import datetime
from typing import Any

from msgspec import Struct


class Setting(Struct):
    """One setting as it is in effect."""

    key: str
    """As in the reference, e.g. `cameras.gym.url`."""
    value: Any
    """Without secrets."""
    source: str
    """`file`, `environment`, `command` (the command line) or `default`."""
    name: str | None
    """Of the file, the variable, or the word on the command line; null for a default."""


class HistoryPoint(Struct):
    """One camera at one moment."""

    id: int
    """Grows by one with every point; the same for all cameras."""
    at: datetime
    state: str
    fps: float
    predicted_fps: float
    predict_ms: float | None
    """Mean of the predictions since the point before, waiting for a shared model included; null without any."""
    frame_age_ms: float | None
    """Null without a frame."""
    dropped: dict[str, int]
    """Frames dropped since the point before, by reason."""


class History(Struct):
    """The last minutes of one camera."""

    camera: str
    interval_seconds: float
    points: list[HistoryPoint]
    """The oldest first."""


class LogLine(Struct):
    """One line of the log, without secrets."""

    id: int
    """Grows with every line; begins anew with the process."""
    at: str
    """RFC 3339, UTC."""
    level: str
    event: str
    logger: str | None
    camera: str | None
    fields: dict[str, Any]
    """All other fields of the event, by name."""
