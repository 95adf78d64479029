"""One path for every picture that is sent in: a place in the model's queue, a turn, a prediction.

A request asks for a place first and brings its picture then: a queue that is full refuses before anything is decoded.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from healthd.frames import Image
from healthd.models.catalog import Entry
from healthd.models.model import InferenceParams, Prediction
from healthd.models.shared import SharedModel


class Seat:
    """A place in the queue of a loaded model. Lives as long as the `seat` block that gave it; event loop only."""

    entry: Entry
    model: SharedModel
    """Loaded: has `task` and `labels`."""

    async def predict(self, image: Image) -> Prediction:
        """Wait for a turn and predict, with the parameters of the seat.

        Cancelled before the turn came, it leaves the queue and nothing is computed.

        Raises:
            BusyError: no turn came within `models.queue_timeout_seconds` of taking the seat.
            ParameterError: the model cannot do what the parameters ask.
            PredictError: the model failed on this picture.
        """
        raise NotImplementedError


class Inference:
    """What answers requests with the models that the cameras use too. Lives as long as the daemon; event loop only."""

    @asynccontextmanager
    async def seat(self, model_id: str | None, params: InferenceParams, *, queued: bool = True) -> AsyncIterator[Seat]:
        """Find the model, load it if need be, and take a place in its queue.

        `queued`: False for callers that bound their own number (a WebSocket, a job: one picture at a time each); they
        take turns like the others and do not count against `models.queue_size`.

        Raises:
            UnknownModelError, ParameterError: as the words say.
            LoadError: it cannot be loaded.
            BusyError: its queue is full, or there is no room to load it.
        """
        if not model_id:
            raise NotImplementedError
        yield Seat()

    async def entries(self) -> Sequence[Entry]:
        """Return all models that a request may name."""
        raise NotImplementedError

    async def labels(self, model_id: str | None) -> tuple[Entry, dict[int, str]]:
        """Return the labels of a model; loads it if need be. Raises as `seat` does."""
        raise NotImplementedError

    async def load(self, model_id: str) -> Entry:
        """Load a model now, also when its last load has just failed. Raises as `seat` does."""
        raise NotImplementedError

    async def unload(self, model_id: str) -> int:
        """Unload a model; return how many variants of it were loaded.

        Raises:
            UnknownModelError: there is none of that name.
            InUseError: a camera or a request holds it.
        """
        raise NotImplementedError
