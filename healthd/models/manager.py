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
        self._error: Exception | None = None

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
            model = family.load(self.spec)
            model.warm_up()
        except Exception as exc:
            self._error = exc
            raise
        else:
            self._model = model
            self.load_seconds = self._clock.monotonic() - begun
            self.last_used = self._clock.monotonic()
        finally:
            self._ready.set()

    def wait_loaded(self, timeout_seconds: float) -> None:
        """Wait for a load that somebody else has begun; raise what it raised."""
        if not self._ready.wait(timeout_seconds):
            raise ModelError(f"{self.spec.model_id} was not loaded within {timeout_seconds:g} s")
        if self._error is not None:
            kind = SettingsError if isinstance(self._error, SettingsError) else ModelError
            raise kind(str(self._error) or repr(self._error)) from self._error

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

    Lives as long as the daemon. A model that nobody uses is kept for `idle_unload_seconds`, so that a camera which is
    restarted finds it loaded. A model whose load or prediction hangs longer than `stuck_after_seconds` is left to its
    thread: the next user gets a fresh one.
    """

    def __init__(
        self,
        families: Mapping[str, ModelFamily],
        *,
        directory: Path,
        idle_unload_seconds: float = 300.0,
        load_timeout_seconds: float = 120.0,
        stuck_after_seconds: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._families = families
        self._directory = directory
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
            models = [model for model in self._models.values() if model.ready]
        return tuple(self._describe(model) for model in models)

    def unload_idle(self) -> int:
        """Unload what nobody has used for long enough; return how many."""
        now = self._clock.monotonic()
        with self._lock:
            idle = [
                key
                for key, model in self._models.items()
                if model.users == 0 and model.ready and now - model.last_used >= self._idle_unload_seconds
            ]
            gone = [self._models.pop(key) for key in idle]
        for model in gone:
            model.close()
            log.info("model_unloaded", model=model.spec.model_id)
        return len(gone)

    def resolve(self, model_id: str) -> Path | None:
        """Find the file or folder of a model: a path as it is, else a name in the models directory."""
        given = Path(model_id).expanduser()
        for candidate in (given, self._directory / given):
            if candidate.exists():
                return candidate.resolve()
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
                spec = ModelSpec(model_id=model_id, path=path, directory=self._directory, options=options)
                shared = self._models[key] = SharedModel(
                    family=family_name, spec=spec, clock=self._clock, turn_timeout_seconds=self._stuck_after_seconds
                )
            shared.users += 1
        try:
            if first:
                self._load(shared, family)
            else:
                shared.wait_loaded(self.load_timeout_seconds)
        except Exception:
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

    def _release(self, shared: SharedModel) -> None:
        with self._lock:
            shared.users -= 1
            replaced = shared.users == 0 and shared not in self._models.values()
        if replaced:
            shared.close()

    def _limit(self, shared: SharedModel) -> float:
        return self._stuck_after_seconds if shared.ready else self.load_timeout_seconds

    def _describe(self, model: SharedModel) -> LoadedModel:
        return LoadedModel(
            model_id=model.spec.model_id,
            family=model.family,
            task=model.task,
            users=model.users,
            predictions=model.predictions,
            load_seconds=model.load_seconds,
            memory_bytes=model._loaded().memory_bytes,  # noqa: SLF001  same file, same owner
            last_used_age_seconds=self._clock.monotonic() - model.last_used,
        )
