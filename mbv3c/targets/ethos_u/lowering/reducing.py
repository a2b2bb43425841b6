"""Means and maxima over pixels, rows, columns or channels.

A mean is a convolution with ones, rounded once, or AVG_POOL2D, which rounds to the steps of its
input. A maximum over channels is MAX_POOL2D of a map that has them as columns.
"""

from collections.abc import Sequence

import numpy as np
from tvm import relax

from mbv3c.lowering.quantization import Quantization
from mbv3c.targets.ethos_u.lowering.composite import shape_of
from mbv3c.targets.ethos_u.lowering.layout import axis_on_device, on_device
from mbv3c.targets.ethos_u.lowering.tosa_graph import TosaGraph, TosaTensor

_LARGEST_KERNEL = 64
_LARGEST_WINDOW = 256  # of a maximum
_CHANNELS = 3  # the axis on the device
_IMAGE = 4  # axes of N, C, H, W


def axes_of(reduction: relax.Call) -> list[int]:
    """Return the axes on the device over which a mean or maximum is; none if it cannot be."""
    before, after = shape_of(reduction.args[0]), shape_of(reduction)
    rank = len(before)
    axes = [int(axis) % rank for axis in reduction.attrs.axis or ()]
    if not axes or 0 in axes or rank <= 2:
        return []
    found = sorted(axis_on_device(axis, rank) for axis in axes)
    if _CHANNELS not in found:
        return found
    kept = len(after) == rank == _IMAGE  # otherwise rows would become channels
    return found if found == [_CHANNELS] and kept else []


def is_possible_maximum(reduction: relax.Call) -> bool:
    """Say whether windows of a maximum are not too large."""
    device = on_device(shape_of(reduction.args[0]))
    return all(device[axis] <= _LARGEST_WINDOW for axis in axes_of(reduction))


def mean(
    graph: TosaGraph,
    x: TosaTensor,
    call: relax.Call,
    before: Quantization,
    after: Quantization,
    way: str,
) -> TosaTensor:
    """Add a mean.

    Args:
        graph: the graph that gets the operations.
        x: the map, N, H, W, C.
        call: the operation in Relax.
        before: what the integers of the map stand for.
        after: what those of the result stand for.
        way: one of `options.MEANS`.
    """
    axes = axes_of(call)
    channels = x.shape[_CHANNELS]
    window = _window(x.shape, axes)
    if axes == [1, 2] and window is not None and window != x.shape[1:3]:
        x = graph.reshape(x, (x.shape[0], *window, channels))  # all pixels, in other rows
    kernel = [x.shape[axis] if axis in axes else 1 for axis in (1, 2)]
    zero = before.zero_point
    if axes == [_CHANNELS]:
        ones, made = np.ones((1, 1, 1, channels), np.int8), 1
        scale = before.scale / channels
    elif way == "pool" or window is None:
        pooled = graph.average_pool(x, zero, kernel, (1, 1), "mean")
        factor = before.scale / after.scale
        result = graph.rescale(pooled, factor, zero, after.zero_point)
        return _in_shape(graph, result, call)
    else:
        ones, made = np.ones((*kernel, channels, 1), np.int8), channels
        scale = before.scale / (kernel[0] * kernel[1])
    none = np.zeros(made, np.int32)
    sums = graph.convolution(x, ones, none, zero, depthwise=axes != [_CHANNELS])
    factor = np.float64(scale) / after.scale
    return _in_shape(graph, graph.rescale(sums, factor, 0, after.zero_point), call)


def maximum(graph: TosaGraph, x: TosaTensor, call: relax.Call) -> TosaTensor:
    """Add a maximum, in the steps of the map."""
    axes = axes_of(call)
    if axes == [_CHANNELS]:
        batch, height, width, channels = x.shape
        x = graph.reshape(x, (batch, height * width, channels, 1))
        axes = [2]
    kernel = [x.shape[axis] if axis in axes else 1 for axis in (1, 2)]
    return _in_shape(graph, graph.max_pool(x, kernel, (1, 1), [0] * 4), call)


def rounds_twice(call: relax.Call, way: str) -> bool:
    """Say whether a mean is also rounded to a step of its input; `way` as for `mean`."""
    axes = axes_of(call)
    if axes == [_CHANNELS]:
        return False
    return way == "pool" or _window(on_device(shape_of(call.args[0])), axes) is None


def _window(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, int] | None:
    """Return the height and width of the pixels of a mean that one convolution sees.

    A mean over all pixels does not mind where rows end. None if a kernel would be too large.
    """
    height, width = (shape[axis] if axis in axes else 1 for axis in (1, 2))
    if max(height, width) <= _LARGEST_KERNEL:
        return height, width
    if list(axes) != [1, 2]:
        return None
    pixels = height * width
    sizes = range(_LARGEST_KERNEL, 0, -1)
    rows = next((size for size in sizes if pixels % size == 0), 1)
    return (rows, pixels // rows) if pixels // rows <= _LARGEST_KERNEL else None


def _in_shape(graph: TosaGraph, result: TosaTensor, call: relax.Call) -> TosaTensor:
    shape = on_device(shape_of(call))
    return result if result.shape == shape else graph.reshape(result, shape)
