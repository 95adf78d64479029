"""One loaded model as all its users share it."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from healthd.clock import Clock
from healthd.errors import ModelError, SettingsError
from healthd.frames import Image
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelSpec, Prediction

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What can be told of one loaded model."""

    model_id: str
    family: str
    task: str
    users: int
    predictions: int
    load_seconds: float
    memory_bytes: int | None
    last_used_age_seconds: float


class SharedModel:
    """A loaded model as its users see it: one prediction at a time, in turn. Lives as long as somebody uses it."""

    def __init__(self, *, family: str, spec: ModelSpec, clock: Clock, patience_seconds: float) -> None:
        self.family = family
        self.spec = spec
        self.users = 0
        self.predictions = 0
        self.load_seconds = 0.0
        self.last_used = clock.monotonic()
        self._clock = clock
        self.patience_seconds = patience_seconds
        """How long its most patient user waits for a turn, and for a prediction."""
        self._turn = threading.Lock()
        self._busy_since: float | None = None
        self._begun = clock.monotonic()
        self._ready = threading.Event()
        self._model: Model | None = None
        self._error: BaseException | None = None

    @property
    def task(self) -> str:
        """What the model does, e.g. `pose`."""
        return self._loaded().task

    @property
    def labels(self) -> Mapping[int, str]:
        """Names of its classes by class id."""
        return self._loaded().labels

    @property
    def ready(self) -> bool:
        """Whether it is loaded and warm."""
        return self._model is not None

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Wait for this caller's turn and predict.

        Raises:
            ModelError: the turn did not come in time, or the model cannot predict on this image.
        """
        model = self._loaded()
        if not self._turn.acquire(timeout=self.patience_seconds):
            raise ModelError(f"{self.spec.model_id} is busy: no turn within {self.patience_seconds:g} s")
        try:
            self._busy_since = self._clock.monotonic()
            prediction = model.predict(image, params)
            self.predictions += 1
            return prediction
        finally:
            self._busy_since = None
            self.last_used = self._clock.monotonic()
            self._turn.release()

    def stuck_for(self) -> float:
        """Seconds that the load or the prediction in hand has taken so far; 0.0 when nothing is in hand."""
        since = self._busy_since if self._ready.is_set() else self._begun
        return 0.0 if since is None else self._clock.monotonic() - since

    def load(self, family: ModelFamily) -> None:
        """Load and warm up; what goes wrong is raised to everybody who waits."""
        begun = self._clock.monotonic()
        try:
            self._model = _warm_model(family, self.spec)
        except BaseException as exc:  # a library that calls sys.exit() must not leave a model that never comes
            self._error = exc
            raise
        finally:
            self.last_used = self._clock.monotonic()
            self.load_seconds = self.last_used - begun
            self._ready.set()

    def wait_loaded(self, timeout_seconds: float) -> None:
        """Wait for a load that somebody else has begun; raise what it raised."""
        if not self._ready.wait(timeout_seconds):
            raise ModelError(f"{self.spec.model_id} was not loaded within {timeout_seconds:g} s")
        if self._error is not None:
            kind = SettingsError if isinstance(self._error, SettingsError) else ModelError
            raise kind(str(self._error) or repr(self._error)) from self._error

    def describe(self) -> LoadedModel | None:
        """Tell about the model; None when it is not loaded, or not any more."""
        model = self._model
        if model is None:
            return None
        return LoadedModel(
            model_id=self.spec.model_id,
            family=self.family,
            task=model.task,
            users=self.users,
            predictions=self.predictions,
            load_seconds=self.load_seconds,
            memory_bytes=_memory_of(model),
            last_used_age_seconds=self._clock.monotonic() - self.last_used,
        )

    def close(self) -> None:
        """Give the model back; nobody uses it any more."""
        model, self._model = self._model, None
        if model is not None:
            model.close()

    def _loaded(self) -> Model:
        if self._model is None:
            raise ModelError(f"{self.spec.model_id} is not loaded")
        return self._model


def _warm_model(family: ModelFamily, spec: ModelSpec) -> Model:
    """Load a model, see that it keeps the contract, and warm it up; one that fails at that is given back."""
    model: object = family.load(spec)
    if not isinstance(model, Model):
        raise TypeError(f"{type(family).__name__}.load returned {type(model).__name__}, not a Model")
    for fact in ("task", "labels"):
        if not hasattr(model, fact):
            raise TypeError(f"{type(model).__name__} does not say its `{fact}`")
    try:
        model.warm_up()
    except BaseException:
        try:
            model.close()
        except Exception as exc:  # noqa: BLE001  why it failed to warm up is what people must read
            log.warning("model_close_failed", model=spec.model_id, error=repr(exc))
        raise
    return model


def _memory_of(model: Model) -> int | None:
    try:
        return model.memory_bytes
    except Exception:  # noqa: BLE001  whoever asks for the state of the daemon gets it
        return None
