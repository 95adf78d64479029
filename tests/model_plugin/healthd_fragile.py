"""The family `fragile`: models that hang, crash and answer rubbish on order."""

import ctypes
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from healthd.errors import BusyError, ModelError, ParameterError
from healthd.frames import Image
from healthd.models.model import (
    Detection,
    InferenceParams,
    Model,
    ModelFamily,
    ModelOptions,
    ModelSpec,
    Prediction,
)


def _raise(error: BaseException) -> None:
    raise error


def _hang_in_c() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ctypes.PyDLL(None).sleep(1000)  # with the interpreter lock in its hand


BOX = Detection((1.0, 2.0, 3.0, 4.0), 0.5, 0, "thing")
ORDERS: dict[str, Callable[[], object]] = {
    "fine": lambda: None,
    "hang": _hang_in_c,
    "segv": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(7),
    "model-error": lambda: _raise(ModelError("odd image")),
    "busy": lambda: _raise(BusyError("no memory", retry_after_seconds=7)),
    "parameter": lambda: _raise(ParameterError("classes: no class of that name")),
    "bug": lambda: _raise(KeyError("what")),
    "leave": lambda: sys.exit(3),
    "nan": lambda: (Detection((math.nan, 0.0, 1.0, 1.0), 0.5, 0, "thing"),),
    "rubbish": lambda: ("thing",),
    "many": lambda: (BOX,) * 10_000,
    "keep": lambda: None,
    "slow": lambda: time.sleep(0.2),
    "slow-segv": lambda: (time.sleep(0.1), ctypes.string_at(0)),
}
WORDS = tuple(ORDERS)


class Options(ModelOptions):
    """How a model is loaded."""

    batch: int = 1
    lanes: int = 1
    load: str = "fine"


class FragileModel(Model):
    """Obeys what is written in a picture."""

    task = "detect"
    labels: ClassVar[dict[int, str]] = {0: "thing"}

    def __init__(self, spec: ModelSpec, options: Options) -> None:
        self.concurrency, self.batch_size = options.lanes, options.batch
        self._spec = spec
        self._kept: list[Image] = []
        self._inside = 0
        self._lock = threading.Lock()

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Do what the first byte says, and tell what was seen."""
        with self._lock:
            self._inside += 1
            together = self._inside
        try:
            order = WORDS[image[0, 0, 0]]
            said: Any = ORDERS[order]()
        finally:
            with self._lock:
                self._inside -= 1
        if order == "keep":
            self._kept.append(image[:1])
        metadata = {
            "task": "detect",
            "width": image.shape[1],
            "height": image.shape[0],
            "pid": os.getpid(),
            "sum": int(image.sum()),
            "kept": [int(one.sum()) for one in self._kept],
            "together": together,
            "writeable": bool(image.flags.writeable),
            "confidence": params.confidence,
            "nice": os.getpriority(os.PRIO_PROCESS, threading.get_native_id()),
            "threads": self._spec.threads,
        }
        return Prediction(self._spec.model_id, 1.0, said or (), metadata)

    def predict_batch(
        self, images: Sequence[Image], params: Sequence[InferenceParams]
    ) -> Sequence[Prediction | Exception]:
        """Answer one after the other, and say that they came together."""
        return [self._predict_or_error(image, asked) for image, asked in zip(images, params, strict=True)]


class Fragile(ModelFamily):
    """Serves what begins with `fragile`."""

    contract = 1
    options_model = Options

    def serves(self, model_id: str) -> bool:
        """Whether it is one of these."""
        return model_id.startswith("fragile")

    def load(self, spec: ModelSpec) -> Model:
        """Load, or fail at it."""
        options = spec.options if isinstance(spec.options, Options) else Options()
        ORDERS[options.load]()
        return FragileModel(spec, options)
