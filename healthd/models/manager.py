"""Models loaded once and shared by everybody who names the same one with the same options."""

import copy
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog

from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.errors import BusyError, ModelError, PluginError, SettingsError
from healthd.models.catalog import as_it_is, found, shown_id
from healthd.models.failed_loads import FailedLoad, FailedLoads, worn_out
from healthd.models.model import ModelFamily, ModelOptions, ModelSpec, Prediction
from healthd.models.room import Limits, estimate, refuse_giant, victims
from healthd.models.shared import LoadedModel, SharedModel, again

log = structlog.get_logger(__name__)
_Key = tuple[str, str, ModelOptions]
MOST_STUCK = 4
"""So many hung threads of one model, and it is not loaded again before one comes back."""


class ModelManager:
    """Loads models on first use and shares them. Thread-safe; its calls block and belong on a worker.

    Lives as long as the daemon. A model in use is pinned; one that nobody uses is kept until it makes room for another
    (`limits`) or for `idle_unload_seconds` (0: for ever), so that a camera which is restarted finds it loaded. A model
    whose load or prediction hangs longer than `stuck_after_seconds` is left to its thread: the next user gets a fresh
    one.
    """

    def __init__(  # noqa: PLR0913  it stands between the families and the limits of the machine
        self,
        families: Mapping[str, ModelFamily],
        *,
        directory: Path,
        threads: int | None = None,
        cache_directory: Path | None = None,
        cache_max_bytes: int = 0,
        allow_pickle: bool = True,
        limits: Limits | None = None,
        concurrency: int = 1,
        batch_window_seconds: float = 0.0,
        idle_unload_seconds: float = 300.0,
        load_timeout_seconds: float = 120.0,
        failed_load_seconds: float = 10.0,
        room_timeout_seconds: float = 5.0,
        stuck_after_seconds: float = 10.0,
        on_prediction: Callable[[SharedModel, Prediction], None] = lambda _shared, _prediction: None,
        on_batch: Callable[[SharedModel, int], None] = lambda _shared, _size: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.families = families
        self.directory = directory
        self._fixed = (threads, cache_directory, cache_max_bytes, allow_pickle)
        self._limits = limits or Limits()
        self._concurrency = concurrency
        self._batch_window_seconds = batch_window_seconds
        self._idle_unload_seconds = idle_unload_seconds
        self.load_timeout_seconds = load_timeout_seconds
        self._room_timeout_seconds = room_timeout_seconds
        self._stuck_after_seconds = stuck_after_seconds
        self._on_prediction = on_prediction
        self._on_batch = on_batch
        self._clock = clock
        self._views: weakref.WeakSet[ModelManager] = weakref.WeakSet([self])
        self._changed = threading.Condition()
        self._models: dict[_Key, SharedModel] = {}
        self._leaving: list[SharedModel] = []
        """Taken out and not closed yet: their memory is still held."""
        self._given_up: list[SharedModel] = []
        """Hung, and replaced."""
        self._failed = FailedLoads(failed_load_seconds, clock)
        self.counts: Counter[tuple[str, str]] = Counter()
        """Loads by outcome and unloads by reason."""

    def patient(self, seconds: float) -> "ModelManager":
        """Return this manager for a user who waits so long, not longer, for its turn and for a prediction.

        A shared model is as patient as its most patient user: one camera's short limit gives up no model of another's.
        """
        view = copy.copy(self)  # the models, their lock and the families are the same objects
        view._stuck_after_seconds = seconds  # noqa: SLF001  it is a manager itself
        self._views.add(view)
        return view

    def adapt(
        self,
        *,
        limits: Limits,
        idle_unload_seconds: float,
        load_timeout_seconds: float,
        failed_load_seconds: float,
        room_timeout_seconds: float,
    ) -> None:
        """Take other limits, for what is loaded and asked from now on. Event loop only, as `patient`."""
        self._failed.seconds = failed_load_seconds
        for view in self._views:
            view._limits = limits  # noqa: SLF001
            view._idle_unload_seconds = idle_unload_seconds  # noqa: SLF001
            view.load_timeout_seconds = load_timeout_seconds
            view._room_timeout_seconds = room_timeout_seconds  # noqa: SLF001

    @contextmanager
    def use(self, family: str, model_id: str, options: ModelOptions | None = None) -> Iterator[SharedModel]:
        """Load or share a model for as long as the block lasts; it is loaded and warm when the block begins.

        Raises:
            PluginError: no such family is installed.
            SettingsError, ModelError: what the family raised while loading.
            BusyError: all the room there is for models is in use.
        """
        shared = self.acquire(family, model_id, options)
        with self._changed:
            shared.pins += 1
        try:
            yield shared
        finally:
            with self._changed:
                shared.pins -= 1
            self.release(shared)

    def acquire(self, family: str, model_id: str, options: ModelOptions | None = None) -> SharedModel:
        """Load or share a model, as `use` does; whoever acquires it must `release` it."""
        maker = self.families.get(family)
        if maker is None:
            known = ", ".join(sorted(self.families)) or "none"
            raise PluginError(f"no model family `{family}` is installed (installed: {known})")
        spec = self._spec(model_id, options)
        key = (family, as_it_is(spec), spec.options)
        shared, first, evicted = self._take(key, spec, maker)
        try:
            self._close_all(evicted, reason="room")
            if first:
                self._load(shared, maker)
            else:
                shared.wait_loaded(self.load_timeout_seconds)
        except BaseException as exc:
            self._forget(key, shared, exc if first else None)
            raise
        return shared

    def load(self, family: str, model_id: str, options: ModelOptions) -> None:
        """Load a model for whoever shares it next; raises as `acquire` does, without a path of this machine."""
        try:
            self.release(self.acquire(family, model_id, options))
        except (ModelError, SettingsError) as exc:
            raise again(exc, self._spec(model_id, options)) from exc

    def release(self, shared: SharedModel, *, close_with: Callable[[Callable[[], None]], object] | None = None) -> None:
        """Give back what `acquire`, `share` or `retain` gave.

        `close_with`: calls what may block, if there is need to; None: it is called here.
        """
        with self._changed:
            shared.users -= 1
            shared.last_used = self._clock.monotonic()
            if shared.users == 0 and shared.lost:
                self._drop_lost(shared)
            replaced = shared.users == 0 and shared not in self._models.values()
            if replaced and shared in self._given_up:
                self._given_up.remove(shared)
            self._changed.notify_all()
        if not replaced:
            return
        if close_with is None:
            shared.close()
        else:
            close_with(shared.close)

    def retain(self, shared: SharedModel) -> None:
        """Hold a model that is held already once more."""
        with self._changed:
            shared.users += 1

    def share(
        self, family: str, model_id: str, options: ModelOptions, *, or_pinned: bool = False
    ) -> SharedModel | None:
        """Return a model that is loaded already, to be released as after `acquire`; None: it must be loaded first.

        `or_pinned`: with whatever options a camera has it loaded, if not with these. Does not block.
        """
        with self._changed:
            same = [
                shared
                for (name, _, _), shared in reversed(self._models.items())  # of a file that was replaced, as it is now
                if name == family
                and model_id in shared.names
                and (shared.spec.options == options or (or_pinned and shared.pins))
                and shared.ready
                and not shared.lost
                and shared.stuck_for() <= shared.patience_seconds
            ]
            if not same:
                return None
            shared = next((one for one in same if one.spec.options == options), same[0])
            shared.users += 1
            return shared

    def holds(self, family: str, model_id: str) -> bool:
        """Whether any variant of a model is loaded, or being loaded. Does not block."""
        with self._changed:
            return any(key[0] == family and model_id in model.names for key, model in self._models.items())

    def failure(self, family: str, model_id: str, options: ModelOptions) -> FailedLoad | None:
        """Return how the last load failed, if that was a short while ago. Does not block."""
        with self._changed:
            return self._failed.find(family, model_id, options)

    def forgive(self, family: str, model_id: str) -> None:
        """Forget that loads of this model failed."""
        with self._changed:
            self._failed.forgive(family, model_id)

    def loaded(self) -> tuple[LoadedModel, ...]:
        """Tell what is loaded now."""
        with self._changed:
            models = list(self._models.values())
        return tuple(told for model in models if (told := model.describe()) is not None)

    def is_loading(self, family: str, model_id: str) -> bool:
        """Whether a variant of a model is being loaded now. Does not block."""
        with self._changed:
            same = (model for model in self._models.values() if model.family == family and model_id in model.names)
            return any(not model.settled for model in same)

    def is_current(self, shared: SharedModel) -> bool:
        """Whether others would get this very model; False once it hung, or its process has ended."""
        with self._changed:
            return shared in self._models.values() and not shared.lost

    def unload(self, family: str, model_id: str) -> int | None:
        """Unload every variant of a model; return how many, None (and nothing done) when somebody uses one."""
        with self._changed:
            keys = [key for key, model in self._models.items() if key[0] == family and model_id in model.names]
            if any(self._models[key].users for key in keys):
                return None
            going = [self._models[key] for key in keys]
            self._take_out(going)
        self._close_all(going, reason="asked")
        return len(going)

    def unload_idle(self) -> int:
        """Unload what nobody has used for `idle_unload_seconds` (0: nothing), and what is left of lost processes."""
        with self._changed:
            lost = self._take_out_lost()
        self._close_all(lost, reason="crashed")
        if self._idle_unload_seconds <= 0:
            return 0
        with self._changed:
            used_before = self._clock.monotonic() - self._idle_unload_seconds
            unused = [model for model in self._models.values() if model.users == 0 and model.ready]
            going = [model for model in unused if model.last_used <= used_before]
            self._take_out(going)
        self._close_all(going, reason="idle")
        return len(going)

    def _spec(self, model_id: str, options: ModelOptions | None) -> ModelSpec:
        path = found(model_id, self.directory)
        return ModelSpec(model_id, path, self.directory, options or ModelOptions(), *self._fixed)

    def _take(self, key: _Key, spec: ModelSpec, maker: ModelFamily) -> tuple[SharedModel, bool, list[SharedModel]]:
        """Return the model of that key, whether the caller must load it, and what it must close before it does."""
        wanted = estimate(maker, spec)
        deadline = time.monotonic() + self._room_timeout_seconds
        with self._changed:
            lost = self._take_out_lost()
            while True:
                shared = self._present(key, spec.model_id)
                if shared is not None:
                    shared.users += 1
                    shared.names.add(spec.model_id)
                    shared.patience_seconds = max(shared.patience_seconds, self._stuck_after_seconds)
                    return shared, False, lost
                try:
                    evicted = self._victims(spec.model_id, wanted, room_for=1)
                except BusyError:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise
                    self._changed.wait(left)
                    continue
                self._take_out(evicted)
                shared = self._models[key] = SharedModel(
                    family=key[0],
                    spec=spec,
                    shown=shown_id(spec.model_id, self.directory),
                    clock=self._clock,
                    patience_seconds=self._stuck_after_seconds,
                    concurrency=self._concurrency,
                    batch_window_seconds=self._batch_window_seconds,
                    reserved_bytes=wanted,
                    on_prediction=self._on_prediction,
                    on_batch=self._on_batch,
                )
                shared.users = 1
                return shared, True, [*lost, *evicted]

    def _present(self, key: _Key, model_id: str) -> SharedModel | None:
        """Return the model of that key; one that hangs is left to its thread, one whose process ended to its users.

        Raises:
            WornOutError: too many threads hang in it already.
        """
        shared = self._models.get(key)
        if shared is not None and shared.lost:
            self._drop_lost(shared)
            shared = None
        if shared is not None and shared.stuck_for() > self._limit(shared):
            log.warning("model_stuck", model=shared.shown, seconds=round(shared.stuck_for(), 1))
            del self._models[key]
            self._given_up.append(shared)
            self.counts["unload", "stalled"] += 1
            shared = None
        hung = sum(1 for model in self._given_up if model.family == key[0] and model_id in model.names)
        if shared is None and hung >= MOST_STUCK:
            raise worn_out(hung, model_id)
        return shared

    def _drop_lost(self, shared: SharedModel) -> None:
        """Take a model out whose process has ended; it is closed with its last user."""
        for key in [key for key, model in self._models.items() if model is shared]:
            del self._models[key]
            self.counts["unload", shared.lost or "crashed"] += 1

    def _victims(self, model_id: str, wanted: int, *, room_for: int) -> list[SharedModel]:
        return victims(
            self._limits,
            present=self._models.values(),
            leaving=self._leaving if room_for else (),
            room_for=room_for,
            wanted_bytes=wanted,
            model_id=model_id,
        )

    def _load(self, shared: SharedModel, family: ModelFamily) -> None:
        going: list[SharedModel] = []

        def admit() -> None:
            """Make room for what it takes beyond what was set aside for it."""
            refuse_giant(self._limits, shared.memory_bytes, shared.shown)
            if shared.memory_bytes > shared.reserved_bytes:
                with self._changed:
                    going.extend(self._victims(shared.shown, 0, room_for=0))
                    self._take_out(going)

        log.info("model_loading", model=shared.shown, family=shared.family)
        shared.load(family, admit=admit)
        self._close_all(going, reason="room")
        self.counts["load", "ok"] += 1
        log.info("model_loaded", model=shared.shown, task=shared.task, seconds=round(shared.load_seconds, 3))

    def _forget(self, key: _Key, shared: SharedModel, error: BaseException | None) -> None:
        """Take back what `_take` gave to somebody who could not get the model; `error`: its load failed with that."""
        with self._changed:
            shared.users -= 1
            if error is not None:
                self.counts["load", "failed"] += 1
                self._failed.note(shared.family, shared.spec, error)
                if self._models.get(key) is shared:
                    del self._models[key]
            if shared.users == 0 and shared in self._given_up:
                self._given_up.remove(shared)
            self._changed.notify_all()

    def _take_out_lost(self) -> list[SharedModel]:
        """Take out what is left of models whose process has ended while nobody used them."""
        lost = [model for model in self._models.values() if model.users == 0 and model.lost]
        self._take_out(lost)
        return lost

    def _take_out(self, going: list[SharedModel]) -> None:
        """Take models out of the house; they hold their place and their memory until they are closed."""
        for key in [key for key, model in self._models.items() if model in going]:
            del self._models[key]  # in place: `patient` managers have the same one
        self._leaving += going

    def _close_all(self, going: list[SharedModel], *, reason: str) -> None:
        for shared in going:
            why = shared.lost or reason
            log.info("model_unloaded", model=shared.shown, reason=why)
            try:
                shared.close()
            except Exception as exc:  # noqa: BLE001  one that will not go must not keep the others
                log.warning("model_close_failed", model=shared.shown, error=repr(exc))
            with self._changed:
                self.counts["unload", why] += 1
                if shared in self._leaving:
                    self._leaving.remove(shared)
                self._changed.notify_all()

    def _limit(self, shared: SharedModel) -> float:
        return shared.patience_seconds if shared.settled else self.load_timeout_seconds
