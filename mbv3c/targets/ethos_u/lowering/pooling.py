"""Compute maxima and averages over windows.

An average without padding is one AVG_POOL2D, if the steps stay. Else it is a depthwise convolution
with ones, which is rounded once. Where the padding does not count, windows at the edges divide by
less. There every run of windows with the same divisor has its own convolution, and they are put
side by side.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm import relax

from mbv3c.lowering.quantization import Quantization
from mbv3c.targets.ethos_u.lowering.composite import shape_of
from mbv3c.targets.ethos_u.lowering.tosa_graph import (
    ConvolutionGeometry,
    TosaGraph,
    TosaTensor,
)

LARGEST_STRIDE = 3  # vela refuses larger ones for Ethos-U55 and U65
_LAYOUTS = ("NCHW", "NCW")
_LARGEST_WINDOW = 64  # that a depthwise convolution may have


@dataclass(frozen=True)
class Axis:
    """How windows move along one axis.

    Attributes:
        size: pixels of the map.
        windows: number of windows.
        taps: pixels of a window.
        stride: pixels from one window to the next.
        before, after: padding, as the model says it; rounded up, the last windows reach further.
    """

    size: int
    windows: int
    taps: int
    stride: int
    before: int
    after: int

    @property
    def reaches(self) -> int:
        """Padding that the last window needs; negative if it leaves pixels of the map."""
        return (self.windows - 1) * self.stride + self.taps - self.before - self.size

    def runs(self, *, padding_counts: bool) -> Iterator["Run"]:
        """Yield neighbouring windows that divide by the same number of pixels."""
        lows = [index * self.stride - self.before for index in range(self.windows)]
        counts = [
            min(low + self.taps, self.size + self.after) - low
            if padding_counts
            else min(low + self.taps, self.size) - max(low, 0)
            for low in lows
        ]
        first = 0
        for index in range(1, self.windows + 1):
            if index == self.windows or counts[index] != counts[first]:
                low, high = lows[first], lows[index - 1] + self.taps
                yield Run(
                    max(low, 0),
                    min(high, self.size),
                    max(-low, 0),
                    max(high - self.size, 0),
                    counts[first],
                )
                first = index


@dataclass(frozen=True)
class Run:
    """Neighbouring windows.

    Attributes:
        start, end: the pixels of the map that they see.
        before, after: padding beyond those.
        count: by how many pixels they divide.
    """

    start: int
    end: int
    before: int
    after: int
    count: int


@dataclass(frozen=True)
class Pool:
    """A pooling that an Ethos-U computes.

    Attributes:
        axes: the windows down and across.
        padding_counts: whether an average divides by the padding, too.
    """

    axes: tuple[Axis, Axis]
    padding_counts: bool

    @property
    def kernel(self) -> tuple[int, int]:
        return self.axes[0].taps, self.axes[1].taps

    @property
    def strides(self) -> tuple[int, int]:
        return self.axes[0].stride, self.axes[1].stride


def pool_of(call: relax.Call) -> Pool | None:
    """Return what a pooling of pixels does; None if an Ethos-U cannot compute it."""
    attributes = call.attrs
    if str(attributes.layout) not in _LAYOUTS or any(
        int(each) != 1 for each in attributes.dilation
    ):
        return None
    sizes, windows = shape_of(call.args[0])[2:], shape_of(call)[2:]
    pads = [int(pad) for pad in attributes.padding]
    axes = [Axis(1, 1, 1, 1, 0, 0)] * (2 - len(sizes))  # a row has a height of 1
    for index, size in enumerate(sizes):
        stride = int(attributes.strides[index]) if windows[index] > 1 else 1
        taps = int(attributes.pool_size[index])
        axis = Axis(size, windows[index], taps, stride, *pads[index :: len(sizes)])
        first_is_empty = axis.before >= taps
        last_is_empty = axis.reaches >= taps
        if stride > LARGEST_STRIDE or taps > _LARGEST_WINDOW or first_is_empty or last_is_empty:
            return None
        axes.append(axis)
    return Pool((axes[0], axes[1]), bool(attributes.count_include_pad))


def maximum(graph: TosaGraph, x: TosaTensor, pool: Pool) -> TosaTensor:
    """Return the maximum of every window, in the steps of the input."""
    padding = []
    for index, axis in enumerate(pool.axes):
        if axis.reaches < 0:
            x = graph.slice(x, index + 1, 0, axis.size + axis.reaches)
        padding += [axis.before, max(axis.reaches, 0)]
    return graph.max_pool(x, pool.kernel, pool.strides, padding)


def average(
    graph: TosaGraph, x: TosaTensor, pool: Pool, before: Quantization, after: Quantization
) -> TosaTensor:
    """Return the average of every window.

    Args:
        graph: the graph that gets the operations.
        x: the map, N, H, W, C.
        pool: the windows.
        before: what the integers of the map stand for.
        after: what those of the result stand for.
    """
    rows, columns = (list(axis.runs(padding_counts=pool.padding_counts)) for axis in pool.axes)
    parts = [(row, column) for row in rows for column in columns]
    (first, *more) = parts
    padded = any((each.before, each.after) != (0, 0) for each in first)
    if not more and not padded and before == after:
        seen = _seen(graph, x, *first)
        return graph.average_pool(seen, before.zero_point, pool.kernel, pool.strides)
    zeros = (before.zero_point, after.zero_point)
    ones = np.ones((*pool.kernel, x.shape[3], 1), np.int8)
    none = np.zeros(x.shape[3], np.int32)
    made = []
    for row, column in parts:
        geometry = ConvolutionGeometry(
            (row.before, column.before, row.after, column.after), pool.strides
        )
        seen = _seen(graph, x, row, column)
        sums = graph.convolution(seen, ones, none, zeros[0], geometry, depthwise=True)
        factor = before.scale / after.scale / (row.count * column.count)
        made.append(graph.rescale(sums, factor, 0, zeros[1], suffix="part" if more else ""))
    across = len(columns)
    whole = [
        graph.joined(made[start : start + across], 2, "row" if len(rows) > 1 else "")
        for start in range(0, len(made), across)
    ]
    return graph.joined(whole, 1, "")


def _seen(graph: TosaGraph, x: TosaTensor, row: Run, column: Run) -> TosaTensor:
    """Cut out the pixels that some windows see."""
    for index, run in ((1, row), (2, column)):
        if (run.start, run.end) != (0, x.shape[index]):
            x = graph.slice(x, index, run.start, run.end - run.start)
    return x
