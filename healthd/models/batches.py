"""One batch: what several callers ask of one model at once, and what each of them gets."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import structlog

from healthd.errors import HealthdError, ModelCrashed, ModelLost
from healthd.frames import Image
from healthd.models.model import InferenceParams, Model, Prediction

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ask:
    """What one caller wants to know."""

    image: Image
    params: InferenceParams


class Batches:
    """Predicts on several images at once. Lives as long as its model; called by the threads that lead a batch."""

    def __init__(self, shown_id: str) -> None:
        self._shown_id = shown_id
        self._failing = False

    def answers(self, model: Model, asks: Sequence[Ask]) -> Iterator[Prediction | Exception]:
        """Give what the model says to each ask, in their order; an exception is for that caller alone.

        Where the batch as a whole fails, each image is tried by itself.
        """
        begun = perf_counter()
        try:
            said = _said(model, asks)
        except Exception as exc:  # noqa: BLE001  whichever image it was, the others shall have their answer
            self._note(exc, len(asks))
            if isinstance(exc, ModelCrashed | ModelLost):  # nobody is left to try it, and each was in it
                yield from (copy.copy(exc) for _ in asks)
            else:
                yield from (_alone(model, ask) for ask in asks)
            return
        self._note(None, len(asks))
        milliseconds = (perf_counter() - begun) * 1e3
        for answer in said:
            yield _as_part(answer, milliseconds, len(asks)) if isinstance(answer, Prediction) else answer

    def _note(self, error: Exception | None, size: int) -> None:
        """Log when batches begin to fail and when they work again, not each of them."""
        if error is not None and not self._failing:
            log.warning("model_batch_failed", model=self._shown_id, size=size, error=_told(error))
        elif error is None and self._failing:
            log.info("model_batch_recovered", model=self._shown_id, size=size)
        self._failing = error is not None


def _said(model: Model, asks: Sequence[Ask]) -> list[Prediction | Exception]:
    said = list(model.predict_batch([ask.image for ask in asks], [ask.params for ask in asks]))
    if len(said) != len(asks):
        raise TypeError(f"{type(model).__name__}.predict_batch answered {len(said)} of {len(asks)} images")
    return said


def _alone(model: Model, ask: Ask) -> Prediction | Exception:
    try:
        return model.predict(ask.image, ask.params)
    except Exception as exc:  # noqa: BLE001  it is raised to the caller whose image it is
        return exc


def _as_part(prediction: Prediction, milliseconds: float, size: int) -> Prediction:
    metadata = {**prediction.metadata, "batch": size}
    return replace(prediction, inference_time_ms=milliseconds, metadata=metadata)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, HealthdError) else repr(error)
