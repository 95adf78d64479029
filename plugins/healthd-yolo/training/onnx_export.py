"""Turn a trained checkpoint into the ONNX file that the package ships."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

OPSET = 17
_KEPT_METADATA = (
    "version", "stride", "task", "head", "batch", "imgsz", "names", "channels", "end2end", "kpt_shape",
)  # fmt: skip


def export(checkpoint: Path, target: Path, image_size: int) -> None:
    """Export a checkpoint with its end-to-end head, which needs no NMS; batch, height and width stay variable.

    Input `images` (batch, 3, height, width) float32 RGB, 0 to 1. Output `output0` (batch, 300, 6 or 57): box_xyxy,
    confidence, class_id and, for pose, 17 times x, y and visibility, in pixels of the input, best first.
    """
    from ultralytics import YOLO  # noqa: PLC0415 - only after the environment is set

    exported = YOLO(str(checkpoint)).export(
        format="onnx", imgsz=image_size, opset=OPSET, simplify=True, dynamic=True, nms=False, device="cpu"
    )
    model = onnx.load(exported)
    _split_rows(model.graph)
    _describe(model, f"healthd demo model {target.stem}, trained on rendered pictures")
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _split_rows(graph: Any) -> None:
    """Cut the candidates into box, scores and keypoints by one Split where ultralytics wrote three Slices (pose).

    OpenVINO 2026.4 drops a Slice before a GatherElements when it compiles, and then refuses the shapes.
    """
    gathered = {node.input[0] for node in graph.node if node.op_type == "GatherElements"}
    sources = [node.input[0] for node in graph.node if node.op_type == "Slice" and node.output[0] in gathered]
    if not sources:
        return
    constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    slices = [node for node in graph.node if node.op_type == "Slice" and node.input[0] == sources[0]]
    slices.sort(key=lambda node: int(constants[node.input[1]][0]))
    starts = [int(constants[node.input[1]][0]) for node in slices]
    classes = starts[2] - starts[1]
    columns = graph.output[0].type.tensor_type.shape.dim[2].dim_value - 2 + classes
    sizes = np.diff([*starts, columns]).astype(np.int64)
    graph.initializer.append(numpy_helper.from_array(sizes, "row_sizes"))
    parts = [node.output[0] for node in slices]
    split = onnx.helper.make_node("Split", [sources[0], "row_sizes"], parts, "split_rows", axis=2)
    nodes = [node for node in graph.node if node not in slices]
    place = next(index for index, node in enumerate(nodes) if sources[0] in node.output)
    nodes.insert(place + 1, split)
    del graph.node[:]
    graph.node.extend(nodes)


def _describe(model: Any, description: str) -> None:
    """Keep what a reader of the file needs, and no path, date or machine."""
    facts = {entry.key: entry.value for entry in model.metadata_props if entry.key in _KEPT_METADATA}
    facts |= {
        "description": description,
        "author": "healthd",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
    }
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, facts)
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
