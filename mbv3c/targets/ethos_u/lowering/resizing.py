"""Enlarge maps by whole numbers.

To the nearest pixel, every pixel is repeated: by RESIZE where the number is a power of 2, else by
CONCAT.

Bilinear upsampling becomes convolutions: an Ethos-U55 or -U65 has nothing else. Repeat every pixel
of a row over the `factor` pixels of the output that it becomes. Linear interpolation (half-pixel,
the edges repeated) then is a mean over a box as wide as `factor`, around the middle of a pixel of
the output. So every phase, the position of an output within a pixel, has a short kernel of
integers. In two dimensions a kernel is the product of two. For a factor of 2 the kernels are

    phase 0: (1, 3, 0) / 4        phase 1: (0, 3, 1) / 4

For a factor of 8, the product of two kernels of two taps has a weight of 15 * 15, which int8 does
not hold. There the pixels are first held, that is repeated, twice: then a phase has three taps,
and weights of at most 8 * 8.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tvm import relax

from mbv3c.targets.ethos_u.lowering.composite import shape_of
from mbv3c.targets.ethos_u.lowering.tosa_graph import TosaGraph, TosaTensor

_LARGEST_WEIGHT = 127
# The two modes differ only for a result of one pixel, which is no larger than its input.
_HALF_PIXEL = ("half_pixel", "pytorch_half_pixel")


@dataclass(frozen=True)
class Upsampling:
    """How to enlarge a map along both axes.

    Attributes:
        factor: pixels of the output for a pixel of the input.
        held: how often a pixel is repeated before the convolution; a power of 2.
        rows: weights of each phase of a row; their sum is 2 * factor.
    """

    factor: int
    held: int
    rows: tuple[tuple[int, ...], ...]

    @property
    def reach(self) -> int:
        """Pixels of the held map that a kernel sees on either side."""
        return len(self.rows[0]) // 2

    def kernels(self) -> Iterator[tuple[NDArray[np.int64], float]]:
        """Yield the kernel of each phase, row by row, with the factor that makes its sum 1."""
        for vertical in self.rows:
            for horizontal in self.rows:
                kernel = np.outer(vertical, horizontal)
                kernel //= np.gcd.reduce(kernel.ravel())
                yield kernel, 1 / float(kernel.sum())


def upsampling_of(resize: relax.Call) -> Upsampling | None:
    """Return how a Resize enlarges an image, N, C, H, W; None for another kind of Resize."""
    attributes = resize.attrs
    if str(attributes.method) != "linear" or str(attributes.layout) != "NCHW":
        return None
    if str(attributes.coordinate_transformation_mode) not in _HALF_PIXEL:
        return None
    before, after = (shape_of(tensor) for tensor in (resize.args[0], resize))
    factor = after[2] // before[2]
    if after[2:] != tuple(size * factor for size in before[2:]) or factor < 2:
        return None
    return by_factor(factor)


def repetitions_of(resize: relax.Call) -> tuple[int, int] | None:
    """Return how often a Resize of N, C, H, W repeats a pixel, down and across.

    None is for a Resize that does something else.
    """
    attributes = resize.attrs
    if str(attributes.layout) == "NCHW" and shape_of(resize.args[0])[2:] == (1, 1):
        down, across = shape_of(resize)[2:]
        return down, across  # of one pixel every rule makes copies
    if str(attributes.method) != "nearest_neighbor" or str(attributes.layout) != "NCHW":
        return None
    mode, rounding = (
        str(attributes.coordinate_transformation_mode),
        str(attributes.rounding_method),
    )
    # With half pixels no output lies in the middle between two pixels, so any rounding will do.
    is_half_pixel = mode in _HALF_PIXEL and rounding.startswith("round")
    if not is_half_pixel and (mode, rounding) != ("asymmetric", "floor"):
        return None
    before, after = (shape_of(tensor)[2:] for tensor in (resize.args[0], resize))
    down, across = (after[axis] // before[axis] for axis in (0, 1))
    if after != (before[0] * down, before[1] * across):
        return None
    return down, across


def repeat(graph: TosaGraph, x: TosaTensor, times: tuple[int, int]) -> TosaTensor:
    """Repeat every pixel of an int8 map down and across."""
    down, across = times
    if down == across and down & (down - 1) == 0:
        return graph.hold(x, down) if down > 1 else x
    batch, height, width, channels = x.shape
    # As channels, copies are neighbours in a row; as a wider row, they are the row below.
    wide = graph.reshape(
        graph.joined([x] * across, 3, "copies"), (batch, height, width * across, channels)
    )
    shape = (batch, height * down, width * across, channels)
    return graph.reshape(graph.joined([wide] * down, 2, "rows"), shape)


def by_factor(factor: int) -> Upsampling | None:
    """Return the upsampling with the fewest operations; None if int8 does not hold its weights."""
    held = 1
    while factor % held == 0:
        upsampling = Upsampling(factor, held, _rows(factor, factor // held))
        if all(kernel.max() <= _LARGEST_WEIGHT for kernel, _ in upsampling.kernels()):
            return upsampling
        held *= 2
    return None


def _rows(factor: int, phases: int) -> tuple[tuple[int, ...], ...]:
    """Return for each phase how many half pixels of each held pixel the box covers."""
    reach = -(-factor // (2 * phases))
    edges = 2 * phases * np.arange(-reach, reach + 2)
    rows = []
    for phase in range(phases):
        low, high = 2 * phase + 1 - factor, 2 * phase + 1 + factor
        covered = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
        rows.append(tuple(int(weight) for weight in np.maximum(covered, 0)))
    return tuple(rows)


def upsample(
    graph: TosaGraph, x: TosaTensor, upsampling: Upsampling, zeros: tuple[int, int], scale: float
) -> TosaTensor:
    """Enlarge a map of int8, rounding once.

    Args:
        graph: the graph that gets the operations.
        x: the map, N, H, W, C.
        upsampling: how to enlarge the map.
        zeros: zero points of the input and of the result.
        scale: scale of the input over the scale of the result.
    """
    held = graph.hold(x, upsampling.held) if upsampling.held > 1 else x
    framed = _framed(graph, held, upsampling.reach)
    made = [_phase(graph, framed, *kernel, zeros, scale) for kernel in upsampling.kernels()]
    return side_by_side(graph, made, len(upsampling.rows))


def side_by_side(graph: TosaGraph, made: Sequence[TosaTensor], across: int) -> TosaTensor:
    """Put the phases of a result together, row by row, of which each has `across`."""
    # In N, H, W, C phases side by side as channels are neighbours in a row, and rows of phases
    # side by side are the rows of the result, one below the other.
    down = len(made) // across
    starts = range(0, len(made), across)
    rows = [graph.joined(made[start : start + across], 3, "row") for start in starts]
    batch, height, width, channels = made[0].shape
    shape = (batch, height * down, width * across, channels)
    whole = graph.joined(rows, 2, "rows")
    return whole if whole.shape == shape else graph.reshape(whole, shape)


def _phase(
    graph: TosaGraph,
    framed: TosaTensor,
    kernel: ArrayLike,
    normalizer: float,
    zeros: tuple[int, int],
    scale: float,
) -> TosaTensor:
    channels = framed.shape[3]
    weights = np.repeat(np.asarray(kernel, np.int8)[:, :, None, None], channels, axis=2)
    none = np.zeros(channels, np.int32)
    sums = graph.convolution(framed, weights, none, zeros[0], depthwise=True)
    return graph.rescale(sums, normalizer * scale, 0, zeros[1], suffix="phase")


def _framed(graph: TosaGraph, x: TosaTensor, reach: int) -> TosaTensor:
    """Repeat the edges of a map: a convolution itself pads with zeros."""
    for axis in (1, 2):
        first = graph.slice(x, axis, 0, 1)
        last = graph.slice(x, axis, x.shape[axis] - 1, 1)
        x = graph.concat([first] * reach + [x] + [last] * reach, axis, "framed")
    return x
