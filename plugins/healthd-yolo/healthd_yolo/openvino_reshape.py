"""A network that was exported for one size, made to take another, where that can be done with certainty.

An export without `dynamic=True` has its size baked in: tables of anchors, and the shapes of a few Reshapes. The tables
are recognized by their numbers and written anew (`healthd_yolo.anchors`), the shapes are recalculated, and then every
tensor of the network is looked at: each of its dimensions must be what it was, or follow from the size. Whatever does
not fit leaves the network as it was exported; nothing is guessed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from healthd_yolo.anchors import AnchorGrid, rebuilt
from healthd_yolo.letterbox import Size
from healthd_yolo.openvino_runtime import core, openvino, told

_FINEST = 2
"""The first convolution of a network halves its input: maps have this stride, and its doubles."""


class NotReshapableError(Exception):
    """This network stays at the size it was exported for; the message says why."""


def reshape(source: Any, old: Size | None, new: Size) -> None:
    """Make a network take (1, 3, *new); `old`: the one size that it was exported for, None for a dynamic export.

    Raises:
        NotReshapableError: it cannot be done with certainty; the network is spoilt.
    """
    parameter = source.get_parameters()[0]
    if old is None:
        parameter.set_partial_shape(openvino().PartialShape([1, 3, *new]))
        source.validate_nodes_and_infer_types()
        return
    grid = _grid(source, old)
    before = [(op, _shapes(op)) for op in source.get_ordered_ops() if op.get_type_name() != "Constant"]
    _write_anew(source, grid, grid.resized(new))
    parameter.set_partial_shape(openvino().PartialShape([1, 3, *new]))
    try:
        source.validate_nodes_and_infer_types()
    except RuntimeError as exc:
        raise NotReshapableError(f"its shapes do not follow the input: {told(exc)}") from exc
    _check_shapes(before, _followers(grid, new))


def check_reshape(read: Callable[[], Any], old: Size) -> None:
    """Check on a test picture that the rewritten network gives, at its own size, what the original gives, bit by bit.

    `read`: gives the network as it was exported, a fresh one at each call.

    Raises:
        NotReshapableError: it does not, or it cannot be rewritten.
    """
    original, rewritten = read(), read()
    reshape(rewritten, old, old)
    picture = _test_picture(old)
    answers = []
    for network in (original, rewritten):
        request = core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
        request.infer({0: picture.astype(network.inputs[0].get_element_type().to_dtype())})
        answers.append(request.get_output_tensor(0).data.copy())
    if not np.array_equal(answers[0], answers[1], equal_nan=True):
        raise NotReshapableError("rewritten, it says something else of a test picture")


def _test_picture(size: Size) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return (1, 3, *size) from 0 to 1: edges, ramps and noise, so that few activations are zero."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[: size[0], : size[1]] / 32.0
    planes = [0.5 + 0.3 * np.sin(x * (turn + 1)) * np.cos(y * (turn + 2)) for turn in range(3)]
    noisy = np.stack(planes) + random.normal(0, 0.1, (3, *size))
    picture: np.ndarray[Any, np.dtype[np.float32]] = np.clip(noisy, 0, 1).astype(np.float32)[None]
    return picture


def _grid(source: Any, size: Size) -> AnchorGrid:
    shape = source.outputs[0].get_partial_shape()
    anchors = shape[2].get_length() if shape.rank.is_static and len(shape) == 3 and shape[2].is_static else 0
    grid = AnchorGrid.of(size, anchors)
    if grid is None:
        raise NotReshapableError(f"it has {anchors} anchors, which no known head has at {size[0]}x{size[1]}")
    return grid


def _write_anew(source: Any, old: AnchorGrid, new: AnchorGrid) -> None:
    constant = openvino().opset13.constant
    for op in source.get_ordered_ops():
        if op.get_type_name() == "Constant":
            shape = list(op.output(0).get_shape())
            if shape and shape[-1] == old.count:
                table = rebuilt(op.get_data(), old, new)
                if table is None:
                    raise NotReshapableError(f"it holds a table {shape} that is none of anchors")
                op.output(0).replace(constant(table).output(0))
        elif op.get_type_name() == "Reshape":
            pattern = op.input_value(1).get_node()
            if pattern.get_type_name() == "Constant":
                wanted = _pattern([int(side) for side in pattern.get_data().reshape(-1)], old, new)
                op.input(1).replace_source_output(constant(np.array(wanted, dtype=np.int64)).output(0))


def _pattern(sides: list[int], old: AnchorGrid, new: AnchorGrid) -> list[int]:
    """Return the target of a Reshape for the new size: a map, its cells in a row, or all anchors come last."""
    maps = dict(zip(old.levels, new.levels, strict=True))
    if len(sides) >= 4 and (sides[-2], sides[-1]) in maps:
        return [*sides[:-2], *maps[sides[-2], sides[-1]]]
    rows = {rows * columns for rows, columns in old.levels} | {old.count}
    if -1 not in sides and sides and sides[-1] in rows:
        return [*sides[:-1], -1]
    return sides


def _shapes(op: Any) -> list[tuple[int, ...] | None]:
    shapes = [output.get_partial_shape() for output in op.outputs()]
    return [tuple(shape.to_shape()) if shape.is_static else None for shape in shapes]


def _followers(grid: AnchorGrid, new: Size) -> set[tuple[int, int]]:
    """Return what a dimension may have become: (before, after) of sides, of cells of a map, of all anchors."""
    pairs = {(grid.count, grid.resized(new).count)}
    stride = 1
    while stride <= grid.strides[-1]:
        height, width = (old // stride for old in grid.size)
        high, wide = (side // stride for side in new)
        pairs |= {(height, high), (width, wide), (height * width, high * wide)}
        stride *= _FINEST
    return pairs


def _check_shapes(before: Iterable[tuple[Any, list[tuple[int, ...] | None]]], allowed: set[tuple[int, int]]) -> None:
    for op, shapes in before:
        for old, new in zip(shapes, _shapes(op), strict=True):
            if old is None or new is None:
                raise NotReshapableError(f"{op.get_friendly_name()} has no fixed shape")
            same_rank = len(old) == len(new)
            if not same_rank or any(a != b and (a, b) not in allowed for a, b in zip(old, new, strict=True)):
                raise NotReshapableError(f"{op.get_friendly_name()} turned from {old} into {new}")
