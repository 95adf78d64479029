"""Models loaded once and shared by everybody who names the same one with the same options."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.errors import ModelError, PluginError, SettingsError
from healthd.frames import Image
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelOptions, ModelSpec, Prediction

log = structlog.get_logger(__name__)
_Key = tuple[str, str, ModelOptions]


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

    def __init__(self, *, family: str, spec: ModelSpec, clock: Clock, turn_timeout_seconds: float) -> None:
        self.family = family
        self.spec = spec
        self.users = 0
        self.predictions = 0
        self.load_seconds = 0.0
        self.last_used = clock.monotonic()
        self._clock = clock
        self._turn_timeout_seconds = turn_timeout_seconds
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
        if not self._turn.acquire(timeout=self._turn_timeout_seconds):
            raise ModelError(f"{self.spec.model_id} is busy: no turn within {self._turn_timeout_seconds:g} s")
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


class ModelManager:
    """Loads models on first use and shares them. Thread-safe; its calls block and belong on a worker.

    Lives as long as the daemon. A model that nobody uses is kept for `idle_unload_seconds` (0: for ever), so that a
    camera which is restarted finds it loaded. A model whose load or prediction hangs longer than
    `stuck_after_seconds` is left to its thread: the next user gets a fresh one.
    """

    def __init__(
        self,
        families: Mapping[str, ModelFamily],
        *,
        directory: Path,
        threads: int | None = None,
        idle_unload_seconds: float = 300.0,
        load_timeout_seconds: float = 120.0,
        stuck_after_seconds: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._families = families
        self._directory = directory
        self._threads = threads
        self._idle_unload_seconds = idle_unload_seconds
        self.load_timeout_seconds = load_timeout_seconds
        self._stuck_after_seconds = stuck_after_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._models: dict[_Key, SharedModel] = {}

    @contextmanager
    def use(self, family: str, model_id: str, options: ModelOptions | None = None) -> Iterator[SharedModel]:
        """Load or share a model for as long as the block lasts; it is loaded and warm when the block begins.

        Raises:
            PluginError: no such family is installed.
            SettingsError, ModelError: what the family raised while loading.
        """
        shared = self._acquire(family, model_id, options or ModelOptions())
        try:
            yield shared
        finally:
            self._release(shared)

    def loaded(self) -> tuple[LoadedModel, ...]:
        """Tell what is loaded now."""
        with self._lock:
            models = list(self._models.values())
        told = [model.describe() for model in models]
        return tuple(model for model in told if model is not None)

    def unload_idle(self) -> int:
        """Unload what nobody has used for `idle_unload_seconds` (0: nothing, ever); return how many."""
        number = 0
        while (idle := self._take_idle()) is not None:
            number += 1
            log.info("model_unloaded", model=idle.spec.model_id)
            try:
                idle.close()
            except Exception as exc:  # noqa: BLE001  one that will not go must not keep the others
                log.warning("model_close_failed", model=idle.spec.model_id, error=repr(exc))
        return number

    def resolve(self, model_id: str) -> Path | None:
        """Find the file or folder of a model: a path as it is, else a name in the models directory."""
        if not model_id:
            return None
        try:
            given = Path(model_id).expanduser()
            for candidate in (given, self._directory / given):
                if candidate.exists():
                    return candidate.resolve()
        except (OSError, RuntimeError, ValueError):  # no name of a file: too long, `~nobody`, a NUL
            return None
        return None

    def _acquire(self, family_name: str, model_id: str, options: ModelOptions) -> SharedModel:
        family = self._families.get(family_name)
        if family is None:
            known = ", ".join(sorted(self._families)) or "none"
            raise PluginError(f"no model family `{family_name}` is installed (installed: {known})")
        path = self.resolve(model_id)
        key = (family_name, str(path) if path else model_id, options)
        with self._lock:
            shared = self._models.get(key)
            if shared is not None and shared.stuck_for() > self._limit(shared):
                log.warning("model_stuck", model=model_id, seconds=round(shared.stuck_for(), 1))
                shared = None
            first = shared is None
            if shared is None:
                spec = ModelSpec(model_id, path, self._directory, options, self._threads)
                shared = self._models[key] = SharedModel(
                    family=family_name, spec=spec, clock=self._clock, turn_timeout_seconds=self._stuck_after_seconds
                )
            shared.users += 1
        try:
            if first:
                self._load(shared, family)
            else:
                shared.wait_loaded(self.load_timeout_seconds)
        except BaseException:
            with self._lock:
                shared.users -= 1
                if self._models.get(key) is shared and not shared.ready:
                    del self._models[key]
            raise
        return shared

    def _load(self, shared: SharedModel, family: ModelFamily) -> None:
        log.info("model_loading", model=shared.spec.model_id, family=shared.family)
        shared.load(family)
        log.info("model_loaded", model=shared.spec.model_id, task=shared.task, seconds=round(shared.load_seconds, 3))

    def _take_idle(self) -> SharedModel | None:
        """Take out one model that nobody has used for long enough."""
        if self._idle_unload_seconds <= 0:
            return None
        now = self._clock.monotonic()
        with self._lock:
            for key, model in self._models.items():
                if model.users == 0 and model.ready and now - model.last_used >= self._idle_unload_seconds:
                    return self._models.pop(key)
        return None

    def _release(self, shared: SharedModel) -> None:
        with self._lock:
            shared.users -= 1
            shared.last_used = self._clock.monotonic()
            replaced = shared.users == 0 and shared not in self._models.values()
        if replaced:
            shared.close()

    def _limit(self, shared: SharedModel) -> float:
        return self._stuck_after_seconds if shared.ready else self.load_timeout_seconds


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
