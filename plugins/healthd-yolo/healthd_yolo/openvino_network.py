"""OpenVINO, and nothing but OpenVINO: a file becomes a compiled network that maps pixels to numbers.

No other module of this plugin sees an OpenVINO type. The import happens with the first network, without the usage
statistics that `import openvino` otherwise sends and without the files it writes to the home directory for them.
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from healthd.errors import ModelError, ParameterError, SettingsError
from healthd_yolo.metadata import NetworkInfo, network_info, read_sidecar

Layout = Literal["anchors", "one_to_one", "rows"]
"""What the output holds: see `healthd_yolo.decode`."""

_importing = threading.Lock()


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How to compile a network."""

    device: str = "CPU"
    half: bool = False
    threads: int | None = None


class Network:
    """One compiled network. Lives as long as its model; `infer` is called by one thread at a time."""

    def __init__(self, path: Path, options: CompileOptions) -> None:
        """Read and compile; blocking, some tenths of a second.

        Raises:
            SettingsError: it is no network, not one that can be decoded, or the device is not there.
        """
        vendor = _openvino()
        self._core = _core()
        self.device = _device(self._core, options.device)
        source = _read(self._core, path)
        self.info = _info(source, path)
        self.layout = _check_output(source, self.info, path.name)
        if self.layout == "one_to_one":
            source = _before_selection(vendor, source, self.info, path.name)
        self.input_size = _input_size(source, path.name)
        self.weights_bytes = _weights_bytes(source)
        self.precision = _precision(self._core, self.device, half=options.half)
        try:
            compiled = self._core.compile_model(
                _with_pixel_input(vendor, source), self.device, _config(self.precision, options.threads)
            )
            self._request = compiled.create_infer_request()
        except RuntimeError as exc:
            raise SettingsError(f"OpenVINO cannot compile {path.name} for {self.device}: {_last_line(exc)}") from exc

    def infer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network on (1, height, width, 3) uint8 BGR; the answer is valid until the next call.

        Raises:
            ModelError: it failed on this input.
        """
        try:
            self._request.infer({0: pixels}, share_inputs=True, share_outputs=True)
            output: NDArray[np.float32] = self._request.get_output_tensor(0).data[0]
        except RuntimeError as exc:
            raise ModelError(f"inference failed on {self.device}: {_last_line(exc)}") from exc
        return output


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


def _openvino() -> Any:
    with _importing, _without_statistics():
        import openvino  # noqa: PLC0415  only when a model needs it
        import openvino.preprocess  # noqa: PLC0415

        # The table of types is made at its first use, with a C++ lock held that a second thread would wait for with the
        # interpreter lock in its hand: two models loaded at once could lock the whole process. So make it here.
        openvino.Type.u8.to_dtype()
        return openvino


@cache
def _core() -> Any:
    return _openvino().Core()


def _device(core: Any, wanted: str) -> str:
    """Return OpenVINO's spelling of the device.

    Raises:
        ParameterError: this machine has none.
    """
    name = wanted.upper()
    known = [*core.available_devices, "AUTO"]
    if not any(name == device or name.partition(".")[0] == device for device in known):
        raise ParameterError(
            f"device: OpenVINO has no `{wanted}` here, only {', '.join(known)} (for CUDA use engine = `ultralytics`)"
        )
    return name


def _read(core: Any, path: Path) -> Any:
    """Read an `.onnx` or `.xml` file, or the one `.xml` of an OpenVINO directory."""
    file = path
    if path.is_dir():
        found = sorted(path.glob("*.xml"))
        if len(found) != 1:
            raise SettingsError(f"{path.name} is not an OpenVINO directory: {len(found)} .xml files in it, not one")
        file = found[0]
    try:
        return core.read_model(str(file))
    except RuntimeError as exc:
        raise SettingsError(f"{file.name} is not a model that OpenVINO can read: {_last_line(exc)}") from exc


def _info(source: Any, path: Path) -> NetworkInfo:
    """Return the metadata: inside an ONNX file, beside an OpenVINO model."""
    embedded: Mapping[str, Any] = {}
    if source.has_rt_info(["framework"]):
        embedded = {key: value.value for key, value in source.rt_info["framework"].items()}
    if "task" not in embedded:
        embedded = read_sidecar(path if path.is_dir() else path.parent)
    return network_info(embedded, path.name)


def _check_output(source: Any, info: NetworkInfo, name: str) -> Layout:
    """Return what the output holds.

    Raises:
        SettingsError: its shape is not that of a head this plugin knows.
    """
    shape = source.outputs[0].get_partial_shape()
    dims = [dim.get_length() if dim.is_static else -1 for dim in shape] if shape.rank.is_static else []
    if len(source.inputs) == 1 and len(dims) == 3 and dims[0] in (1, -1):
        if info.nms_inside and dims[2] == 6 + info.extras:
            return "rows"
        if info.one_to_one and dims[2] in (6 + info.extras, -1):
            return "one_to_one"
        if not info.one_to_one and dims[1] in (info.channels, -1):
            return "anchors"
    raise SettingsError(
        f"{name} has an output of shape {shape} where a {info.task} network of {len(info.labels)} classes has"
        f" [1, {info.channels}, anchors] or [1, detections, {6 + info.extras}]; batch must be 1"
    )


def _before_selection(vendor: Any, source: Any, info: NetworkInfo, name: str) -> Any:
    """Cut an end-to-end head before it selects its best anchors; `decode_one_to_one` does that on NumPy.

    OpenVINO 2026.4 cannot compile the selection of an ONNX export (it folds a Slice into GatherElements and refuses
    the shapes), and it is no loss: the cut network gives (1, channels, anchors) like any other.
    """
    first = next((op for op in source.get_ordered_ops() if op.get_type_name() == "TopK"), None)
    waiting = [first.input_value(0)] if first is not None else []
    for _ in range(16):  # the selection begins a few operations after the tensor looked for
        if not waiting:
            break
        output = waiting.pop(0)
        node, shape = output.get_node(), output.get_partial_shape()
        is_wide = shape.rank.is_static and len(shape) == 3 and shape[2].is_static
        if is_wide and shape[2].get_length() == info.channels and node.get_type_name() == "Transpose":
            return vendor.Model([node.input_value(0)], source.get_parameters())
        waiting.extend(node.input_values())
    raise SettingsError(f"{name} has an end-to-end head of a kind this plugin does not know; export it with nms=True")


def _input_size(source: Any, name: str) -> tuple[int, int] | None:
    """Return the fixed height and width of the input; None when every multiple of the stride goes in."""
    shape = source.inputs[0].get_partial_shape()
    if not (shape.rank.is_static and len(shape) == 4):
        raise SettingsError(f"{name} takes an input of shape {shape}, not [1, 3, height, width]")
    if shape[2].is_static and shape[3].is_static:
        return int(shape[2].get_length()), int(shape[3].get_length())
    return None


def _with_pixel_input(vendor: Any, source: Any) -> Any:
    """Put the preparation of pixels into the network: uint8 BGR rows in, RGB planes from 0 to 1 for the model."""
    shape = source.inputs[0].get_partial_shape()
    source.reshape({0: [1, 3, shape[2], shape[3]]})
    wanted = source.inputs[0].get_element_type()
    prepare = vendor.preprocess.PrePostProcessor(source)
    pixels = prepare.input()
    pixels.tensor().set_element_type(vendor.Type.u8).set_layout(vendor.Layout("NHWC")).set_color_format(
        vendor.preprocess.ColorFormat.BGR
    )
    steps = pixels.preprocess().convert_element_type(vendor.Type.f32)
    steps.convert_color(vendor.preprocess.ColorFormat.RGB).scale(255.0).convert_element_type(wanted)
    pixels.model().set_layout(vendor.Layout("NCHW"))
    prepare.output(0).tensor().set_element_type(vendor.Type.f32)
    return prepare.build()


def _precision(core: Any, device: str, *, half: bool) -> str:
    """Return the precision of the arithmetic: f32, or the half type that the device is fast in."""
    if not half or device == "AUTO":
        return "f16" if half else "f32"
    able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    return next((name for name in ("BF16", "FP16") if name in able), "FP32").lower().replace("fp", "f")


def _config(precision: str, threads: int | None) -> dict[str, Any]:
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return config


def _weights_bytes(source: Any) -> int:
    constants = (op.output(0) for op in source.get_ops() if op.get_type_name() == "Constant")
    return sum(int(np.prod(list(out.get_shape()))) * out.get_element_type().size for out in constants)


def _last_line(exc: BaseException) -> str:
    """Return the line of an OpenVINO error that says something; the first ones name its source files."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (told or lines or [repr(exc)])[-1][:300]
