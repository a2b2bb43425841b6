"""Convert composite functions to TOSA: what each pattern means in integers.

Bilinear upsampling by whole numbers becomes convolutions: an Ethos-U55 or -U65 has nothing else.
Repeat every pixel of a row over the `factor` pixels of the output that it becomes. Linear
interpolation (half-pixel, the edges repeated) then is a mean over a box as wide as `factor`,
around the middle of a pixel of the output. So every phase, the position of an output within a
pixel, has a short kernel of integers. In two dimensions a kernel is the product of two. For a
factor of 2 the kernels are

    phase 0: (1, 3, 0) / 4        phase 1: (0, 3, 1) / 4

For a factor of 8, the product of two kernels of two taps has a weight of 15 * 15, which int8 does
not hold. There the pixels are first held, that is repeated, twice: then a phase has three taps,
and weights of at most 8 * 8.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tvm import relax

from mbv3c.lowering.quantization import Quantization
from mbv3c.targets.ethos_u.lowering.composite import Composite, shape_of
from mbv3c.targets.ethos_u.lowering.tosa_graph import (
    INT8,
    INT32,
    ConvolutionGeometry,
    TosaGraph,
    TosaTensor,
)

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
    phases = len(upsampling.rows)
    # In N, H, W, C phases side by side as channels are neighbours in a row, and rows of phases
    # side by side are the rows of the result, one below the other.
    starts = range(0, len(made), phases)
    rows = [graph.concat(made[start : start + phases], 3, "row") for start in starts]
    batch, height, width, channels = held.shape
    shape = (batch, height * phases, width * phases, channels)
    return graph.reshape(graph.concat(rows, 2, "rows"), shape)


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


Values = Mapping[Any, TosaTensor]
_ALIGNED_BITS = 20  # bits below the point to which an addition aligns its operands
_LARGEST_KERNEL = 64


@dataclass(frozen=True)
class LoweringOptions:
    """The choices of lowering.

    Attributes:
        mean: way to compute means, one of `options.MEANS`.
        interpolates: whether the device resizes bilinearly itself; if not, convolutions do it.
    """

    mean: str = "depthwise"
    interpolates: bool = False


def convert(
    composite: Composite, graph: TosaGraph, values: Values, lowering: LoweringOptions
) -> TosaTensor:
    """Add a composite to a graph and return its result.

    Args:
        composite: the composite to compute.
        graph: the graph that gets the operations.
        values: the tensor for each parameter of the composite.
        lowering: the choices of lowering.
    """
    graph.layer = composite.name
    if composite.kind == "mean":
        return _mean(composite, graph, values, lowering.mean)
    if composite.kind == "resize":
        return _resize(composite, graph, values, interpolates=lowering.interpolates)
    return _CONVERTERS[composite.kind](composite, graph, values)


def allowed_lsb(composite: Composite, lowering: LoweringOptions) -> int:
    """Return how far from fp32 a composite's result may be on an input, in steps.

    A value near the middle of two steps may differ by a step, since fp32 may round it the other
    way. A mean that is computed as a pool is also rounded to a step of its input.
    """
    if composite.kind != "mean" or lowering.mean != "pool":
        return 1
    _, quantized = composite.only_input()
    return 1 + ceil(quantized.scale / composite.output.scale / 2)


def _conv2d(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    conv = composite.find("relax.nn.conv2d")
    parameter, quantized = composite.input_of(conv)
    weights = composite.weights_of(conv, 1)
    attributes = conv.attrs
    depthwise = int(attributes.groups) > 1
    scales = quantized.scale * weights.scales
    sums = graph.convolution(
        values[parameter],
        weights.integers.transpose((2, 3, 0, 1) if depthwise else (0, 2, 3, 1)),
        composite.bias(len(weights.integers), scales),
        quantized.zero_point,
        ConvolutionGeometry(
            _integers(attributes.padding),
            _integers(attributes.strides),
            _integers(attributes.dilation),
        ),
        depthwise=depthwise,
    )
    return _finished(composite, graph, sums, scales)


def _dense(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    product = composite.find("relax.matmul")
    parameter, quantized = composite.input_of(product)
    weights = composite.weights_of(product, 1)
    transposed = _has(composite, "relax.permute_dims")
    integers = weights.integers if transposed else weights.integers.T
    scales = quantized.scale * weights.scales
    sums = graph.convolution(
        values[parameter],
        integers[:, None, None, :],
        composite.bias(len(integers), scales),
        quantized.zero_point,
        depthwise=False,
    )
    return _finished(composite, graph, sums, scales)


def _finished(composite: Composite, graph: TosaGraph, sums: TosaTensor, scales: Any) -> TosaTensor:
    """Rescale int32 sums to the result and clamp them to its bounds."""
    low, high = composite.bounds()
    clamps = (low, high) != (-128, 127)
    factor = scales / composite.output.scale
    zero = composite.output.zero_point
    result = graph.rescale(sums, factor, 0, zero, suffix="rescaled" if clamps else "")
    return graph.clamp(result, low, high) if clamps else result


def _table(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    parameter, _ = composite.only_input()
    return graph.table(values[parameter], composite.table())


def _multiply(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    call = composite.find("relax.multiply")
    operands = [composite.input_of(call, index) for index in (0, 1)]
    wide = [_wide(graph, values[parameter], quantized, 1.0) for parameter, quantized in operands]
    product = graph.elementwise("MUL", *wide)
    scale = operands[0][1].scale * operands[1][1].scale
    return _finished(composite, graph, product, np.float64(scale))


def _add(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    call = composite.find("relax.add")
    operands = [composite.input_of(call, index) for index in (0, 1)]
    # Vela cascades operations through first operands only. With the shortcut first, a block's
    # result must be complete before the sum begins: Large takes 546 KiB of SRAM instead of 357.
    operands.sort(key=lambda operand: graph.order(values[operand[0]]), reverse=True)
    # Both operands get twice the larger scale, so that the sum does not overflow.
    scale = 2 * max(quantized.scale for _, quantized in operands) / (1 << _ALIGNED_BITS)
    wide = [
        _wide(graph, values[parameter], quantized, quantized.scale / scale)
        for parameter, quantized in operands
    ]
    return _finished(composite, graph, graph.elementwise("ADD", *wide), np.float64(scale))


def _wide(graph: TosaGraph, x: TosaTensor, quantized: Quantization, factor: float) -> TosaTensor:
    return graph.rescale(x, factor, quantized.zero_point, 0, INT32, "operand")


def _mean(composite: Composite, graph: TosaGraph, values: Values, mean: str) -> TosaTensor:
    parameter, quantized = composite.input_of(composite.find("relax.mean"))
    x, output = values[parameter], composite.output
    _, height, width, channels = x.shape
    if mean == "pool" or max(height, width) > _LARGEST_KERNEL:
        pooled = graph.mean(x, quantized.zero_point)
        factor = quantized.scale / output.scale
        return graph.rescale(pooled, factor, quantized.zero_point, output.zero_point)
    ones = np.ones((height, width, channels, 1), np.int8)
    none = np.zeros(channels, np.int32)
    zero = quantized.zero_point
    sums = graph.convolution(x, ones, none, zero, depthwise=True)
    return _finished(composite, graph, sums, np.float64(quantized.scale / (height * width)))


def _resize(
    composite: Composite, graph: TosaGraph, values: Values, *, interpolates: bool
) -> TosaTensor:
    resize = composite.find("relax.image.resize2d")
    parameter, quantized = composite.input_of(resize)
    upsampling, output = upsampling_of(resize), composite.output
    assert upsampling is not None  # the pattern has checked it
    if interpolates and quantized == output:
        # A mean of integers keeps their zero point.
        sums = graph.interpolate(values[parameter], upsampling.factor)
        return graph.rescale(sums, 1 / (4 * upsampling.factor**2), 0, 0)
    zeros = (quantized.zero_point, output.zero_point)
    return upsample(graph, values[parameter], upsampling, zeros, quantized.scale / output.scale)


def _flatten(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    parameter, quantized = composite.only_input()
    if quantized == composite.output:
        return values[parameter]
    factor = quantized.scale / composite.output.scale
    zeros = (quantized.zero_point, composite.output.zero_point)
    return graph.rescale(values[parameter], factor, *zeros, INT8)


def _integers(values: Sequence[Any]) -> list[int]:
    return [int(value) for value in values]


def _has(composite: Composite, name: str) -> bool:
    try:
        composite.find(name)
    except KeyError:
        return False
    return True


_CONVERTERS: dict[str, Callable[[Composite, TosaGraph, Values], TosaTensor]] = {
    "conv2d": _conv2d,
    "dense": _dense,
    "table": _table,
    "multiply": _multiply,
    "add": _add,
    "flatten": _flatten,
}
