"""Nodes that only move elements: Slice, Split, Pad, Tile, Expand, Gather, DepthToSpace and so on.

What such a node does shows when onnxruntime moves numbered elements. A map is then one of these:

    out[c, h, w] = x[channels[c], rows[h], columns[w]]               a selection; -1 is a zero
    out[c, h * b + y, w * b + x'] = x[channels[c, y, x'], h, w]      channels to pixels
    out[k, h, w] = x[c[k], h * b + y[k], w * b + x'[k]]              pixels to channels
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mbv3c.parity.reference import session
from mbv3c.targets.ethos_u.lowering.layout import on_device

MOVES = frozenset(
    {
        *("Slice", "Split", "Pad", "Tile", "Expand", "Gather"),
        *("DepthToSpace", "SpaceToDepth"),
    }
)
_PADDED_WITH = 2  # the input of a Pad that says so
ZERO = -1  # the number of what is no element, but a zero of a Pad
_MOST_NUMBERED = 1 << 24  # elements that fp32 counts
_MOST_RUNS = 64  # pieces that a map is put together of
_LARGEST_PAD = 63  # on both sides of an axis together
_Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """The channels, rows and columns of a map that a result has; `ZERO` is a row of zeros."""

    channels: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True)
class ToPixels:
    """Channels become pixels.

    Attributes:
        down, across: pixels of the result for one of the map.
        channels: for each of `down` rows, and of its `across` pixels, the channels of the map.
    """

    down: int
    across: int
    channels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ToChannels:
    """Blocks of pixels become channels.

    Attributes:
        down, across: size of a block.
        channels: for each channel of the result its place among the channels of a block, row by
            row, pixel by pixel.
    """

    down: int
    across: int
    channels: tuple[int, ...]


Move = Selection | ToPixels | ToChannels


def numbers_moved(
    node: onnx.NodeProto,
    stored: Mapping[str, onnx.TensorProto],
    shape: Sequence[int],
    opset: int,
) -> list[_Numbers] | None:
    """Return for each result of a node the numbers of the elements that it moves there.

    Elements are counted from 0 on; `ZERO` stands for a zero that a Pad puts there.

    Args:
        node: the node, of one of the operators `MOVES`.
        stored: the constants of its graph.
        shape: the shape of its first input.
        opset: the version of ONNX's operators.

    Returns:
        None for a node that needs more than constants.
    """
    if node.op_type == "Pad" and len(node.input) > _PADDED_WITH:
        moving = onnx.NodeProto()
        moving.CopyFrom(node)
        moving.input[_PADDED_WITH] = ""
        node = moving
    constants = [name for name in node.input[1:] if name]
    size = int(np.prod(shape))
    if size >= _MOST_NUMBERED or not all(name in stored for name in constants):
        return None
    graph = helper.make_graph(
        [node],
        node.name,
        [helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info(name) for name in node.output],
        [stored[name] for name in dict.fromkeys(constants)],
    )
    for output in graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    opsets = [helper.make_opsetid("", opset)]
    opened = session(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    numbered = np.arange(1, size + 1, dtype=np.float32).reshape(tuple(shape))
    moved = opened.run(None, {node.input[0]: numbered})
    return [np.asarray(array).astype(np.int64) - 1 for array in moved]


def padded_with(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> float | None:
    """Return the number that a Pad puts around; None if it is computed, 0 for other nodes."""
    if node.op_type != "Pad" or len(node.input) <= _PADDED_WITH or not node.input[_PADDED_WITH]:
        return 0.0
    number = stored.get(node.input[_PADDED_WITH])
    return None if number is None else float(numpy_helper.to_array(number).reshape(()))


def move_of(numbers: _Numbers, before: Sequence[int], after: Sequence[int]) -> Move | None:
    """Return how an Ethos-U can move the elements of a map; None if it cannot.

    Args:
        numbers: the number of the element that is moved to each place of the result, in order.
        before: the shape of the map in the model.
        after: the shape of the result in the model, of as many axes.
    """
    if len(before) != len(after) or before[0] != 1 or after[0] != 1:
        return None
    x, y = (_planes(shape) for shape in (before, after))
    places = numbers.reshape(y)
    return _selection(places, x) or _to_pixels(places, x) or _to_channels(places, x)


def keeps_order(
    before: Sequence[int], after: Sequence[int], axes: Sequence[int] | None = None
) -> bool:
    """Say whether a Reshape, or a Transpose with these axes, moves nothing on the device."""
    numbers = np.arange(int(np.prod(before))).reshape(tuple(before))
    moved = numbers.transpose(axes) if axes is not None else numbers.reshape(tuple(after))
    first, second = (
        array.reshape(_planes(shape)).transpose(1, 2, 0).ravel()
        for array, shape in ((numbers, before), (moved, after))
    )
    return bool(np.array_equal(first, second))


def _planes(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return channels, height and width of one map."""
    _, height, width, channels = on_device(shape)
    return channels, height, width


