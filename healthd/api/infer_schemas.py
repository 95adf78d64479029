"""Wire shapes of models and of what is asked of them by pictures that are sent in."""

from msgspec import Struct


class Box(Struct):
    """Left, top, right, bottom in pixels of the picture."""

    x1: float
    y1: float
    x2: float
    y2: float


class Seen(Struct):
    """One object in the picture."""

    label: str
    confidence: float
    bbox: Box


class Detections(Struct):
    """What was seen, most confident first."""

    count: int
    detections: list[Seen]


class ModelInfo(Struct):
    """One model that a request may name."""

    id: str
    family: str
    state: str
    """`available` (loaded on first use), `loading`, `loaded`, or `failed` (the last load; it is tried again later)."""
    reason: str | None
    """Why the last load failed."""
    task: str | None
    """Null while it is not loaded, as the other facts of a loaded model."""
    labels: int | None
    """How many classes it knows."""
    memory_bytes: int | None
    """By its own account; of all its loaded variants."""
    load_seconds: float | None
    batch_size: int | None
    """Pictures that it takes at a time at most."""
    predictions: int
    """Since it was loaded."""
    last_used_age_seconds: float | None
    users: int
    """Cameras and requests that hold it now."""
    waiting: int
    """Requests in its queue."""
    cameras: list[str]
    """The configured cameras that use it."""
    pinned: bool
    """Whether the configuration keeps it loaded."""


class Labels(Struct):
    """The classes that a model knows."""

    model: str
    labels: dict[int, str]
    """Names by class id."""


class Unloaded(Struct):
    """What was given back."""

    id: str
    unloaded: int
    """Loaded variants of the model; 0: it was not loaded."""
