"""Move elements of maps on the device, exactly: SLICE, CONCAT, RESHAPE and convolutions with ones.

A convolution of 1x1 with a single one for each channel chooses channels in any order. Zeros around
a map are the padding of a depthwise convolution with a single one.
"""

from collections.abc import Sequence

import numpy as np

from mbv3c.targets.ethos_u.lowering.moves import (
    ZERO,
    Move,
    Selection,
    ToChannels,
    ToPixels,
    runs,
    stride_of,
    without_zeros,
)
from mbv3c.targets.ethos_u.lowering.tosa_graph import ConvolutionGeometry, TosaGraph, TosaTensor

_MOST_PIECES = 4  # of channels; more are chosen by a convolution
_ROWS, _COLUMNS, _CHANNELS = 1, 2, 3


def moved(graph: TosaGraph, x: TosaTensor, move: Move, zero_point: int) -> TosaTensor:
    """Move the elements of an int8 map, N, H, W, C, which keep their steps."""
    if isinstance(move, ToPixels):
        return _to_pixels(graph, x, move, zero_point)
    if isinstance(move, ToChannels):
        return _to_channels(graph, x, move, zero_point)
    return _selected(graph, x, move, zero_point)


def _selected(graph: TosaGraph, x: TosaTensor, move: Selection, zero_point: int) -> TosaTensor:
    fewer_first = len(move.channels) <= x.shape[_CHANNELS]
    if fewer_first:
        x = _channels(graph, x, move.channels, zero_point)
    x = _along(graph, x, _ROWS, move.rows, zero_point)
    x = _along(graph, x, _COLUMNS, move.columns, zero_point)
    return x if fewer_first else _channels(graph, x, move.channels, zero_point)


def _to_pixels(graph: TosaGraph, x: TosaTensor, move: ToPixels, zero_point: int) -> TosaTensor:
    # Channels of neighbours in a row of the result become the channels of a wider pixel.
    rows = [_channels(graph, x, chosen, zero_point) for chosen in move.channels]
    batch, height, width, channels = x.shape
    shape = (batch, height * move.down, width * move.across)
    whole = graph.joined(rows, _COLUMNS, "rows")
    return graph.reshape(whole, (*shape, channels // (move.down * move.across)))


def _to_channels(graph: TosaGraph, x: TosaTensor, move: ToChannels, zero_point: int) -> TosaTensor:
    batch, height, width, channels = x.shape
    low, narrow = height // move.down, width // move.across
    wide = graph.reshape(x, (batch, low, move.down * narrow, move.across * channels))
    rows = [graph.slice(wide, _COLUMNS, row * narrow, narrow) for row in range(move.down)]
    return _channels(graph, graph.joined(rows, _CHANNELS, "block"), move.channels, zero_point)


def _channels(
    graph: TosaGraph, x: TosaTensor, chosen: Sequence[int], zero_point: int
) -> TosaTensor:
    count = x.shape[_CHANNELS]
    if tuple(chosen) == tuple(range(count)):
        return x
    pieces = runs(chosen)
    if ZERO not in chosen and len(pieces) <= _MOST_PIECES:
        parts = [graph.slice(x, _CHANNELS, *piece) for piece in pieces]
        return graph.joined(parts, _CHANNELS, "chosen")
    weights = np.zeros((len(chosen), 1, 1, count), np.int8)
    for index, channel in enumerate(chosen):
        if channel != ZERO:
            weights[index, 0, 0, channel] = 1
    none = np.zeros(len(chosen), np.int32)
    sums = graph.convolution(x, weights, none, zero_point, depthwise=False)
    return graph.rescale(sums, 1.0, 0, zero_point, suffix="chosen")


def _along(
    graph: TosaGraph, x: TosaTensor, axis: int, chosen: Sequence[int], zero_point: int
) -> TosaTensor:
    """Choose rows or columns, and put zeros around them."""
    before, inner, after = without_zeros(chosen)
    if inner != tuple(range(x.shape[axis])):
        stride = stride_of(inner)
        if stride > 1:
            x = graph.slice(x, axis, inner[0], inner[-1] - inner[0] + 1)
            strides = (stride, 1) if axis == _ROWS else (1, stride)
            x = _with_a_one(graph, x, (1, 1), 0, ConvolutionGeometry(strides=strides), zero_point)
        else:
            parts = [graph.slice(x, axis, *piece) for piece in runs(inner)]
            x = graph.joined(parts, axis, "rows" if axis == _ROWS else "columns")
    if not before and not after:
        return x
    # Every window sees a pixel: the one is as far from the edges of the kernel as zeros are wide.
    both = before + after
    kernel = (both + 1, 1) if axis == _ROWS else (1, both + 1)
    pads = (both, 0, both, 0) if axis == _ROWS else (0, both, 0, both)
    return _with_a_one(graph, x, kernel, after, ConvolutionGeometry(pads), zero_point)


def _with_a_one(
    graph: TosaGraph,
    x: TosaTensor,
    kernel: tuple[int, int],
    place: int,
    geometry: ConvolutionGeometry,
    zero_point: int,
) -> TosaTensor:
    """Convolve every channel with a kernel of a row or a column that has a single one."""
    channels = x.shape[_CHANNELS]
    weights = np.zeros((kernel[0] * kernel[1], channels, 1), np.int8)
    weights[place] = 1
    none = np.zeros(channels, np.int32)
    sums = graph.convolution(
        x, weights.reshape(*kernel, channels, 1), none, zero_point, geometry, depthwise=True
    )
    return graph.rescale(sums, 1.0, 0, zero_point, suffix="moved")
