"""What errors of an output are fractions of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

_DIFFERENT = 100.0  # ranges of channels that differ by such a factor are not added up
_LEAST_OF_ALL = 1e-3  # of the whole output's range; what moves less is constant
_LEAST_USUAL = 1e-6  # of the whole output's range; what moves less is fp32's rounding
_LEAST_OF_SIZE = 1e-2  # of a channel's largest value; what moves less hardly moves
_MOST_CHANNELS = 512
_MOST_CLASSES = 4096
_FEW = 16  # numbers of a box, its classes included, in a list of boxes
# Scores between 0 and 1: what differs by less than this much less says nothing.
_LEAST_SCALES = dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), 1e-3)
_MOVING = (
    *("Concat", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Identity"),
    *("Split", "Gather", "Cast"),
)


def scale_of(
    model: onnx.ModelProto, name: str, values: Sequence[NDArray[Any]]
) -> NDArray[np.float64]:
    """Return what errors of an output are fractions of: the range that it takes over inputs.

    Where channels have ranges that differ by orders of magnitude, as boxes beside scores, every
    channel has its own. So it has where a few channels, as one huge logit, make the whole range;
    then the others are measured by the median channel at least. An output that is constant is
    measured by its size. A quantized output is as exact in all channels, and has one range.

    Args:
        model: the model.
        name: the output's name.
        values: the output for each input.

    Returns:
        One number, or one for each index of an axis, in a shape that broadcasts.
    """
    if not values[0].size:
        return np.array(1.0)
    low = high = np.full(values[0].shape, np.nan)
    for y in values:
        finite = np.where(np.isfinite(y), y, np.nan)
        low, high = np.fmin(low, finite), np.fmax(high, finite)
    sources = _sources(model, name)
    least = max((_LEAST_SCALES.get(source, 0.0) for source in sources), default=0.0)
    whole = _range(low, high, None)
    largest = float(np.nan_to_num(np.maximum(-low, high)).max())
    if not whole > 1e-6 * largest:
        return np.array(max(largest, least) or 1.0)
    quantized = any(
        name in node.output for node in model.graph.node if node.op_type == "DequantizeLinear"
    )
    for axis in () if quantized else _channel_axes(low.shape):
        each = _by_channel(low, high, axis, whole)
        if each is not None:
            shape = [-1 if other == axis else 1 for other in range(low.ndim)]
            return np.asarray(np.maximum(each, least).reshape(shape), np.float64)
    return np.array(max(whole, least))


def is_score(model: onnx.ModelProto, name: str) -> bool:
    """Say whether the numbers of an output, or some of them, lie between 0 and 1."""
    return any(source in _LEAST_SCALES for source in _sources(model, name))


def _by_channel(
    low: NDArray[np.float64], high: NDArray[np.float64], axis: int, whole: float
) -> NDArray[np.float64] | None:
    """Return a range for every index of an axis; None where one for all is right."""
    count = low.shape[axis]
    others = tuple(other for other in range(low.ndim) if other != axis)
    ranges = np.nan_to_num(_range(low, high, others))
    usual = float(np.median(ranges))
    if 1 < count <= _MOST_CLASSES and _LEAST_USUAL * whole <= usual <= whole / _DIFFERENT:
        sizes = np.nan_to_num(np.fmax.reduce(np.fmax(-low, high), axis=others))
        return np.asarray(np.maximum(np.maximum(ranges, usual), _LEAST_OF_SIZE * sizes))
    if 1 < count <= _MOST_CHANNELS:
        ranges = np.where(ranges < _LEAST_OF_ALL * whole, whole, ranges)
        if ranges.max() >= _DIFFERENT * ranges.min():
            return np.asarray(ranges)
    return None


def _channel_axes(shape: tuple[int, ...]) -> Sequence[int]:
    """Return the axes that may hold channels: rows and columns of a map are none."""
    if len(shape) != 4:  # not [N, C, H, W] or [N, H, W, C]
        return range(1, len(shape))
    if shape[1] == shape[2] != shape[3] or (shape[1] == 1 and shape[3] <= _FEW):
        return (3,)
    return (1,)


def _sources(model: onnx.ModelProto, name: str) -> set[str]:
    """Return the operators that make the numbers of a tensor, behind what only moves them."""
    makers = {made: node for node in model.graph.node for made in node.output}
    found, waiting, seen = set[str](), [name], set[str]()
    while waiting:
        tensor = waiting.pop()
        node = makers.get(tensor)
        if node is None or tensor in seen:
            continue
        seen.add(tensor)
        if node.op_type in _MOVING:
            waiting += node.input if node.op_type == "Concat" else node.input[:1]
        else:
            found.add(node.op_type)
    return found


def _range(
    low: NDArray[np.float64], high: NDArray[np.float64], axes: tuple[int, ...] | None
) -> Any:
    return np.fmax.reduce(high, axis=axes) - np.fmin.reduce(low, axis=axes)
