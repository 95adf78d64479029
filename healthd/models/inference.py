"""One path for every picture that is sent in: a place in the model's queue, a turn, a prediction.

A request asks for a place first and brings its picture then: a queue that is full refuses before anything is decoded.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import structlog

from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.errors import (
    BusyError,
    HealthdError,
    InUseError,
    LoadError,
    ModelCrashed,
    ModelError,
    NotLoadedError,
    ParameterError,
    PredictError,
    StalledError,
    UnknownModelError,
)
from healthd.frames import Image
from healthd.metrics import Metrics, Sample
from healthd.models.batches import Ask
from healthd.models.catalog import Catalog, Entry
from healthd.models.crashes import Crashes
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, ModelFamily, ModelOptions, Prediction
from healthd.models.preloads import Preloads
from healthd.models.shared import SharedModel
from healthd.models.tally import Tally
from healthd.models.turns import GRACE_SECONDS, Rank, Turn
from healthd.worker import NoThreadError, WorkerPool, WorkerTimeout, on_a_thread

log = structlog.get_logger(__name__)
DISK_SECONDS = 5.0
"""How long looking for a model's file may take."""
UNLOAD_SECONDS = 30.0
MOST_HUNG = 8
"""So many threads hang in a disk or a model, and no further one is risked for looking a model up."""
MOST_LEFT = 32
"""So many are in calls whose clients have gone, late or not: neither."""
STOPS = "healthd stops"
_Wish = tuple[str, str, ModelOptions]
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Seat:
    """A place in the queue of a loaded model. Lives as long as the `seat` block that gave it; event loop only."""

    entry: Entry
    model: SharedModel
    """Loaded: has `task` and `labels`."""
    params: InferenceParams
    deadline: float
    """Seconds of the monotonic clock by which its turn must have come."""
    woken: asyncio.Event
    """Set when its turn has come, or will not come."""
    _run: "Callable[[Seat, Turn], Awaitable[Prediction]]" = field(repr=False)
    _clock: Clock = field(repr=False)
    _observe_wait: Callable[[float], object] = field(repr=False)

    def in_time(self) -> asyncio.Timeout:
        """Bound what is done before its turn by the deadline."""
        return asyncio.timeout(max(0.0, self.deadline - self._clock.monotonic()))

    async def predict(self, image: Image) -> Prediction:
        """Wait for a turn and predict, with the parameters of the seat.

        Cancelled before the turn came, it leaves the queue and nothing is computed.

        Raises:
            BusyError: no turn came within `models.queue_timeout_seconds` of taking the seat.
            ParameterError: the model cannot do what the parameters ask.
            PredictError: the model failed on this picture.
        """
        loop = asyncio.get_running_loop()
        begun = self._clock.monotonic()
        turn = self.model.turns.enter(Rank.REQUEST, partial(_wake, loop, self.woken), ask=Ask(image, self.params))
        try:
            async with self.in_time():
                await self.woken.wait()
        except TimeoutError:
            self.model.turns.leave(turn)
            waited = self._clock.monotonic() - begun
            raise BusyError(
                f"{self.entry.model_id} is busy: no turn within {waited:.1f} s (models.queue_timeout_seconds)"
            ) from None
        except BaseException:
            self.model.turns.leave(turn)
            raise
        if turn.granted_at is None:
            self.model.turns.leave(turn)
            raise BusyError(STOPS)
        self._observe_wait(self._clock.monotonic() - begun)
        return await self._run(self, turn)


