"""Convert composite functions to TOSA: what each pattern means in integers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from mbv3c.lowering.quantization import Quantization
from mbv3c.targets.ethos_u.lowering.composite import Composite, axes_of_turn, operator, shape_of
from mbv3c.targets.ethos_u.lowering.grouped import parts_of
from mbv3c.targets.ethos_u.lowering.layout import axis_on_device, on_device
from mbv3c.targets.ethos_u.lowering.moves import move_of, numbers_of, numbers_shuffled
from mbv3c.targets.ethos_u.lowering.moving import moved
from mbv3c.targets.ethos_u.lowering.pooling import average, maximum, pool_of
from mbv3c.targets.ethos_u.lowering.reducing import maximum as highest
from mbv3c.targets.ethos_u.lowering.reducing import mean, rounds_twice
from mbv3c.targets.ethos_u.lowering.resizing import repeat, repetitions_of, upsample, upsampling_of
from mbv3c.targets.ethos_u.lowering.tosa_graph import (
    INT8,
    INT32,
    ConvolutionGeometry,
    TosaGraph,
    TosaTensor,
)
from mbv3c.targets.ethos_u.lowering.transposed import transposed

Values = Mapping[Any, TosaTensor]
_ALIGNED_BITS = 20  # bits below the point to which an addition aligns its operands
_LARGEST_WEIGHT = 127
_LARGEST_BIAS = 1 << 30
_ROW = 3  # rank of the weights of a convolution along a row


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
    if composite.kind != "mean" or not rounds_twice(composite.find("relax.mean"), lowering.mean):
        return 1
    _, quantized = composite.only_input()
    return 1 + ceil(quantized.scale / composite.output.scale / 2)


def _conv2d(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    conv = composite.find("relax.nn.conv2d", "relax.nn.conv1d")
    parameter, quantized = composite.input_of(conv)
    geometry, groups = _geometry(conv), int(conv.attrs.groups)
    weights = composite.weights_of(conv, 1)
    integers = weights.integers
    if integers.ndim == _ROW:
        integers = integers[:, :, None]
    x, zero = values[parameter], quantized.zero_point
    scales = quantized.scale * weights.scales
    bias = composite.bias(len(integers), scales)
    if groups > 1 and groups == len(integers) == x.shape[3]:
        by_pixel = integers.transpose(2, 3, 0, 1)
        zeros = zero, weights.zero
        sums = graph.convolution(x, by_pixel, bias, zeros, geometry, depthwise=True)
        return _finished(composite, graph, sums, scales)
    if groups > 1:
        weights = composite.symmetric_weights_of(conv, 1)
    made = []
    for part in parts_of(integers, groups):
        seen = x if part.count == x.shape[3] else graph.slice(x, 3, part.first, part.count)
        by_output = part.weights.transpose(0, 2, 3, 1)
        own = bias[part.outputs]
        zeros = zero, weights.zero
        sums = graph.convolution(seen, by_output, own, zeros, geometry, depthwise=False)
        steps = scales if len(scales) == 1 else scales[part.outputs]
        made.append(_finished(composite, graph, sums, steps))
    return graph.joined(made, 3, "")


def _transposed(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    call = composite.find("relax.nn.conv2d_transpose")
    parameter, quantized = composite.input_of(call)
    weights = composite.symmetric_weights_of(call, 1)
    scales = quantized.scale * weights.scales
    return transposed(
        graph,
        values[parameter],
        call,
        weights.integers,
        composite.bias(composite.shape[1], scales),
        quantized.zero_point,
        lambda sums: _finished(composite, graph, sums, scales),
    )


def _geometry(conv: relax.Call) -> ConvolutionGeometry:
    attributes = conv.attrs
    pads, strides, dilations = (
        [int(value) for value in values]
        for values in (attributes.padding, attributes.strides, attributes.dilation)
    )
    if len(strides) == 1:  # of a row, whose height is 1
        before, after = pads
        pads, strides, dilations = [0, before, 0, after], [1, *strides], [1, *dilations]
    return ConvolutionGeometry(pads, strides, dilations)


def _dense(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    product = composite.find("relax.matmul")
    flattened = _has(composite, "relax.reshape")
    taken = composite.find("relax.reshape") if flattened else product
    parameter, quantized = composite.input_of(taken)
    weights = composite.weights_of(product, 1)
    transposed = _has(composite, "relax.permute_dims")
    integers = weights.integers if transposed else weights.integers.T
    scales = quantized.scale * weights.scales
    x = values[parameter]
    height, width, channels = x.shape[1:]
    sums = graph.convolution(
        x,
        integers.reshape(len(integers), channels, height, width).transpose(0, 2, 3, 1),
        composite.bias(len(integers), scales),
        (quantized.zero_point, weights.zero),
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


def _affine(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    """Multiply channels by numbers, or add numbers, as a depthwise convolution of 1x1.

    The weights are as large as int8 holds, so that the bias has the finest steps. The numbers of a
    product are in the scales.
    """
    call = composite.find("relax.add", "relax.subtract", "relax.multiply")
    index = next(index for index in (0, 1) if composite.stored(call, index) is not None)
    numbers = np.asarray(composite.stored(call, index), np.float64).reshape(-1)
    parameter, quantized = composite.input_of(call, 1 - index)
    ones: NDArray[Any] = np.ones(len(numbers))
    signs, scales, added = ones, quantized.scale * ones, 0 * ones
    if operator(call) == "relax.multiply":
        signs = np.sign(numbers)
        scales = scales * np.where(numbers == 0, 1, np.abs(numbers))
    elif operator(call) == "relax.subtract":
        signs, added = (signs, -numbers) if index else (-signs, numbers)
    else:
        added = numbers
    scales = scales / _LARGEST_WEIGHT
    sums = graph.convolution(
        values[parameter],
        (signs * _LARGEST_WEIGHT).astype(np.int8)[None, None, :, None],
        np.rint(added / scales).astype(np.int32),
        quantized.zero_point,
        depthwise=True,
    )
    return _finished(composite, graph, sums, scales)


def _normalized(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    """Multiply channels by numbers and add others, as a depthwise convolution of 1x1."""
    call = composite.find("relax.multiply")
    parameter, quantized = composite.input_of(call)
    factors, added = (
        np.asarray(found.args[1].value.numpy(), np.float64).reshape(-1)
        for found in (call, composite.find("relax.add"))
    )
    scales = quantized.scale * np.abs(factors) / _LARGEST_WEIGHT
    # Beside what is added, the map of such a channel is less than a step of any result.
    constant = np.abs(added) >= scales * _LARGEST_BIAS
    weights = np.where(constant, 0, np.sign(factors) * _LARGEST_WEIGHT)
    fine = np.maximum(np.abs(added), composite.output.scale) / (1 << _ALIGNED_BITS)
    scales = np.where(constant, fine, scales)
    sums = graph.convolution(
        values[parameter],
        weights.astype(np.int8)[None, None, :, None],
        np.rint(added / scales).astype(np.int32),
        quantized.zero_point,
        depthwise=True,
    )
    return _finished(composite, graph, sums, scales)


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


def _mean(composite: Composite, graph: TosaGraph, values: Values, way: str) -> TosaTensor:
    call = composite.find("relax.mean")
    parameter, quantized = composite.input_of(call)
    return mean(graph, values[parameter], call, quantized, composite.output, way)


def _resize(
    composite: Composite, graph: TosaGraph, values: Values, *, interpolates: bool
) -> TosaTensor:
    resize = composite.find("relax.image.resize2d")
    parameter, quantized = composite.input_of(resize)
    upsampling, output = upsampling_of(resize), composite.output
    times = repetitions_of(resize)
    if times is not None:
        return repeat(graph, _requantized(graph, values[parameter], quantized, output), times)
    assert upsampling is not None  # the pattern has checked it
    if interpolates and quantized == output:
        # A mean of integers keeps their zero point.
        sums = graph.interpolate(values[parameter], upsampling.factor)
        return graph.rescale(sums, 1 / (4 * upsampling.factor**2), 0, 0)
    zeros = (quantized.zero_point, output.zero_point)
    return upsample(graph, values[parameter], upsampling, zeros, quantized.scale / output.scale)


def _max_pool(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    call = composite.find("relax.nn.max_pool2d", "relax.nn.max_pool1d")
    parameter, quantized = composite.input_of(call)
    pool = pool_of(call)
    assert pool is not None  # the pattern has checked it
    result = maximum(graph, values[parameter], pool)
    return _requantized(graph, result, quantized, composite.output)


def _highest(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    parameter, quantized = composite.only_input()
    result = highest(graph, values[parameter], composite.find("relax.max"))
    return _requantized(graph, result, quantized, composite.output)


def _move(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    parameter, quantized = composite.only_input()
    if composite.kind == "shuffle":
        turn = composite.find("relax.permute_dims")
        numbers = numbers_shuffled(shape_of(turn.args[0]), axes_of_turn(turn))
    else:
        numbers = numbers_of(composite.find("relax.take").args[1].value.numpy())
    move = move_of(numbers, shape_of(parameter), composite.shape)
    assert move is not None  # the pattern has checked it
    result = moved(graph, values[parameter], move, quantized.zero_point)
    return _requantized(graph, result, quantized, composite.output)


def _prelu(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    """Add what is above 0 and, times the slopes, what is below: one of both is always 0."""
    call = composite.find("relax.nn.prelu")
    parameter, quantized = composite.input_of(call)
    slopes, after = composite.slopes(call), composite.output
    integers = np.arange(-128, 128).astype(np.int8)
    reals = quantized.dequantize(integers)
    above = graph.table(values[parameter], after.quantize(np.maximum(reals, np.float32(0))))
    below = graph.table(values[parameter], quantized.quantize(np.minimum(reals, np.float32(0))))
    scales = quantized.scale * np.where(slopes == 0, 1, np.abs(slopes)) / _LARGEST_WEIGHT
    sums = graph.convolution(
        below,
        (np.sign(slopes) * _LARGEST_WEIGHT).astype(np.int8)[None, None, :, None],
        np.zeros(len(slopes), np.int32),
        quantized.zero_point,
        depthwise=True,
    )
    sloped = graph.rescale(sums, scales / after.scale, 0, after.zero_point, suffix="below")
    unit = 1 << _ALIGNED_BITS
    wide = [graph.rescale(x, unit, after.zero_point, 0, INT32, "operand") for x in (sloped, above)]
    return graph.rescale(graph.elementwise("ADD", *wide), 1 / unit, 0, after.zero_point)


def _average_pool(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    call = composite.find("relax.nn.avg_pool2d", "relax.nn.avg_pool1d")
    parameter, quantized = composite.input_of(call)
    pool = pool_of(call)
    assert pool is not None  # the pattern has checked it
    return average(graph, values[parameter], pool, quantized, composite.output)


def _concat(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    call = composite.find("relax.concat")
    parts = [
        _requantized(graph, values[parameter], quantized, composite.output, "part")
        for parameter, quantized in composite.inputs_of(call)
    ]
    axis = axis_on_device(int(call.attrs.axis), len(composite.shape))
    return graph.joined(parts, axis, "")


def _flatten(composite: Composite, graph: TosaGraph, values: Values) -> TosaTensor:
    parameter, quantized = composite.only_input()
    result = _requantized(graph, values[parameter], quantized, composite.output)
    shape = on_device(composite.shape)
    return result if result.shape == shape else graph.reshape(result, shape)


def _requantized(
    graph: TosaGraph, x: TosaTensor, before: Quantization, after: Quantization, suffix: str = ""
) -> TosaTensor:
    """Bring int8 values to other steps, if these are others."""
    if before == after:
        return x
    factor = before.scale / after.scale
    return graph.rescale(x, factor, before.zero_point, after.zero_point, INT8, suffix)


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
    "affine": _affine,
    "normalized": _normalized,
    "flatten": _flatten,
    "concat": _concat,
    "highest": _highest,
    "move": _move,
    "shuffle": _move,
    "prelu": _prelu,
    "transposed": _transposed,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
}
