"""Models loaded once and shared by everybody who names the same one with the same options."""

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog

from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.errors import PluginError
from healthd.models.model import ModelFamily, ModelOptions, ModelSpec
from healthd.models.shared import LoadedModel, SharedModel

log = structlog.get_logger(__name__)
_Key = tuple[str, str, ModelOptions]


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

    def patient(self, seconds: float) -> "ModelManager":
        """Return this manager for a user who waits so long, not longer, for its turn and for a prediction.

        A shared model is as patient as its most patient user: one camera's short limit gives up no model of another's.
        """
        view = copy.copy(self)  # the models, their lock and the families are the same objects
        view._stuck_after_seconds = seconds  # noqa: SLF001  it is a manager itself
        return view

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
                    family=family_name, spec=spec, clock=self._clock, patience_seconds=self._stuck_after_seconds
                )
            shared.users += 1
            shared.patience_seconds = max(shared.patience_seconds, self._stuck_after_seconds)
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
        return shared.patience_seconds if shared.ready else self.load_timeout_seconds
