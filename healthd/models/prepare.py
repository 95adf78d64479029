"""What `healthd models prepare` asks of a family, how it hears of the progress, and what it gets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRequest:
    """What somebody wants a model to become."""

    format: str = "auto"
    """As the family names it; `auto`: whichever is best on this machine."""
    int8: bool = False
    """Quantize weights and activations."""
    calibration: Path | None = None
    """A folder of pictures, or a clip, like those that the model will see."""
    imgsz: int | None = None
    """Side of the network's input in pixels; the model's own when absent."""
    output: str | None = None
    """Name of the result in `models.directory`; the family's own choice when absent."""
    force: bool = False
    """Replace what is there, and put a result in place that strays too far from the original."""


class PrepareProgress(Protocol):
    """Who wants to know how far it is. Called from one thread."""

    def stage(self, title: str) -> None:
        """Begin a stage, which ends the one before."""

    def advance(self, done: int, total: int) -> None:
        """Tell how much of the stage is done."""


class Speed(BaseModel):
    """How long a prediction takes, everything included."""

    model_config = ConfigDict(frozen=True)

    what: str
    """Engine and precision."""
    ms_per_picture: float


class Parity(BaseModel):
    """How far the results stray from those of the original, over all pictures."""

    model_config = ConfigDict(frozen=True)

    what: str
    asked: int
    """Detections of the original."""
    found: int
    """How many of them were found again."""
    new: int
    """Detections that the original does not have."""
    mean_iou: float | None = None
    lowest_iou: float | None = None
    confidence: float | None = None
    """The largest difference."""
    keypoints_px: float | None = None
    """99 % of the points lie closer together, in pixels of the picture scaled to the network's input."""


class PrepareReport(BaseModel):
    """What was measured. Kept beside the result."""

    model_config = ConfigDict(frozen=True)

    pictures: str
    """What it was measured on."""
    original: Speed
    prepared: tuple[Speed, ...]
    """The last one is what it runs as, unless somebody asks for something else."""
    parity: tuple[Parity, ...]
    beyond: str | None = None
    """Why it strays too far from the original; None: it does not."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedModel:
    """The outcome."""

    path: Path
    """Where it lies; where it would lie, when `report.beyond` kept it from there."""
    in_place: bool
    already: bool
    """It was there before, made from the same file with the same options."""
    size_bytes: int
    original: str
    """The file it was made from."""
    original_bytes: int
    report: PrepareReport
    config: str
    """TOML to put into the configuration."""
