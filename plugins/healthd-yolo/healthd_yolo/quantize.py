"""int8 weights and activations for an OpenVINO network, with pictures of the cameras it will watch."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]
from numpy.typing import NDArray

from healthd.errors import SettingsError
from healthd.frames import Image
from healthd_yolo.letterbox import Letterbox, Size
from healthd_yolo.openvino_runtime import core, openvino


def prepared_input(image: Image, full: Size, stride: int) -> NDArray[np.uint8]:
    """Return the picture as the engine lays it into the network's input: (1, height, width, 3) uint8 BGR."""
    letterbox = Letterbox.fit((image.shape[0], image.shape[1]), full, stride=stride)
    canvas = letterbox.blank()
    letterbox.draw(image, canvas)
    return canvas


def quantize(
    source: Path, target: Path, inputs: Sequence[NDArray[np.uint8]], advance: Callable[[int, int], None]
) -> None:
    """Write a quantized copy of an OpenVINO directory; blocking, a quarter of a second for each input.

    The head stays as it is, as in ultralytics' own export: what it computes are coordinates, not features.

    Raises:
        SettingsError: nncf is not installed.
    """
    try:
        import nncf  # noqa: PLC0415  an extra
    except ImportError as exc:
        raise SettingsError(f'int8 needs nncf ({exc}): pip install "healthd-yolo[quantize]"') from exc
    (xml,) = source.glob("*.xml")
    network = core().read_model(str(xml))
    seen = 0

    def tensor(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal seen
        seen += 1
        advance(min(seen, len(inputs)), len(inputs))
        planes: NDArray[np.float32] = np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2)).astype(np.float32)
        return planes / np.float32(255)

    quantized = nncf.quantize(
        network,
        nncf.Dataset(inputs, tensor),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(inputs),
        ignored_scope=nncf.IgnoredScope(names=_head(network)),
    )
    target.mkdir()
    openvino().save_model(quantized, str(target / xml.name), compress_to_fp16=False)
    _copy_metadata(source / "metadata.yaml", target / "metadata.yaml")


def _head(network: Any) -> list[str]:
    """Return the names of what decodes: the last module, found by its sigmoid, and every other sigmoid."""
    operations = [(op.get_friendly_name(), op.get_type_name()) for op in network.get_ordered_ops()]
    sigmoids = [name for name, kind in operations if kind == "Sigmoid"]
    module = sigmoids[-1].split("/", 1)[0] if sigmoids else "\0"
    return [
        name
        for name, kind in operations
        if kind != "Constant" and (kind == "Sigmoid" or name.startswith((f"{module}/", f"{module}.dfl")))
    ]


def _copy_metadata(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    data = yaml.safe_load(source.read_text(encoding="utf-8"))
    data["args"] = {**(data.get("args") or {}), "quantize": 8}
    target.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
