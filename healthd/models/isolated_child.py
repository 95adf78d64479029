"""The process of one model: its family is made again by its name, loads there, and answers over one lane per turn."""

import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec

from healthd.channel import Channel, Gone, packed_failure, packed_reply, told
from healthd.child_side import Parent
from healthd.cpus import set_thread_budget
from healthd.errors import PluginError
from healthd.frames import Image
from healthd.models.envelope import checked
from healthd.models.isolated_words import Answer, Answers, Ask, Facts, LoadOrder
from healthd.models.model import CONTRACT, InferenceParams, Model, ModelFamily, ModelOptions, ModelSpec
from healthd.models.shared import warm_model
from healthd.plugin_watch import ImportWatch
from healthd.plugins import FAMILIES, checked_class, installed
from healthd.shared_images import SharedMemory
from healthd.worker import step_back

_check_family = checked_class(ModelFamily, contract=CONTRACT)  # type: ignore[type-abstract]  # it makes no instance
_asks = msgspec.msgpack.Decoder(Ask)


def main(parent: Parent) -> None:
    """Load the model that the first request names, and predict with it until the parent has no more to ask."""
    images, *ends = parent.descriptors
    memory = SharedMemory(images, writes=False)
    lanes = [Channel(socket.socket(fileno=end)) for end in ends]
    loaded: list[Model] = []

    def load(request: bytes) -> Facts:
        model = _load(msgspec.msgpack.decode(request, type=LoadOrder))
        loaded.append(model)
        facts = Facts(
            task=str(model.task),
            labels=dict(model.labels),
            concurrency=max(1, min(model.concurrency, len(lanes))),
            batch_size=max(1, model.batch_size),
            memory_bytes=model.memory_bytes,
        )
        for number, lane in enumerate(lanes[: facts.concurrency]):
            server = Lane(lane, model, memory)
            threading.Thread(target=server.serve, name=f"lane-{number}", daemon=True).start()
        return facts

    step_back()
    cv2.setNumThreads(1)
    parent.serve(load)
    for model in loaded:
        model.close()


def _load(order: LoadOrder) -> Model:
    set_thread_budget(order.thread_budget)
    point = next((point for point in installed(FAMILIES) if point.name == order.family), None)
    if point is None:
        raise PluginError(f"no model family `{order.family}` is installed in the process of its model")
    with ImportWatch():  # the daemon has told what its import does to others; it is put back here, too
        family = _check_family(point.load())()
    options = ModelOptions() if order.options is None else family.options_model.model_validate_json(order.options)
    spec = ModelSpec(
        order.model_id,
        None if order.path is None else Path(order.path),
        Path(order.directory),
        options,
        order.threads,
        None if order.cache_directory is None else Path(order.cache_directory),
        order.cache_max_bytes,
        order.allow_pickle,
    )
    return warm_model(family, spec)


class Lane:
    """Predicts for one caller at a time. Lives as long as the process, on a thread of its own."""

    def __init__(self, channel: Channel, model: Model, memory: SharedMemory) -> None:
        self._channel = channel
        self._model = model
        self._memory = memory
        self._keeps = False
        """The model has held on to an image: from then on it gets copies."""
        self._params = (b"", InferenceParams())

    def serve(self) -> None:
        """Answer until the parent is gone."""
        while True:
            try:
                ask = _asks.decode(self._channel.receive(timeout=None))
                try:
                    reply = packed_reply(self._answers(ask))
                except BaseException as exc:  # noqa: BLE001  SystemExit from a plugin, too, is for the parent to judge
                    reply = packed_failure(exc)
                self._channel.send(reply, timeout=None)
            except Gone:
                return

    def _answers(self, ask: Ask) -> Answers:
        images = [self._memory.image(one.place, one.height, one.width) for one in ask.pictures]
        if self._keeps:
            images = [image.copy() for image in images]
            for image in images:
                image.flags.writeable = False
        answers = self._predicted(images, [self._asked(one.params) for one in ask.pictures])
        kept = () if self._keeps else tuple(number for number in range(len(images)) if _held(images, number))
        self._keeps = self._keeps or bool(kept)
        return Answers(answers, kept, self._model.memory_bytes)

    def _predicted(self, images: list[Image], params: Sequence[InferenceParams]) -> tuple[Answer, ...]:
        who = type(self._model).__name__
        if len(images) == 1:
            said: Sequence[object] = [self._model.predict(images[0], params[0])]
        else:
            said = list(self._model.predict_batch(images, params))
        return tuple(
            Answer(failure=told(one)) if isinstance(one, Exception) else _answer(one, who, asked.max_det)
            for one, asked in zip(said, params, strict=False)
        )

    def _asked(self, params: bytes) -> InferenceParams:
        known, asked = self._params
        if params != known:
            asked = InferenceParams.model_validate_json(params)
            self._params = (params, asked)
        return asked


def _answer(said: object, who: str, most: int) -> Answer:
    try:
        return Answer(prediction=checked(said, who, most=most))
    except Exception as exc:  # noqa: BLE001  it is raised to the caller whose image it is
        return Answer(failure=told(exc))


def _held(images: list[Image], number: int) -> bool:
    """Whether the model has kept an image, or a view of it: besides the list, and this call, nobody should have it."""
    return sys.getrefcount(images[number]) > 2
