"""Models in processes of their own: whatever a driver does to one, it can be ended, and hurts nobody else."""

import contextlib
import copy
import functools
import os
import queue
import select
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import structlog

from healthd.channel import Channel, Gone, packed, raised, unpacked_reply
from healthd.children import Child, ChildEnded, ChildTimeout, StartFailed
from healthd.endings import Ending
from healthd.errors import CameraError, ModelCrashed, ModelError, ModelLost, StalledError
from healthd.frames import Image
from healthd.models.catalog import shown_id
from healthd.models.isolated_words import Answer, Answers, Ask, Facts, LoadOrder, Picture
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelOptions, ModelSpec, Prediction
from healthd.models.prepare import PreparedModel, PrepareProgress, PrepareRequest
from healthd.models.turns import allowed, sent_in
from healthd.shared_images import SharedImages, Slot

log = structlog.get_logger(__name__)
ENTRY = "healthd.models.isolated_child:main"
PRELOAD = ("numpy", "cv2", "healthd.models.isolated_child")
"""What every model's process imports."""
CLOSE_SECONDS = 2.0
"""How long a model may take to close before its process is ended all the same."""
_STACK = ('File "', "Thread 0x", "Current thread 0x", "Extension modules: ", "<no Python frame>")
_LOOK_SECONDS = 1.0
"""How long a process may take to be gone that has let go of us."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class IsolatedFamily(ModelFamily):
    """A family whose models are loaded into processes of their own; what needs no model it answers here."""

    def __init__(
        self, name: str, family: ModelFamily, *, lanes: int, thread_budget: int, load_timeout_seconds: float
    ) -> None:
        """Take a family; `lanes`: as many predictions at a time as one model may ever make."""
        self._name = name
        self._family = family
        self._lanes = lanes
        self._thread_budget = thread_budget
        self._load_timeout_seconds = load_timeout_seconds

    def serves(self, model_id: str) -> bool:
        """Whether the family is meant for a model of that name."""
        return self._family.serves(model_id)

    def options_for(self, params: InferenceParams) -> ModelOptions:
        """Return how to load a model for a request that asks for `params`."""
        return self._family.options_for(params)

    def estimate_bytes(self, spec: ModelSpec) -> int | None:
        """Say about how much memory the model will hold."""
        return self._family.estimate_bytes(spec)

    def prepare(self, spec: ModelSpec, request: PrepareRequest, progress: PrepareProgress) -> PreparedModel:
        """Make of a model the form that runs best; that has processes of its own."""
        return self._family.prepare(spec, request, progress)

    def load(self, spec: ModelSpec) -> Model:
        """Start a process and load the model there.

        Raises:
            ModelError: the process could not be started, ended, or did not load it in time; else as the family's own.
        """
        order = LoadOrder(
            family=self._name,
            model_id=spec.model_id,
            path=None if spec.path is None else str(spec.path),
            directory=str(spec.directory),
            options=None if type(spec.options) is ModelOptions else spec.options.model_dump_json().encode(),
            threads=spec.threads,
            cache_directory=None if spec.cache_directory is None else str(spec.cache_directory),
            cache_max_bytes=spec.cache_max_bytes,
            allow_pickle=spec.allow_pickle,
            thread_budget=self._thread_budget,
        )
        shown = shown_id(spec.model_id, spec.directory)
        return IsolatedModel(order, shown, lanes=self._lanes, load_timeout_seconds=self._load_timeout_seconds)


class IsolatedModel(Model):
    """A model in a process of its own. Lives from its making to `close`; its process may end before that."""

    def __init__(self, order: LoadOrder, shown: str, *, lanes: int, load_timeout_seconds: float) -> None:
        """Start the process and load; raises as `IsolatedFamily.load` does."""
        self._shown = shown
        self._lock = threading.Lock()
        self._error: ModelError | None = None
        """Why nobody can use it any more."""
        self._sent_in = 0
        """How many of those in the process now have a picture that somebody sent."""
        self._held = contextlib.ExitStack()
        try:
            self._images = SharedImages()
            self._held.callback(self._images.close)
            self._lanes, theirs = self._lane_ends(lanes)
            with theirs as ends:
                descriptors = [self._images.descriptor, *(end.fileno() for end in ends)]
                self._child = Child.start(
                    ENTRY, name=f"model {shown}", descriptors=descriptors, fields={"model": shown}
                )
            self._held.callback(self._child.stop, grace_seconds=0)
            facts = self._loaded(order, load_timeout_seconds)
        except (StartFailed, OSError) as exc:  # no descriptor is left, for one
            self._held.close()
            raise ModelError(f"{shown} cannot be loaded: {exc}") from None
        except BaseException:
            self._held.close()
            raise
        self.task = facts.task
        self.labels: Mapping[int, str] = facts.labels
        self.concurrency = min(facts.concurrency, len(self._lanes))
        self.batch_size = facts.batch_size
        self._own_bytes = facts.memory_bytes
        self._free: queue.SimpleQueue[Channel] = queue.SimpleQueue()
        for lane in self._lanes[: facts.concurrency]:
            self._free.put(lane)

    @property
    def lost(self) -> bool:
        """Whether its process has ended, or is being ended. Does not block."""
        return self._error is not None or _hung_up(self._watched)

    @property
    def stalled(self) -> bool:
        """Whether it was lost because it did not answer."""
        return isinstance(self._error, StalledError)

    @property
    def memory_bytes(self) -> int | None:
        """What its process holds, or what the model itself says, where that is more: it may have memory on a GPU."""
        resident = _resident_bytes(self._child.pid) if self._error is None else None
        return max((said for said in (resident, self._own_bytes) if said is not None), default=None)

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Say what is in the image, as the model does.

        Raises:
            StalledError: there was no answer in time; its process is ended.
            ModelError: its process has ended, or as the model's own.
        """
        answers = self._ask([image], [params])
        if len(answers) != 1:
            raise ModelError(f"the process of {self._shown} gave {len(answers)} answers for one image")
        answer = answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def predict_batch(
        self, images: Sequence[Image], params: Sequence[InferenceParams]
    ) -> Sequence[Prediction | Exception]:
        """Say what is in each of several images, as the model does."""
        return self._ask(images, params)

    def close(self) -> None:
        """Let the model close, and end its process."""
        if self.lost:
            self._end(None)
        with self._lock:
            if self._error is None:
                self._error = ModelError(f"{self._shown} is not loaded")
                self._child.stop(grace_seconds=CLOSE_SECONDS)
        self._held.close()

    def _loaded(self, order: LoadOrder, timeout_seconds: float) -> Facts:
        log.debug("model_process_started", model=self._shown, pid=self._child.pid)
        try:
            return self._child.call(order, reply=Facts, timeout=timeout_seconds)
        except ChildTimeout:
            self._child.kill()
            raise ModelError(f"{self._shown} was not loaded within {timeout_seconds:g} s") from None
        except ChildEnded as exc:
            output = _last_words(exc.ending)
            log.warning("model_process_ended", model=self._shown, pid=self._child.pid, reason=str(exc), output=output)
            raise ModelCrashed(f"the process of {self._shown} {exc} while it was loaded") from None

    def _lane_ends(self, number: int) -> tuple[list[Channel], contextlib.AbstractContextManager[list[socket.socket]]]:
        """Make lanes; return our ends, and theirs, to be closed here when the child has them."""
        ours, theirs = list[Channel](), contextlib.ExitStack()
        ends = list[socket.socket]()
        for _ in range(number):
            near, far = socket.socketpair()
            ours.append(Channel(near))
            self._held.callback(near.close)
            ends.append(theirs.enter_context(far))
        self._watched = near

        @contextlib.contextmanager
        def held() -> Iterator[list[socket.socket]]:
            with theirs:
                yield ends

        return ours, held()

    def _ask(self, images: Sequence[Image], params: Sequence[InferenceParams]) -> list[Prediction | Exception]:
        if self.lost:
            self._end(None)  # it died between two turns: that is not the doing of who comes next
            raise self._again(blamed=False)
        for image in images:
            _check(image)
        slots = list[Slot]()
        lane = self._free.get()  # never empty: as many callers as lanes have a turn
        try:
            for image in images:
                slots.append(self._images.put(image))
            with self._counted():
                said = self._said(lane, slots, images, params)
            slots = [slot for number, slot in enumerate(slots) if number not in said.kept]
        except CameraError as exc:
            raise ModelError(str(exc)) from None
        finally:
            self._free.put(lane)
            for slot in slots:
                self._images.free(slot)
        self._own_bytes = said.memory_bytes
        return [_told(answer) for answer in said.answers]

    def _said(
        self, lane: Channel, slots: Sequence[Slot], images: Sequence[Image], params: Sequence[InferenceParams]
    ) -> Answers:
        pictures = tuple(
            Picture(slot.place, image.shape[0], image.shape[1], _as_json(asked))
            for slot, image, asked in zip(slots, images, params, strict=True)
        )
        seconds = allowed.get()
        try:
            lane.send(packed(Ask(pictures)), timeout=seconds)
            return unpacked_reply(lane.receive(timeout=seconds), Answers)
        except TimeoutError:
            self._end(seconds)
        except Gone:
            self._end(None)
        raise self._again(blamed=True)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Whoever notices the end of the process finds all here who were in it: each leaves after that.

        Who comes while its end is being looked at was not in it.
        """
        with self._lock:
            if self._error is not None:
                raise self._again(blamed=False)
            self._sent_in += sent_in.get()
        try:
            yield
        finally:
            with self._lock:
                self._sent_in -= sent_in.get()

    def _end(self, hung_seconds: float | None) -> None:
        """End the process, which has hung for so long or has ended by itself; all who wait for it are told."""
        output: tuple[str, ...] = ()
        with self._lock:
            if self._error is not None:
                return
            if hung_seconds is not None:
                reason = f"predictor stalled: no prediction of {self._shown} within {hung_seconds:.1f} s"
                hung = StalledError(reason)
                hung.sent_in = self._sent_in > 0
                self._error = hung
                self._child.kill()
            else:
                ending = self._child.look(within=_LOOK_SECONDS) or self._child.stop(grace_seconds=0)
                reason, output = f"the process of {self._shown} {ending}", _last_words(ending)
                crashed = ModelCrashed(reason)
                crashed.sent_in = self._sent_in > 0
                self._error = crashed
        log.warning("model_process_ended", model=self._shown, pid=self._child.pid, reason=reason, output=output)

    def _again(self, *, blamed: bool) -> ModelError:
        error = self._error or ModelError(f"{self._shown} is not loaded")
        return ModelLost(str(error)) if error.crash and not blamed else copy.copy(error)


def _last_words(ending: Ending) -> tuple[str, ...]:
    """Return what it printed last, without the stacks of its threads, which stand in the log at level debug."""
    return tuple(line for line in ending.last_output if not line.startswith(_STACK))[-3:]


def _check(image: object) -> None:
    if not isinstance(image, np.ndarray):
        raise ModelError(f"not an image: {type(image).__name__}, where uint8 (height, width, 3) is needed")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ModelError(f"not an image: {image.dtype} {image.shape}, where uint8 (height, width, 3) is needed")


def _told(answer: Answer) -> Prediction | Exception:
    if answer.prediction is not None:
        return answer.prediction
    return raised(answer.failure) if answer.failure is not None else ModelError("its process gave no answer")


@functools.lru_cache(maxsize=64)
def _as_json(params: InferenceParams) -> bytes:
    return params.model_dump_json().encode()


def _hung_up(end: socket.socket) -> bool:
    """Whether the other end of a socket is closed, or this one."""
    waiting = select.poll()  # one of its own: no two threads may use the same
    try:
        waiting.register(end, select.POLLHUP)
    except ValueError:
        return True
    return bool(waiting.poll(0))


def _resident_bytes(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def isolated(
    families: Mapping[str, ModelFamily], *, lanes: int, thread_budget: int, load_timeout_seconds: float
) -> dict[str, ModelFamily]:
    """Return families whose models have processes of their own."""
    return {
        name: IsolatedFamily(
            name, family, lanes=lanes, thread_budget=thread_budget, load_timeout_seconds=load_timeout_seconds
        )
        for name, family in families.items()
    }
