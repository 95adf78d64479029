"""A model file as a compiled network that maps pixels to numbers: one compiled variant for each size of input.

A variant of fixed size computes faster than one that takes them all, and every camera's shape comes back for ever, so
each shape is compiled once and kept. Their number is bounded: pictures of any shape may be sent in.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthd.errors import ModelError, SettingsError
from healthd_yolo.compiled_cache import CompiledCache
from healthd_yolo.letterbox import PAD_VALUE, Size
from healthd_yolo.model_options import ACTIVATIONS_PER_INPUT
from healthd_yolo.openvino_file import NetworkFile
from healthd_yolo.openvino_precision import Hint, faster, hints
from healthd_yolo.openvino_runtime import capabilities, core, device_name, openvino, told

MOST_VARIANTS = 5
"""Compiled variants at most: the full size, and four shapes."""
IDLE_SECONDS = 60.0
"""A variant unused for so long may make room for another; so compiling cannot become all that is done."""


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How to compile a network."""

    device: str = "CPU"
    precision: str = "auto"
    threads: int | None = None


@dataclass(slots=True)
class _Variant:
    """The network compiled for one size."""

    request: Any
    last_used: float = field(default_factory=lambda: monotonic())  # noqa: PLW0108  looked up when it is called


class Network:
    """One network. Lives as long as its model; called by one thread at a time."""

    def __init__(
        self, file: NetworkFile, options: CompileOptions, cache: CompiledCache, *, full_size: Size, first_size: Size
    ) -> None:
        """Compile for `first_size`; blocking, some tenths of a second. `full_size`: every picture fits into it.

        Raises:
            ParameterError: the device is not there, or has not the precision that was asked for.
            SettingsError: OpenVINO cannot compile it.
        """
        self.file = file
        self.full_size = full_size
        self.device = device_name(options.device)
        self._threads = options.threads
        self._cache = cache
        self._variants: dict[Size, _Variant] = {}
        choice = hints(options.precision, self.device, quantized=file.quantized)
        self._hint = choice[0] if len(choice) == 1 else self._measured(choice[0], choice[1], first_size)
        if first_size not in self._variants:
            self._variants[first_size] = self._compile(first_size, self._hint)

    @property
    def precision(self) -> str:
        """What it computes in: `f32`, `bf16`, `f16`, or `int8` where the network was quantized."""
        return "int8" if self.file.quantized and "INT8" in capabilities(self.device) else self._hint

    @property
    def memory_bytes(self) -> int:
        """About what it holds: weights as repacked for each variant, and one inference of each."""
        activations = sum(ACTIVATIONS_PER_INPUT * height * width * 3 * 4 for height, width in self._variants)
        return len(self._variants) * self.file.weights_bytes + activations

    def admit(self, size: Size) -> bool:
        """Whether pixels of that size can be inferred: a variant is there, or there is room for it."""
        if size in self._variants or size == self.full_size:
            return True
        others = self._others()
        return len(others) < MOST_VARIANTS - 1 or monotonic() - min(others.values()) >= IDLE_SECONDS

    def infer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network on (1, height, width, 3) uint8 BGR; its answer, of any shape, is valid until the next call.

        A size that was not seen before is compiled first, some tenths of a second.

        Raises:
            ModelError: it failed on this input.
            SettingsError: it cannot be compiled for this size.
        """
        size = (pixels.shape[1], pixels.shape[2])
        variant = self._variants.get(size)
        if variant is None:
            if size != self.full_size:
                self._make_room()
            variant = self._variants[size] = self._compile(size, self._hint)
        variant.last_used = monotonic()
        try:
            return _run(variant, pixels)
        except RuntimeError as exc:
            raise ModelError(f"inference failed on {self.device}: {told(exc)}") from exc

    def close(self) -> None:
        """Let go of all variants."""
        self._variants.clear()

    def _others(self) -> dict[Size, float]:
        return {size: variant.last_used for size, variant in self._variants.items() if size != self.full_size}

    def _make_room(self) -> None:
        others = self._others()
        if len(others) >= MOST_VARIANTS - 1:
            del self._variants[min(others, key=lambda other: others[other])]

    def _measured(self, exact: Hint, half: Hint, size: Size) -> Hint:
        """Return the precision that is worth it, and keep its variant.

        That half precision pays is measured once for each file and machine; that it does not, at each load: a machine
        that was busy at the first one must not stay slow for ever.
        """
        key = self._key(size, kind="precision")
        known = self._cache.get(key)
        if known is not None and known.facts.get("precision") == half:
            return half
        variants = {hint: self._compile(size, hint) for hint in (exact, half)}
        grey = np.full((1, *size, 3), PAD_VALUE, dtype=np.uint8)
        pays = faster(lambda: _run(variants[exact], grey), lambda: _run(variants[half], grey))
        chosen = half if pays else exact
        self._variants[size] = variants[chosen]
        if pays:
            self._cache.put(key, {"precision": chosen})
        return chosen

    def _key(self, size: Size, **more: str) -> Mapping[str, Any]:
        return {
            **more,
            "file": self.file.fingerprint,
            "size": size,
            "threads": self._threads,
            "device": [self.device, *capabilities(self.device)],
            "openvino": openvino().__version__,
        }

    def _compile(self, size: Size, hint: Hint) -> _Variant:
        """Compile for one size, or take what was compiled before."""
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        if self.device == "CPU":
            # Pinned to their cores, its threads wait there for the decoders and the server of this very process while
            # another core is idle: about a tenth slower on average, never faster.
            config["ENABLE_CPU_PINNING"] = False
        if self._threads is not None:
            config["INFERENCE_NUM_THREADS"] = self._threads
        keeps = self._cache.keeps and "EXPORT_IMPORT" in capabilities(self.device) and bool(self.file.fingerprint)
        key = self._key(size, kind="network", precision=hint)
        known = self._cache.get(key) if keeps else None
        if known is not None:
            try:
                return _Variant(core().import_model(known.blob, self.device, config).create_infer_request())
            except RuntimeError:  # whatever it dislikes: it is compiled anew, and kept instead
                pass
        try:
            compiled = core().compile_model(self.file.build(size), self.device, config)
            variant = _Variant(compiled.create_infer_request())
        except RuntimeError as exc:
            raise SettingsError(
                f"OpenVINO cannot compile {self.file.path.name} for {self.device}: {told(exc)}"
            ) from exc
        if keeps:
            with contextlib.suppress(RuntimeError):  # what cannot be exported is compiled again at the next start
                self._cache.put(key, {}, compiled.export_model().getvalue())
        return variant


def _run(variant: _Variant, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    variant.request.infer({0: pixels}, share_inputs=True, share_outputs=True)
    output: NDArray[np.float32] = variant.request.get_output_tensor(0).data
    return output
