"""OpenVINO itself: imported with the first network, and what this machine can do with it.

The import happens without the usage statistics that `import openvino` otherwise sends and without the files it writes
to the home directory for them. Only the modules `openvino_*` of this plugin see an OpenVINO type.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from healthd.errors import ParameterError

_importing = threading.Lock()


def openvino() -> Any:
    """Return the package, imported by whoever comes first while the others wait."""
    with _importing, _without_statistics():
        import openvino  # noqa: PLC0415  only when a model needs it
        import openvino.preprocess  # noqa: PLC0415

        # The table of types is made at its first use, with a C++ lock held that a second thread would wait for with the
        # interpreter lock in its hand: two models loaded at once could lock the whole process. So make it here.
        openvino.Type.u8.to_dtype()
        return openvino


@cache
def core() -> Any:
    """Return the one Core of this process.

    It reads weights into memory instead of mapping their file: somebody who copies another model over it in place
    would end the process with a SIGBUS at the next prediction.
    """
    made = openvino().Core()
    made.set_property({"ENABLE_MMAP": False})
    return made


def device_name(wanted: str) -> str:
    """Return OpenVINO's spelling of the device.

    Raises:
        ParameterError: this machine has none.
    """
    name = wanted.upper()
    known = [*core().available_devices, "AUTO"]
    if not any(name == device or name.partition(".")[0] == device for device in known):
        raise ParameterError(
            f"device: OpenVINO has no `{wanted}` here, only {', '.join(known)} (for CUDA use engine = `ultralytics`)"
        )
    return name


def capabilities(device: str) -> tuple[str, ...]:
    """Return what a device says it is good at, e.g. `BF16`, `INT8`, `EXPORT_IMPORT`; nothing for `AUTO`."""
    return () if device == "AUTO" else tuple(core().get_property(device, "OPTIMIZATION_CAPABILITIES"))


def told(exc: BaseException) -> str:
    """Return the line of an OpenVINO error that says something; the first ones name its source files."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (useful or lines or [repr(exc)])[-1][:300]


@contextmanager
def _without_statistics() -> Iterator[None]:
    """Let `import openvino` find no telemetry package: it then takes its own empty stand-in."""
    name = "openvino_telemetry"
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system's own way to say "there is none"
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]