def _selection(places: _Numbers, x: tuple[int, int, int]) -> Selection | None:
    found = np.stack(np.unravel_index(np.maximum(places, 0), x))
    found = np.where(places == ZERO, ZERO, found)
    chosen = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        chosen.append(found[axis].max(axis=others))
    grid = np.meshgrid(*chosen, indexing="ij")
    seen = np.ravel_multi_index(tuple(np.maximum(each, 0) for each in grid), x)
    if not np.array_equal(np.where(np.min(grid, axis=0) == ZERO, ZERO, seen), places):
        return None
    channels, rows, columns = (tuple(int(place) for place in each) for each in chosen)
    if not _is_possible_axis(rows) or not _is_possible_axis(columns):
        return None
    return Selection(channels, rows, columns)


def _is_possible_axis(chosen: tuple[int, ...]) -> bool:
    before, inner, after = without_zeros(chosen)
    if ZERO in inner or before + after > _LARGEST_PAD:
        return False
    return stride_of(inner) > 1 or len(runs(inner)) <= _MOST_RUNS


def _to_pixels(places: _Numbers, x: tuple[int, int, int]) -> ToPixels | None:
    (channels, height, width), (count, tall, wide) = x, places.shape
    down, across = tall // height, wide // width
    if (height * down, width * across) != (tall, wide) or count * down * across != channels:
        return None
    first = places[:, :down, :across]
    if (first % (height * width)).any():
        return None
    block = first // (height * width)  # count, down, across
    pixels = np.arange(height * width).reshape(height, 1, width, 1)
    seen = block[:, None, :, None, :] * (height * width) + pixels
    if not np.array_equal(seen.reshape(places.shape), places):
        return None
    by_row = block.transpose(1, 2, 0).reshape(down, -1)
    return ToPixels(down, across, tuple(tuple(int(place) for place in row) for row in by_row))


def _to_channels(places: _Numbers, x: tuple[int, int, int]) -> ToChannels | None:
    (channels, height, width), (_, low, narrow) = x, places.shape
    down, across = height // low, width // narrow
    if (low * down, narrow * across) != (height, width):
        return None
    first = places[:, 0, 0]
    if (first < 0).any():
        return None
    channel, row, column = np.unravel_index(first, x)
    if (row >= down).any() or (column >= across).any():
        return None
    shifts = (np.arange(low) * down * width)[:, None] + np.arange(narrow) * across
    if not np.array_equal(first[:, None, None] + shifts, places):
        return None
    order = (row * across + column) * channels + channel
    return ToChannels(down, across, tuple(int(place) for place in order))


def without_zeros(chosen: Sequence[int]) -> tuple[int, tuple[int, ...], int]:
    """Return how many zeros come first, what lies between, and how many come last."""
    real = [index for index, place in enumerate(chosen) if place != ZERO]
    if not real:
        return 0, tuple(chosen), 0
    first, last = real[0], real[-1] + 1
    return first, tuple(chosen[first:last]), len(chosen) - last


def stride_of(chosen: Sequence[int]) -> int:
    """Return the distance of neighbours, if it is 2 or 3 everywhere; else 1."""
    steps = set(np.diff(chosen).tolist())
    return int(steps.pop()) if steps in ({2}, {3}) else 1


def runs(chosen: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pieces of neighbours: the first of each, and how many there are."""
    pieces: list[tuple[int, int]] = []
    for place in chosen:
        if pieces and place == sum(pieces[-1]):
            first, count = pieces[-1]
            pieces[-1] = first, count + 1
        else:
            pieces.append((place, 1))
    return pieces


def numbers_shuffled(parted: Sequence[int], axes: Sequence[int]) -> _Numbers:
    """Return the numbers that a Reshape to `parted`, a Transpose and a Reshape leave, in order."""
    numbers = np.arange(int(np.prod(parted))).reshape(tuple(parted))
    return np.ascontiguousarray(numbers.transpose(axes)).reshape(-1)


def numbers_of(constant: Any) -> _Numbers:
    """Return the numbers in the order of the result, as `move_of` takes them."""
    return np.asarray(constant, np.int64) - 1
