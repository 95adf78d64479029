"""The engine `openvino`: a YOLO network on OpenVINO, with its own letterbox and decoding and without torch."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import structlog
from numpy.typing import NDArray

from healthd.errors import ParameterError
from healthd.frames import Image
from healthd.models.catalog import public_id
from healthd.models.model import InferenceParams, Model, Prediction
from healthd_yolo.compiled_cache import CompiledCache
from healthd_yolo.decode import Rows, decode
from healthd_yolo.envelope import check_image, detections
from healthd_yolo.labels import class_ids
from healthd_yolo.letterbox import Letterbox, Size, whole_strides
from healthd_yolo.model_options import YoloModelOptions
from healthd_yolo.openvino_file import NetworkFile, known_file
from healthd_yolo.openvino_network import CompileOptions, Network
from healthd_yolo.openvino_runtime import device_name
from healthd_yolo.threads import thread_limit

log = structlog.get_logger(__name__)
_WARM_UP_SIZE = (720, 1280)
_MOST_PLANS = 8
"""Sizes of pictures whose input is kept; a camera has one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How pictures of one size get into the network."""

    letterbox: Letterbox
    canvas: NDArray[np.uint8]
    """The input, padding drawn already; each picture is scaled straight into it."""
    wanted: Size
    """The input that would do; a larger one is taken while too many shapes are in use."""


class OpenVinoYolo(Model):
    """One network. Lives from load to `close`; called by one thread at a time, not always the same.

    A prediction moves pixels twice, scaled into the canvas and from there through the first layer, and copies them
    nowhere else: the network reads the canvas where it lies, and its answer is decoded where it lies.
    """

    def __init__(self, model_id: str, network: Network, *, stride: int | None, input_fixed: str | None) -> None:
        """Take a network; `stride`: its input may be any multiple of it, None: only its full size.

        `input_fixed`: why so, where that was not asked for.
        """
        self.model_id = model_id
        self.task = network.file.info.task
        self.labels: Mapping[int, str] = network.file.info.labels
        self._network = network
        self._stride = stride
        self._input_fixed = input_fixed
        self._plans: OrderedDict[Size, Plan] = OrderedDict()

    @property
    def memory_bytes(self) -> int:
        """About what it holds: weights, as repacked for the processor, and what inference needs."""
        return self._network.memory_bytes

    def warm_up(self) -> None:
        """Predict once on black, in the shape most cameras have."""
        self.predict(np.zeros((*_WARM_UP_SIZE, 3), dtype=np.uint8), InferenceParams())

    def close(self) -> None:
        """Let go of the network."""
        self._network.close()

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Say what is in the image, (height, width, 3) uint8 BGR of any size.

        Raises:
            ModelError: it is no such image, or the network failed on it.
            SettingsError: `params` names a class that the network does not have.
        """
        begun = perf_counter()
        height, width = check_image(image)
        keep = class_ids(self.labels, params.classes)
        plan = self._plan((height, width))
        letterbox = plan.letterbox
        letterbox.draw(image, plan.canvas)
        rows = self._decode(self._network.infer(plan.canvas), params, keep)
        results = detections(
            rows, labels=self.labels, letterbox=letterbox, keypoint_shape=self._network.file.info.keypoint_shape
        )
        metadata = {
            "task": self.task,
            "width": width,
            "height": height,
            "engine": "openvino",
            "device": self._network.device,
            "precision": self._network.precision,
            "input_shape": list(letterbox.input),
            **({"input_fixed": self._input_fixed} if self._input_fixed else {}),
            **({"discarded_not_finite": rows.discarded} if rows.discarded else {}),
        }
        return Prediction(
            model_id=self.model_id,
            inference_time_ms=(perf_counter() - begun) * 1e3,
            results=results,
            metadata=metadata,
        )

    def _plan(self, size: Size) -> Plan:
        """Return the way in for pictures of that size; the plans of the sizes used last are kept."""
        plan = self._plans.get(size)
        if plan is not None and self._network.admit(plan.wanted) is (plan.wanted == plan.letterbox.input):
            self._plans.move_to_end(size)
            return plan
        full = self._network.full_size
        letterbox = Letterbox.fit(size, full, stride=self._stride)
        wanted = letterbox.input
        if not self._network.admit(wanted):
            letterbox = Letterbox.fit(size, full)
        plan = self._plans[size] = Plan(letterbox, letterbox.blank(), wanted)
        while len(self._plans) > _MOST_PLANS:
            self._plans.popitem(last=False)
        return plan

    def _decode(self, output: NDArray[np.float32], params: InferenceParams, keep: frozenset[int] | None) -> Rows:
        file = self._network.file
        return decode(output, file.layout, file.info, params=params, keep=keep)


def full_size(file: NetworkFile, wanted: int | None, model_id: str) -> Size:
    """Return the size that images are fitted into; `wanted`: the option `imgsz`.

    Raises:
        ParameterError: `imgsz` asks a network of fixed size for another one.
    """
    fixed = file.fixed_size
    if fixed is None:
        sides = (wanted, wanted) if wanted is not None else file.info.image_size
        return whole_strides(sides[0], file.info.stride), whole_strides(sides[1], file.info.stride)
    if wanted is not None and (wanted, wanted) != fixed:
        raise ParameterError(
            f"imgsz: {model_id} was exported for {fixed[0]}x{fixed[1]} and nothing else; leave imgsz out,"
            f" or export it with dynamic=True or imgsz={wanted}"
        )
    return fixed


def load_openvino(model_id: str, path: Path, options: YoloModelOptions, cache: CompiledCache) -> OpenVinoYolo:
    """Load a model; blocking, a second or two, some tenths where it is in the cache.

    Raises:
        ParameterError: not with these options.
        SettingsError: it is no network, not one that can be decoded, or the device is not there.
    """
    if (options.batch or 1) > 1:
        raise ParameterError("batch: engine `openvino` computes one picture at a time; leave batch out")
    compile_options = CompileOptions(options.device or "CPU", options.precision, thread_limit(options.threads))
    device_name(compile_options.device)
    file = known_file(path, cache)
    if file.fixed_because and options.rectangular:
        log.info("model_input_fixed", model=public_id(model_id), size=file.fixed_size, reason=file.fixed_because)
    full = full_size(file, options.imgsz, model_id)
    stride = file.info.stride if options.rectangular and file.flexible else None
    first = Letterbox.fit(_WARM_UP_SIZE, full, stride=stride).input
    network = Network(file, compile_options, cache, full_size=full, first_size=first)
    return OpenVinoYolo(
        model_id, network, stride=stride, input_fixed=file.fixed_because if options.rectangular else None
    )
