"""One loaded model as all its users share it."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import structlog

from healthd.clock import Clock
from healthd.errors import (
    BusyError,
    LoadError,
    ModelCrashed,
    ModelError,
    ModelLost,
    ParameterError,
    SettingsError,
    StalledError,
)
from healthd.frames import Image
from healthd.models.batches import Ask, Batches
from healthd.models.catalog import without_paths
from healthd.models.envelope import checked
from healthd.models.isolated import IsolatedModel
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelSpec, Prediction
from healthd.models.turns import GRACE_SECONDS, LEAD, Rank, Turn, Turns, allowed, captured, patience, sent_in

log = structlog.get_logger(__name__)
_TICK_SECONDS = 0.001
_WAITED_SHARE = 0.25
"""Of a prediction's time, at most, may have been spent in line."""


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
    classes: int = 0
    waiting: int = 0
    """Requests in its queue."""
    batch_size: int = 1
    """Images that it takes at a time at most."""
    variant: Mapping[str, Any] = field(default_factory=dict)
    """The options it was loaded with, where they are not the family's own choice."""
    shown: str = ""
    """Its id as people see it."""
    names: frozenset[str] = frozenset()
    """Every id under which somebody asked for it."""


class SharedModel:
    """A loaded model as its users see it: its predictions go in turn. Lives as long as somebody uses it."""

    def __init__(  # noqa: PLR0913  one slice of the settings, given by the manager alone
        self,
        *,
        family: str,
        spec: ModelSpec,
        clock: Clock,
        patience_seconds: float,
        shown: str = "",
        concurrency: int = 1,
        batch_window_seconds: float = 0.0,
        reserved_bytes: int = 0,
        on_prediction: Callable[["SharedModel", Prediction], None] = lambda _shared, _prediction: None,
        on_batch: Callable[["SharedModel", int], None] = lambda _shared, _size: None,
    ) -> None:
        self.family = family
        self.spec = spec
        self.shown = shown or spec.model_id
        """Its id as people see it: no path of this machine, no secret."""
        self.names = {spec.model_id}
        """Every id under which somebody asked for it."""
        self.users = 0
        self.pins = 0
        """Users that keep it for long: cameras."""
        self.seats = 0
        """Requests that have a place in its queue; event loop only."""
        self.predictions = 0
        self.load_seconds = 0.0
        self.last_used = clock.monotonic()
        self.patience_seconds = patience_seconds
        """How long its most patient user waits for a turn, and for a prediction."""
        self.reserved_bytes = reserved_bytes
        """Memory that was set aside for it before it was loaded; its own account counts afterwards."""
        self.turns = Turns(window_seconds=batch_window_seconds, now=clock.monotonic)
        self._concurrency = concurrency
        self._clock = clock
        self._on_prediction = on_prediction
        self._on_batch = on_batch
        self._batches = Batches(self.shown)
        self._counting = threading.Lock()
        self._begun = clock.monotonic()
        self._ready = threading.Event()
        self._model: Model | None = None
        self._error: BaseException | None = None
        self._task, self._labels = "", dict[int, str]()
        self._memory_bytes: int | None = None

    @property
    def task(self) -> str:
        """What the model does, e.g. `pose`."""
        self._loaded()
        return self._task

    @property
    def labels(self) -> Mapping[int, str]:
        """Names of its classes by class id."""
        self._loaded()
        return self._labels

    @property
    def ready(self) -> bool:
        """Whether it is loaded and warm."""
        return self._model is not None

    @property
    def lost(self) -> Literal["stalled", "crashed"] | None:
        """Why its process has ended, which nobody asked for; None: it lives, or has none of its own."""
        model = self._model
        if not isinstance(model, IsolatedModel) or not model.lost:
            return None
        return "stalled" if model.stalled else "crashed"

    @property
    def settled(self) -> bool:
        """Whether its load has ended, well or badly."""
        return self._ready.is_set()

    @property
    def memory_bytes(self) -> int:
        """About how much memory it holds, or will hold. As the model said when it was asked last, on its own thread."""
        return self.reserved_bytes if self._memory_bytes is None else self._memory_bytes

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Wait for this camera's turn and predict.

        Raises:
            StalledError: there was no turn, or no answer, in time; whoever uses a model that hangs anew gets another.
            ModelCrashed, ModelLost: its process has ended, and this camera is to blame, or is not.
            ModelError: the model cannot predict on this image.
        """
        self._loaded()
        seconds, who = min(patience.get(), self.patience_seconds), threading.get_ident()  # each camera has a thread
        deadline = time.monotonic() + seconds
        turn = self.turns.enter(Rank.CAMERA, since=captured.get(), who=who, ask=Ask(image, params))
        try:
            self._wait_turn(turn, seconds)
            left = deadline - time.monotonic()
            # Who waited in line is waited for no longer on that account, as far as that is fair to the model.
            allowed.set(max(left, (1 - _WAITED_SHARE) * seconds) if seconds == self.patience_seconds else seconds)
            return self._predict_or_wait(turn, left)
        except ModelCrashed as exc:
            if exc.sent_in:
                raise ModelLost(str(exc)) from None
            raise
        finally:
            self.last_used = self._clock.monotonic()
            self.turns.leave(turn)

    def predict_in_turn(self, turn: Turn) -> Prediction:
        """Predict for a request whose turn it is, and end the turn. What it wants is an `Ask`, given with the turn.

        Raises:
            ParameterError: it cannot do what is asked; anything else: what the model raised.
        """
        allowed.set(self.patience_seconds)
        try:
            # Who is led waits a little longer than who leads: it is to hear how the prediction ended.
            return self._predict_or_wait(turn, self.patience_seconds + GRACE_SECONDS / 2)
        except SettingsError as exc:
            raise ParameterError(str(exc)) from exc
        finally:
            self.last_used = self._clock.monotonic()
            self.turns.leave(turn)

    def stuck_for(self) -> float:
        """Seconds that the load or the longest prediction in hand has taken so far; 0.0: nothing is in hand."""
        since = self.turns.busy_since if self._ready.is_set() else self._begun
        return 0.0 if since is None else self._clock.monotonic() - since

    def load(self, family: ModelFamily, *, admit: Callable[[], object] = lambda: None) -> None:
        """Load and warm up; what goes wrong is raised to everybody who waits.

        `admit` is called when its memory is known, before anybody may use it; what it raises ends the load.
        """
        begun = self._clock.monotonic()
        try:
            self._model = self._loaded_by(family, admit)
        except BaseException as exc:  # a library that calls sys.exit() must not leave a model that never comes
            self._error = exc
            raise
        finally:
            self.last_used = self._clock.monotonic()
            self.load_seconds = self.last_used - begun
            self._ready.set()

    def _loaded_by(self, family: ModelFamily, admit: Callable[[], object]) -> Model:
        model = warm_model(family, self.spec)
        try:
            self._task, self._labels = str(model.task), dict(model.labels)
            self._memory_bytes = _memory_of(model)
            self.turns.concurrency = max(1, min(self._concurrency, model.concurrency))
            self.turns.batch_size = max(1, model.batch_size)
            admit()
        except BaseException:
            _close_quietly(model, self.spec)
            raise
        return model

    def wait_loaded(self, timeout_seconds: float) -> None:
        """Wait for a load that somebody else has begun; raise what it raised."""
        if not self._ready.wait(timeout_seconds):
            raise ModelError(f"{self.spec.model_id} was not loaded within {timeout_seconds:g} s")
        if self._error is not None:
            raise again(self._error, self.spec) from self._error

    def describe(self) -> LoadedModel | None:
        """Tell about the model; None when it is not loaded, or not any more."""
        if self._model is None or self.lost:
            return None
        return LoadedModel(
            model_id=self.spec.model_id,
            family=self.family,
            task=self._task,
            users=self.users,
            predictions=self.predictions,
            load_seconds=self.load_seconds,
            memory_bytes=self._memory_bytes,
            last_used_age_seconds=self._clock.monotonic() - self.last_used,
            classes=len(self._labels),
            waiting=self.turns.waiting,
            batch_size=self.turns.batch_size,
            variant=self.spec.options.model_dump(exclude_defaults=True),
            shown=self.shown,
            names=frozenset(self.names),
        )

    def close(self) -> None:
        """Give the model back; nobody uses it any more."""
        model, self._model = self._model, None
        if model is not None:
            model.close()

    def _wait_turn(self, turn: Turn, seconds: float) -> None:
        """Wait so long for a turn, but no longer than whoever is inside may take: all leave a model that hangs."""
        deadline = time.monotonic() + seconds
        while True:
            left, inside = deadline - time.monotonic(), self.patience_seconds - self.stuck_for()
            if turn.wait(max(0.0, min(left, inside + _TICK_SECONDS))):
                return
            if (stuck := self.stuck_for()) > self.patience_seconds or self.lost == "stalled":
                raise StalledError(f"predictor stalled: {self.spec.model_id} has not answered for {stuck:.1f} s")
            if time.monotonic() >= deadline:
                raise StalledError(f"predictor stalled: {self.spec.model_id} is busy, no turn within {seconds:g} s")

    def _predict_or_wait(self, turn: Turn, seconds: float) -> Prediction:
        """Return the prediction of whoever leads the turn; predict if that is the caller."""
        if turn.answer is not None:
            try:
                said: Any = turn.answer.result(timeout=max(0.0, seconds))
            except TimeoutError:
                raise StalledError(f"predictor stalled: no prediction within {self.patience_seconds:g} s") from None
            if said is not LEAD:
                prediction: Prediction = said
                return prediction
        led = self.turns.begin(turn)
        sent_in.set(any(one.rank is Rank.REQUEST for one in (turn, *led)))
        if self.turns.batch_size > 1:
            self._on_batch(self, 1 + len(led))
        if led:
            return self._predict_together(turn, led)
        model = self._loaded()
        prediction = self._taken(model.predict(turn.ask.image, turn.ask.params), turn.ask)
        self._memory_bytes = _memory_of(model)
        return prediction

    def _predict_together(self, leader: Turn, led: Sequence[Turn]) -> Prediction:
        """Predict for all of them and give each of those led its answer, whatever happens."""
        model, mine = self._loaded(), Future[Prediction]()
        open_answers = [mine, *(turn.answer for turn in led if turn.answer is not None)]
        asks = [leader.ask, *(turn.ask for turn in led)]
        try:
            for ask, said in zip(asks, self._batches.answers(model, asks), strict=True):
                answer = open_answers.pop(0)
                try:
                    answer.set_result(self._taken(said, ask))
                except Exception as exc:  # noqa: BLE001  it is raised to the caller whose image it is
                    answer.set_exception(exc)
        finally:  # a library that calls sys.exit() must not leave anybody waiting
            for answer in open_answers:
                answer.set_exception(ModelError(f"{self.spec.model_id} gave its batch up"))
        self._memory_bytes = _memory_of(model)
        return mine.result()

    def _taken(self, answer: object, ask: Ask) -> Prediction:
        """Return what the model said, checked, completed and counted; raise it where it is an exception."""
        if isinstance(answer, Exception):
            raise answer
        said = checked(answer, self.shown, most=ask.params.max_det)
        prediction = _with_facts(said, self._task, ask.image)
        with self._counting:
            self.predictions += 1
        self._on_prediction(self, prediction)
        return prediction

    def _loaded(self) -> Model:
        if self._model is None:
            raise ModelError(f"{self.spec.model_id} is not loaded")
        return self._model


def again(error: BaseException, spec: ModelSpec) -> ModelError | SettingsError:
    """Return an error of a load for somebody else who asks for the same; it names no path of this machine."""
    told = without_paths(str(error) or repr(error), spec)
    if isinstance(error, BusyError):
        return BusyError(told, retry_after_seconds=error.retry_after_seconds)
    for kind in (ParameterError, SettingsError, LoadError, ModelError):
        if isinstance(error, kind):
            return kind(told)
    return LoadError(f"{type(error).__name__}: {told}")


def _with_facts(prediction: Prediction, task: str, image: Image) -> Prediction:
    """Return the prediction with the facts that every envelope has, whatever the family forgot."""
    facts = {"task": task, "width": image.shape[1], "height": image.shape[0]}
    if all(key in prediction.metadata for key in facts):
        return prediction
    return replace(prediction, metadata={**facts, **prediction.metadata})


def warm_model(family: ModelFamily, spec: ModelSpec) -> Model:
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
        _close_quietly(model, spec)
        raise
    return model


def _close_quietly(model: Model, spec: ModelSpec) -> None:
    try:
        model.close()
    except Exception as exc:  # noqa: BLE001  why it was not taken is what people must read
        log.warning("model_close_failed", model=spec.model_id, error=repr(exc))


def _memory_of(model: Model) -> int | None:
    try:
        return model.memory_bytes
    except Exception:  # noqa: BLE001  whoever asks for the state of the daemon gets it
        return None
