"""A model file as OpenVINO reads it: what it is, and the network in it, made ready for pixels of one size."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from healthd.errors import SettingsError
from healthd_yolo.compiled_cache import CompiledCache, fingerprint
from healthd_yolo.decode import Layout
from healthd_yolo.letterbox import Size
from healthd_yolo.metadata import NetworkInfo, network_info, read_sidecar
from healthd_yolo.openvino_reshape import NotReshapableError, check_reshape, reshape
from healthd_yolo.openvino_runtime import core, openvino, told


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """One model file. The network itself is not kept: `build` reads it again."""

    path: Path
    info: NetworkInfo
    layout: Layout
    fixed_size: Size | None
    """The one size that it was exported for; None: it was exported for all of them."""
    fixed_because: str | None
    """Why it takes no other size, None: it takes every multiple of the stride."""
    weights_bytes: int
    quantized: bool
    """Whether its weights and activations were quantized to int8."""
    fingerprint: str = ""
    """Checksum of the file; empty where it could not be made."""

    @property
    def flexible(self) -> bool:
        """Whether it takes every multiple of the stride."""
        return self.fixed_because is None

    def build(self, size: Size) -> Any:
        """Return the network for pixels (1, *size, 3) uint8 BGR; about a tenth of a second.

        Raises:
            SettingsError: the file has become unreadable, or another one.
        """
        if self.fingerprint and self.fingerprint != _checksum(self.path):
            raise SettingsError(
                f"{self.path.name} has changed since it was loaded, and pictures of another shape need it once more;"
                " unload the model, or restart healthd"
            )
        source = _open(self.path, self.info, self.layout)
        if size != self.fixed_size:
            try:
                reshape(source, self.fixed_size, size)
            except (NotReshapableError, RuntimeError) as exc:
                raise SettingsError(f"{self.path.name} cannot be computed at {size[0]}x{size[1]}: {exc}") from exc
        return _with_pixel_input(source, size)


def known_file(path: Path, cache: CompiledCache) -> NetworkFile:
    """Return what `read_file` says, from the cache where it has said it before.

    Raises:
        SettingsError: it is no network, or not one that can be decoded.
    """
    checksum = _checksum(path)
    if not checksum:
        return read_file(path)
    key = {"kind": "file", "file": checksum, "openvino": openvino().__version__}
    known = cache.get(key)
    if known is not None:
        with contextlib.suppress(KeyError, TypeError, IndexError):  # written by another state of this code
            return _from_facts(path, checksum, known.facts)
    file = replace(read_file(path), fingerprint=checksum)
    cache.put(key, _facts(file))
    return file


def _checksum(path: Path) -> str:
    """Return the checksum of the file and what is read with it; empty where it cannot be read."""
    try:
        return fingerprint(path)
    except OSError:
        return ""


def _facts(file: NetworkFile) -> Mapping[str, Any]:
    facts = {field.name: getattr(file, field.name) for field in fields(file)}
    info = {field.name: getattr(file.info, field.name) for field in fields(file.info)}
    return {**facts, "path": file.path.name, "info": {**info, "labels": list(file.info.labels.items())}}


def _from_facts(path: Path, checksum: str, facts: Mapping[str, Any]) -> NetworkFile:
    info = facts["info"]
    pairs = {name: _size(info[name]) for name in ("image_size", "keypoint_shape")}
    return NetworkFile(
        **{
            **facts,
            "path": path,
            "fingerprint": checksum,
            "fixed_size": _size(facts["fixed_size"]),
            "info": NetworkInfo(**{**info, **pairs, "labels": dict(info["labels"])}),
        }
    )


def _size(pair: list[int] | None) -> Size | None:
    return None if pair is None else (pair[0], pair[1])


def read_file(path: Path) -> NetworkFile:
    """Read a model file and find out what it is; blocking, a second where its size was baked in.

    Raises:
        SettingsError: it is no network, or not one that can be decoded.
    """
    source = _read(path)
    info = network_info(_metadata(source, path), path.name)
    layout = _check_output(source, info, path.name)
    if layout == "one_to_one":
        source = _before_selection(source, info, path.name)
    fixed = _input_size(source, path.name)
    return NetworkFile(
        path=path,
        info=info,
        layout=layout,
        fixed_size=fixed,
        fixed_because=None if fixed is None else _fixed_because(path, info, layout, fixed),
        weights_bytes=_weights_bytes(source),
        quantized=any(op.get_type_name() == "FakeQuantize" for op in source.get_ops()),
    )


def _fixed_because(path: Path, info: NetworkInfo, layout: Layout, size: Size) -> str | None:
    """Return why an export for one size takes no other; None: it does."""
    if layout == "rows":
        return "its own suppression is made for one size"
    try:
        check_reshape(lambda: _open(path, info, layout), size)
    except NotReshapableError as exc:
        return str(exc)
    except RuntimeError as exc:
        return told(exc)
    return None


def _open(path: Path, info: NetworkInfo, layout: Layout) -> Any:
    source = _read(path)
    if layout == "one_to_one":
        source = _before_selection(source, info, path.name)
    shape = source.inputs[0].get_partial_shape()
    if shape[0].is_dynamic or shape[1].is_dynamic:
        source.reshape({0: [1, 3, shape[2], shape[3]]})
    return source


def _read(path: Path) -> Any:
    """Read an `.onnx` or `.xml` file, or the one `.xml` of an OpenVINO directory."""
    file = path
    if path.is_dir():
        found = sorted(path.glob("*.xml"))
        if len(found) != 1:
            raise SettingsError(f"{path.name} is not an OpenVINO directory: {len(found)} .xml files in it, not one")
        file = found[0]
    try:
        return core().read_model(str(file))
    except RuntimeError as exc:
        if "outside the base directory" in str(exc):  # where they would be is nobody's business
            raise SettingsError(f"{file.name} wants weights from outside its folder; put them beside it") from None
        raise SettingsError(f"{file.name} is not a model that OpenVINO can read: {told(exc)}") from exc


def _metadata(source: Any, path: Path) -> Mapping[str, Any]:
    """Return the metadata: inside an ONNX file, beside an OpenVINO model."""
    embedded: Mapping[str, Any] = {}
    if source.has_rt_info(["framework"]):
        embedded = {key: value.value for key, value in source.rt_info["framework"].items()}
    if "task" not in embedded:
        embedded = read_sidecar(path if path.is_dir() else path.parent)
    return embedded


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


def _before_selection(source: Any, info: NetworkInfo, name: str) -> Any:
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
            return openvino().Model([node.input_value(0)], source.get_parameters())
        waiting.extend(node.input_values())
    raise SettingsError(f"{name} has an end-to-end head of a kind this plugin does not know; export it with nms=True")


def _input_size(source: Any, name: str) -> Size | None:
    """Return the fixed height and width of the input; None when every multiple of the stride goes in."""
    shape = source.inputs[0].get_partial_shape()
    if not (shape.rank.is_static and len(shape) == 4):
        raise SettingsError(f"{name} takes an input of shape {shape}, not [1, 3, height, width]")
    if shape[2].is_static and shape[3].is_static:
        return int(shape[2].get_length()), int(shape[3].get_length())
    return None


def _with_pixel_input(source: Any, size: Size) -> Any:
    """Put the preparation of pixels into the network: uint8 BGR rows in, RGB planes from 0 to 1 for the model."""
    preprocess, types = openvino().preprocess, openvino().Type
    wanted = source.inputs[0].get_element_type()
    prepare = preprocess.PrePostProcessor(source)
    pixels = prepare.input()
    pixels.tensor().set_element_type(types.u8).set_layout(openvino().Layout("NHWC")).set_color_format(
        preprocess.ColorFormat.BGR
    ).set_shape([1, *size, 3])
    steps = pixels.preprocess().convert_element_type(types.f32)
    steps.convert_color(preprocess.ColorFormat.RGB).scale(255.0).convert_element_type(wanted)
    pixels.model().set_layout(openvino().Layout("NCHW"))
    prepare.output(0).tensor().set_element_type(types.f32)
    return prepare.build()


def _weights_bytes(source: Any) -> int:
    constants = (op.output(0) for op in source.get_ops() if op.get_type_name() == "Constant")
    return sum(int(np.prod(list(out.get_shape()))) * out.get_element_type().size for out in constants)