class Inference:
    """What answers requests with the models that the cameras use too. Lives as long as the daemon; event loop only."""

    def __init__(
        self,
        models: ModelManager,
        catalog: Catalog,
        *,
        metrics: Metrics,
        tally: Tally | None = None,
        queue_size: int = 16,
        queue_timeout_seconds: float = 5.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._models = models
        self.catalog = catalog
        self._metrics = metrics
        self._tally = tally or Tally()
        self._queue_size = queue_size
        self._queue_timeout_seconds = queue_timeout_seconds
        self._clock = clock
        self._pool = WorkerPool("request", patient=True)
        self._crashes = Crashes(clock)
        self._loads: dict[_Wish, asyncio.Task[None]] = {}
        self._found: dict[str, Entry] = {}
        """Models of the directory that were found before."""
        self._preloads = Preloads(models, load=self._loaded_for_good, close_with=on_a_thread)
        self._seats: set[Seat] = set()
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def seat(self, model_id: str | None, params: InferenceParams, *, queued: bool = True) -> AsyncIterator[Seat]:
        """Find the model, load it if need be, and take a place in its queue.

        `queued`: False for callers that bound their own number (a WebSocket, a job: one picture at a time each); they
        take turns like the others and do not count against `models.queue_size`.

        Raises:
            UnknownModelError, ParameterError: as the words say.
            LoadError: it cannot be loaded.
            BusyError: its queue is full, there is no room to load it, or requests broke it too often.
        """
        entry = await self._find(model_id)
        self._crashes.check((entry.family, entry.spec_id))
        shared, waited = await self._held(entry, params)
        try:
            if self._stopping.is_set():
                raise BusyError(STOPS)
            # Those who came before the model was there wait for it together: their number is bounded by their callers.
            if queued and not waited and shared.seats >= shared.turns.places + self._queue_size:
                raise BusyError(
                    f"{entry.model_id} is busy: {self._queue_size} requests wait already (models.queue_size)"
                )
            seat = Seat(
                entry,
                shared,
                params,
                self._clock.monotonic() + self._queue_timeout_seconds,
                asyncio.Event(),
                self._predict,
                self._clock,
                self._metrics.model_wait_seconds.labels(entry.model_id).observe,
            )
            shared.seats += queued
            self._seats.add(seat)
            try:
                yield seat
            finally:
                self._seats.discard(seat)
                shared.seats -= queued
        finally:
            self._models.release(shared, close_with=on_a_thread)

    async def entries(self) -> Sequence[Entry]:
        """Return all models that a request may name."""
        return await self._from_disk(self.catalog.entries)

    async def labels(self, model_id: str | None) -> tuple[Entry, dict[int, str]]:
        """Return the labels of a model that is loaded.

        Raises:
            UnknownModelError: there is none of that name.
            NotLoadedError: it is not loaded. Whoever only looks loads none: that may unload another, or run a pickle.
        """
        entry = await self._find(model_id)
        options = _options(self._models.families[entry.family], InferenceParams())
        shared = self._models.share(entry.family, entry.spec_id, options, or_pinned=True)
        if shared is None:
            raise NotLoadedError(
                f"{entry.model_id} is not loaded: send it a picture, or have an administrator load it "
                f"(POST /api/v1/models/{entry.model_id}/load, models.preload)"
            )
        try:
            return entry, dict(shared.labels)
        finally:
            self._models.release(shared, close_with=on_a_thread)

    async def load(self, model_id: str) -> Entry:
        """Load a model now, also when its last load has just failed. Raises as `seat` does."""
        entry = await self._find(model_id)
        self._crashes.forget((entry.family, entry.spec_id))
        self._models.forgive(entry.family, entry.spec_id)
        shared, _ = await self._held(entry, InferenceParams())
        self._models.release(shared, close_with=on_a_thread)
        return entry

    async def unload(self, model_id: str) -> int:
        """Unload a model; return how many variants of it were loaded.

        Raises:
            UnknownModelError: there is none of that name.
            InUseError: a camera or a request holds it.
        """
        entry = await self._find(model_id)
        unload = partial(self._models.unload, entry.family, entry.spec_id)
        try:
            number = await self._pool.call(unload, timeout=UNLOAD_SECONDS, late="not unloaded yet")
        except WorkerTimeout as exc:
            raise BusyError(str(exc), retry_after_seconds=5) from None
        if number is None:
            who = f"camera {', '.join(entry.cameras)} uses it" if entry.cameras else "a request uses it"
            raise InUseError(f"{entry.model_id} is in use: {'models.preload keeps it' if entry.pinned else who}")
        return number

    def start(self) -> None:
        """Begin to load what the configuration wants loaded from the start, and keep it."""
        self._preloads.keep(self.catalog.pinned)

    def adapt(self, catalog: Catalog, *, queue_size: int, queue_timeout_seconds: float) -> None:
        """Take other limits, and other models that the configuration names; load those it wants loaded, let others go.

        Requests in hand are answered as they were asked.
        """
        self.catalog = catalog
        self._queue_size = queue_size
        self._queue_timeout_seconds = queue_timeout_seconds
        self._found.clear()
        self._preloads.keep(catalog.pinned)

    def stop(self) -> None:
        """Load nothing more of what was wanted from the start, and let nobody wait for a load or a turn any more."""
        self._stopping.set()
        for seat in self._seats:
            seat.woken.set()
        self._preloads.stop()
        self._pool.close()

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """What keeps the daemon from being ready: models of the start that are being loaded for the first time."""
        return tuple(f"model {model_id} is loading" for model_id in self._preloads.untried)

    def samples(self) -> Iterator[Sample]:
        """Give the values of the metrics of all models, as they are now."""
        for model_id, name, number in self._tally.items():
            yield Sample("healthd_model_detections_total", number, {"model": model_id, "class": name})
        for (what, how), number in self._models.counts.items():
            yield Sample(f"healthd_model_{what}s_total", number, {"outcome" if what == "load" else "reason": how})
        yield Sample("healthd_model_workers_stuck", self._pool.stuck)

    async def _loaded_for_good(self, entry: Entry) -> SharedModel:
        return (await self._held(entry, InferenceParams()))[0]

    async def _find(self, model_id: str | None) -> Entry:
        entry = self.catalog.configured(model_id)
        if entry is not None:
            return entry
        if model_id is not None and (known := self._found.get(model_id)) is not None:
            if self._models.holds(known.family, known.spec_id):
                return known
            del self._found[model_id]
        entry = await self._from_disk(partial(self.catalog.find, model_id))
        if len(self._found) < 1000:
            self._found[entry.model_id] = entry
        return entry

    async def _from_disk(self, function: Callable[[], T]) -> T:
        if (stuck := self._pool.stuck) >= MOST_HUNG:
            raise BusyError(f"{stuck} threads hang in a disk or a model: restart healthd", retry_after_seconds=60)
        if self._pool.left >= MOST_LEFT:
            raise BusyError("too many requests were given up while a disk or a model works", retry_after_seconds=5)
        try:
            return await self._pool.call(function, timeout=DISK_SECONDS, late="the models directory did not answer")
        except WorkerTimeout as exc:
            raise BusyError(str(exc), retry_after_seconds=5) from None

    async def _held(self, entry: Entry, params: InferenceParams) -> tuple[SharedModel, bool]:
        """Return the loaded model, held once more, and whether the caller had to wait for its load."""
        family = self._models.families[entry.family]
        options = _options(family, params)
        plain = options == _options(family, InferenceParams())
        for attempt in range(4):
            shared = self._models.share(entry.family, entry.spec_id, options, or_pinned=plain)
            if shared is not None:
                return shared, attempt > 0
            key = (entry.family, entry.spec_id, options)
            failed = self._models.failure(*key)
            if failed is not None:
                raise _for_a_request(failed.error, entry)
            loading = self._loads.get(key)
            if loading is None:
                loading = self._loads[key] = asyncio.create_task(self._load(key), name=f"load {entry.model_id}")
                loading.add_done_callback(partial(self._loaded, key))
            await self._wait_or_stop(loading)
            if (error := loading.exception()) is not None:
                raise _for_a_request(error, entry) from error
        raise BusyError(f"{entry.model_id} was loaded and had to make room at once: too many models are in use")

    async def _wait_or_stop(self, loading: "asyncio.Task[None]") -> None:
        """Wait for a load that others may wait for too; raise BusyError when the daemon stops before it has ended."""
        stop = asyncio.create_task(self._stopping.wait())
        try:
            either: set[asyncio.Task[Any]] = {loading, stop}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        if not loading.done() or loading.cancelled():
            raise BusyError(STOPS)

    async def _load(self, key: _Wish) -> None:
        load, seconds = partial(self._models.load, *key), self._models.load_timeout_seconds
        try:
            await self._pool.call(load, timeout=seconds, late="the model was not loaded", grace=GRACE_SECONDS)
        except (HealthdError, asyncio.CancelledError):
            raise
        except Exception as exc:
            log.exception("model_load_bug", model=key[1])
            raise LoadError(f"{type(exc).__name__}: {exc}") from exc

    def _loaded(self, key: _Wish, task: "asyncio.Task[None]") -> None:
        self._loads.pop(key, None)
        if not task.cancelled():
            task.exception()  # told to whoever waits; perhaps nobody does any more

    async def _predict(self, seat: Seat, turn: Turn) -> Prediction:
        """Predict on a thread that holds the model and ends the turn by itself, also when nobody waits any more."""
        entry, model_id = seat.entry, seat.entry.model_id
        self._models.retain(seat.model)

        def predict() -> Prediction:
            try:
                return seat.model.predict_in_turn(turn)
            except (ModelCrashed, StalledError) as exc:  # here: whoever sent it may have left
                if exc.sent_in:
                    self._crashes.note(seat.model, (entry.family, entry.spec_id), model_id, str(exc))
                raise
            finally:
                self._models.release(seat.model)

        try:
            said = await self._pool.call(
                predict, timeout=seat.model.patience_seconds, late="no prediction", grace=GRACE_SECONDS
            )
            return replace(said, model_id=model_id)
        except NoThreadError:  # `predict` is not called, so it gives nothing back
            seat.model.turns.leave(turn)
            self._models.release(seat.model, close_with=on_a_thread)
            raise
        except WorkerTimeout as exc:
            log.warning("predict_stuck", model=model_id, reason=str(exc))
            raise PredictError(f"{type(exc).__name__}: {exc}") from None
        except ParameterError:
            raise
        except ModelError as exc:
            raise PredictError(f"{type(exc).__name__}: {exc}") from exc
        except Exception as exc:
            log.exception("predict_bug", model=model_id)
            raise PredictError(f"{type(exc).__name__}: {exc}") from exc


def _options(family: ModelFamily, params: InferenceParams) -> ModelOptions:
    try:
        return family.options_for(params)
    except HealthdError as exc:
        raise ParameterError(str(exc)) from exc
    except Exception as exc:
        raise ParameterError(f"{type(family).__name__} cannot take these parameters: {exc!r}") from exc


def _for_a_request(error: BaseException, entry: Entry) -> HealthdError:
    """Return the error of a load as one for a request: each kind has its own status."""
    told = (str(error) or repr(error)).replace(entry.spec_id, entry.model_id)
    for kind in (ParameterError, UnknownModelError, LoadError):
        if isinstance(error, kind):
            return kind(told)
    if isinstance(error, BusyError):
        return BusyError(told, retry_after_seconds=error.retry_after_seconds)
    return LoadError(told)


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed: the daemon has stopped
        loop.call_soon_threadsafe(event.set)
