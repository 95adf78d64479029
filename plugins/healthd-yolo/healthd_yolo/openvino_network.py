"""A model file as a compiled network that maps pixels to numbers: one compiled variant for each size of input.

A variant of fixed size computes faster than one that takes them all, and every camera's shape comes back for ever, so
each shape is compiled once and kept. Their number is bounded: pictures of any shape may be sent in.
"""

from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthd.errors import ModelError, SettingsError
from healthd_yolo.letterbox import Size
from healthd_yolo.openvino_file import NetworkFile
from healthd_yolo.openvino_runtime import capabilities, core, device_name, told

MOST_VARIANTS = 5
"""Compiled variants at most: the full size, and four shapes."""
IDLE_SECONDS = 60.0
"""A variant unused for so long may make room for another; so compiling cannot become all that is done."""
_ACTIVATIONS_PER_INPUT = 8
"""Memory of one inference, as a multiple of its input in float32; measured 5 to 10 on nano networks."""


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How to compile a network."""

    device: str = "CPU"
    half: bool = False
    threads: int | None = None


@dataclass(slots=True)
class _Variant:
    """The network compiled for one size."""

    request: Any
    last_used: float


class Network:
    """One network. Lives as long as its model; called by one thread at a time."""

    def __init__(self, file: NetworkFile, options: CompileOptions, *, full_size: Size) -> None:
        """Compile nothing yet; `full_size`: the input that every picture fits into.

        Raises:
            SettingsError: the device is not there.
        """
        self.file = file
        self.full_size = full_size
        self.device = device_name(options.device)
        self.precision = _precision(self.device, half=options.half)
        self._config = _config(self.precision, options.threads)
        self._variants: OrderedDict[Size, _Variant] = OrderedDict()

    @property
    def memory_bytes(self) -> int:
        """About what it holds: weights as repacked for each variant, and one inference of each."""
        sizes = list(self._variants) or [self.full_size]
        activations = sum(_ACTIVATIONS_PER_INPUT * height * width * 3 * 4 for height, width in sizes)
        return (len(sizes) + 1) * self.file.weights_bytes + activations

    def admit(self, size: Size) -> bool:
        """Whether pixels of that size can be inferred: a variant is there, or there is room for it."""
        if size in self._variants or size == self.full_size:
            return True
        others = [variant.last_used for other, variant in self._variants.items() if other != self.full_size]
        return len(others) < MOST_VARIANTS - 1 or monotonic() - min(others) >= IDLE_SECONDS

    def infer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network on (1, height, width, 3) uint8 BGR; the answer is valid until the next call.

        A size that was not seen before is compiled first, some tenths of a second.

        Raises:
            ModelError: it failed on this input.
            SettingsError: it cannot be compiled for this size.
        """
        variant = self._variant((pixels.shape[1], pixels.shape[2]))
        try:
            variant.request.infer({0: pixels}, share_inputs=True, share_outputs=True)
            output: NDArray[np.float32] = variant.request.get_output_tensor(0).data[0]
        except RuntimeError as exc:
            raise ModelError(f"inference failed on {self.device}: {told(exc)}") from exc
        return output

    def close(self) -> None:
        """Let go of all variants."""
        self._variants.clear()

    def _variant(self, size: Size) -> _Variant:
        variant = self._variants.get(size)
        if variant is None:
            self._make_room()
            variant = self._variants[size] = _Variant(self._compile(size), 0.0)
        variant.last_used = monotonic()
        return variant

    def _make_room(self) -> None:
        others = [size for size in self._variants if size != self.full_size]
        if len(others) >= MOST_VARIANTS - 1:
            del self._variants[min(others, key=lambda size: self._variants[size].last_used)]

    def _compile(self, size: Size) -> Any:
        try:
            return core().compile_model(self.file.build(size), self.device, self._config).create_infer_request()
        except RuntimeError as exc:
            raise SettingsError(
                f"OpenVINO cannot compile {self.file.path.name} for {self.device}: {told(exc)}"
            ) from exc


def _precision(device: str, *, half: bool) -> str:
    """Return the precision of the arithmetic: f32, or the half type that the device is fast in."""
    if not half or device == "AUTO":
        return "f16" if half else "f32"
    able = capabilities(device)
    return next((name for name in ("BF16", "FP16") if name in able), "FP32").lower().replace("fp", "f")


def _config(precision: str, threads: int | None) -> dict[str, Any]:
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return config
