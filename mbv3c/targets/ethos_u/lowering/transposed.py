"""Compute transposed convolutions as convolutions, one for each phase of the result.

    out[s · q + r] = Σ x[i] · w[k]   over   s · i + k = s · q + r + pad

So an output of phase r sees the weights k = (r + pad) mod s, and every s-th from there on, and its
pixels are neighbours. The results of the phases are put side by side, as those of an upsampling.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from mbv3c.targets.ethos_u.lowering.composite import shape_of
from mbv3c.targets.ethos_u.lowering.resizing import side_by_side
from mbv3c.targets.ethos_u.lowering.tosa_graph import ConvolutionGeometry, TosaGraph, TosaTensor

_LARGEST_STRIDE = 8  # of which each way has so many convolutions


@dataclass(frozen=True)
class Phase:
    """What the outputs of one phase see along an axis.

    Attributes:
        taps: the weights that they see, in the order of the pixels; none is an empty window.
        before, after: padding of the map; negative where pixels of the map are left out.
    """

    taps: tuple[int, ...]
    before: int
    after: int


def is_possible_transposed(call: relax.Call) -> bool:
    """Say whether an Ethos-U computes a transposed convolution of N, C, H, W."""
    groups, channels = int(call.attrs.groups), int(call.args[0].ty.shape.values[1])
    if max(int(stride) for stride in call.attrs.strides) > _LARGEST_STRIDE:
        return False
    return groups == 1 or groups == channels == shape_of(call)[1]


def dilated(weights: NDArray[np.int8], dilations: Sequence[int]) -> NDArray[np.int8]:
    """Put zeros between weights I, O, H, W."""
    down, across = dilations
    *channels, height, width = weights.shape
    shape = (*channels, (height - 1) * down + 1, (width - 1) * across + 1)
    wide = np.zeros(shape, np.int8)
    wide[:, :, ::down, ::across] = weights
    return wide


def phases(size: int, out: int, kernel: int, stride: int, pad: int) -> list[Phase]:
    """Return what the outputs of each phase see along an axis.

    Args:
        size: pixels of the map.
        out: pixels of the result.
        kernel: weights along the axis.
        stride: pixels of the result for one of the map.
        pad: padding in front, as ONNX has it.
    """
    count = -(-out // stride)
    found = []
    for phase in range(stride):
        shift, first = divmod(phase + pad, stride)
        taps = tuple(range(first, kernel, stride))[::-1]
        reach = max(len(taps), 1) - 1
        found.append(Phase(taps, reach - shift, count + shift - size))
    return found


def transposed(
    graph: TosaGraph,
    x: TosaTensor,
    call: relax.Call,
    weights: NDArray[np.int8],
    bias: NDArray[np.int32],
    zero_point: int,
    finish: Callable[[TosaTensor], TosaTensor],
) -> TosaTensor:
    """Add a transposed convolution.

    Args:
        graph: the graph that gets the operations.
        x: the map, N, H, W, C.
        call: the operation in Relax.
        weights: its weights, I, O, H, W.
        bias: bias of each output channel.
        zero_point: zero point of the map.
        finish: makes int8 of the sums.
    """
    attributes = call.attrs
    depthwise = int(attributes.groups) > 1
    strides = [int(stride) for stride in attributes.strides]
    kernel = dilated(weights, [int(each) for each in attributes.dilation])
    out = shape_of(call)[2:]
    rows, columns = (
        phases(x.shape[1 + axis], out[axis], kernel.shape[2 + axis], strides[axis], int(pad))
        for axis, pad in enumerate(attributes.padding[:2])
    )
    made = []
    for row in rows:
        for column in columns:
            seen = _cut(graph, _cut(graph, x, 1, row), 2, column)
            pads = [max(pad, 0) for pad in (row.before, column.before, row.after, column.after)]
            sums = graph.convolution(
                seen,
                _in_order_of_tosa(kernel, row, column, depthwise=depthwise),
                bias,
                zero_point,
                ConvolutionGeometry(pads),
                depthwise=depthwise,
            )
            made.append(finish(sums))
    result = side_by_side(graph, made, len(columns))
    for axis in (1, 2):
        if result.shape[axis] > out[axis - 1]:
            result = graph.slice(result, axis, 0, out[axis - 1])
    return result


def _cut(graph: TosaGraph, x: TosaTensor, axis: int, phase: Phase) -> TosaTensor:
    """Leave out the pixels at the edges that no window sees."""
    first, last = max(-phase.before, 0), max(-phase.after, 0)
    if not first and not last:
        return x
    return graph.slice(x, axis, first, x.shape[axis] - first - last)


def _in_order_of_tosa(
    kernel: NDArray[np.int8], row: Phase, column: Phase, *, depthwise: bool
) -> NDArray[np.int8]:
    if row.taps and column.taps:
        seen = kernel[:, :, list(row.taps)][:, :, :, list(column.taps)]
    else:
        taps = (max(len(row.taps), 1), max(len(column.taps), 1))
        seen = np.zeros((*kernel.shape[:2], *taps), np.int8)
    # For depthwise H, W, C, 1, else O, H, W, I.
    return seen.transpose((2, 3, 0, 1) if depthwise else (1, 2, 3, 0))
