"""Where every frame went. The sum closes at any moment: read = predicted + dropped{reason} + in hand."""

from collections import Counter
from enum import StrEnum

from healthd.frames import Decoded


class Drop(StrEnum):
    """Why a frame was seen by no predictor, or by one that failed."""

    BACKLOG = "backlog"
    """Older than live: it had waited in a buffer of the camera or the network."""
    REPLACED = "replaced"
    """A newer frame came before the predictor was free."""
    NO_MODEL = "no_model"
    """Nobody analyses this camera."""
    UNSEEN = "unseen"
    """Nobody wanted it, neither a viewer nor the model: its pixels were never made."""
    STILL = "still"
    """Nothing moved in it, and the camera is predicted by motion."""
    FAILED = "failed"
    """The model raised or hung on it."""
    LOST = "lost"
    """The camera was lost, paused or stopped before the predictor was free."""
    INVALID = "invalid"
    """The plugin returned something that is no image, or a JPEG whose pixels cannot be made."""


class FrameCounts:
    """Counts of one camera since the process began. Event loop only; but `decoded` is told on any thread."""

    def __init__(self, decoded: Decoded = lambda _seconds, _ok: None) -> None:
        self.decoded = decoded
        """Told of each JPEG of the camera whose pixels were made."""
        self.read = 0
        self.predicted = 0
        self.in_hand = 0
        self.predict_seconds = 0.0
        """What all predictions together took, waiting for a shared model included."""
        self.dropped: Counter[str] = Counter({reason.value: 0 for reason in Drop})

    def came(self) -> None:
        """One image was delivered; it is in hand until it is predicted or dropped."""
        self.read += 1
        self.in_hand += 1

    def predict(self) -> None:
        """One frame in hand got its prediction."""
        self.in_hand -= 1
        self.predicted += 1

    def drop(self, reason: Drop) -> None:
        """One frame in hand will get no prediction."""
        self.in_hand -= 1
        self.dropped[reason.value] += 1
