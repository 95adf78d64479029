"""In which precision a network is computed: what was asked for, or what this machine turns out to be fast in."""

from collections.abc import Callable
from time import perf_counter
from typing import Any, Literal, TypeAlias

import numpy as np

from healthd.errors import ParameterError
from healthd_yolo.openvino_runtime import capabilities

Hint: TypeAlias = Literal["f32", "bf16", "f16"]
Infer: TypeAlias = Callable[[], np.ndarray[Any, Any]]

_NAMES: dict[str, Hint] = {"BF16": "bf16", "FP16": "f16"}
"""The half precisions, as devices name them, the one that is preferred first."""
_WORTH = 0.9
"""Half precision must take less than so much of the time of f32, or its rounding buys nothing."""
_RUNS = 5
_SECONDS = 1.0
"""So long is measured at most, once two runs of each are done."""


def hints(wanted: str, device: str, *, quantized: bool) -> tuple[Hint, ...]:
    """Return the precisions to choose from, most exact first; one where there is no choice.

    Of a quantized network this is the precision of what was not quantized.

    Raises:
        ParameterError: this device, or this network, has not what was asked for.
    """
    able = capabilities(device)
    halves = tuple(hint for name, hint in _NAMES.items() if name in able)
    if wanted == "int8":
        if not quantized:
            raise ParameterError(
                "precision: this network was not quantized, so it has no int8; export it with int8=True,"
                " or take precision = `auto`"
            )
        return ("f32",)
    if wanted in ("bf16", "f16"):
        if wanted not in halves:
            raise ParameterError(
                f"precision: {device} has no fast {wanted} here, only {', '.join(('f32', *halves))};"
                " take precision = `auto`"
            )
        return ("bf16",) if wanted == "bf16" else ("f16",)
    if wanted == "half":
        return halves[:1] or ("f32",)
    return ("f32", *halves[:1]) if wanted == "auto" else ("f32",)


def faster(exact: Infer, half: Infer) -> bool:
    """Whether half precision pays here, measured; both infer on the same input. Blocking, a second or two runs."""
    answers = [infer() for infer in (exact, half)]
    if np.isfinite(answers[0]).all() and not np.isfinite(answers[1]).all():
        return False
    best = [float("inf"), float("inf")]
    begun = perf_counter()
    for run in range(_RUNS):
        for turn, infer in enumerate((exact, half)):
            started = perf_counter()
            infer()
            best[turn] = min(best[turn], perf_counter() - started)
        if run and perf_counter() - begun > _SECONDS:
            break
    return best[1] < _WORTH * best[0]
