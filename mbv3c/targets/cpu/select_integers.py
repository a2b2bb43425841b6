"""Choose a kernel for every node of a quantized graph: integers where all tensors have steps.

What has no integer kernel, or reads or makes a tensor without steps, is left to the rules of the
fp32 network; the memory rounds what comes out of their kernels, and gives them floats to read.
"""

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import onnx
import tvm
from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import NO_CHOICES, Array, Choices, Kernel, Plan, Value
from mbv3c.lowering.qdq import PAIR, QuantizedGraph
from mbv3c.lowering.quantization import Quantization
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.memory import INT8, Memory, Rounding
from mbv3c.lowering.select.nodes import (
    ARITHMETIC,
    ImageConvolution,
    activation_of,
    bias_of,
    convolution_of,
    ordered_operands,
    product_of,
)
from mbv3c.lowering.select.selection import Rule, extents_of, reads_channels_last, run_rules
from mbv3c.targets.cpu import kernels as floats
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.integer_layers import (
    IntegerLayer,
    activation_table,
    ending_of,
    integer_layer,
    rounded,
)
from mbv3c.targets.cpu.kernels import CpuKernels
from mbv3c.targets.cpu.schedules.integer import convolution, elementwise, pointwise
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP, by_bits, correction
from mbv3c.targets.cpu.schedules.integer.convolution import IntegerConvolution, WideConvolution
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise, WideDepthwise
from mbv3c.targets.cpu.schedules.integer.elementwise import (
    Dequantize,
    IntegerElementwise,
    IntegerPool,
    LookUp,
    Quantize,
    QuantizeImage,
)
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise, WidePointwise
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization
from mbv3c.targets.cpu.select_frames import take_integer_frame


def select_quantized(
    quantized: QuantizedGraph,
    processor: Processor,
    target: tvm.target.Target,
    choices: Choices = NO_CHOICES,
    written: type[CpuKernels] = CpuKernels,
) -> Plan:
    """Return the plan of a quantized graph with fixed shapes.

    Inputs and outputs keep their types, as does what no integer kernel covers. Kernels that
    `choices` knows are as it says; `written` writes them.

    Raises:
        ModelError: a node has no known shape, or the fallback cannot lower it.
    """
    graph, kernels = Graph(quantized), written(processor, choices)
    memory = Memory(graph, kernels, rounding_kernels(processor))
    return run_rules(IntegerSelection(graph, kernels, memory, target), RULES)


@dataclass
class IntegerSelection(floats.CpuSelection):
    """What a rule for integers works with.

    Attributes:
        images: names of int8 images whose channels are filled up to a group of four.
    """

    images: set[str] = field(default_factory=set, init=False)

    def layer(self, node: onnx.NodeProto) -> IntegerLayer | None:
        """Return a convolution or product of integers, as the processor ends it."""
        found = integer_layer(node, self.graph)
        return found and replace(found, ending=found.ending.on(self.kernels.processor))

    def integers(self, name: str, *, channels_last: bool = True) -> str:
        """Return the value that holds a tensor in int8."""
        return self.memory.value(name, INT8, channels_last=channels_last)


def quantize_image(node: onnx.NodeProto, selection: IntegerSelection) -> bool:
    """Quantize an image of at most four channels for the convolutions that read it."""
    graph, memory = selection.graph, selection.memory
    if node.op_type != PAIR:
        return False
    x, y = node.input[0], node.output[0]
    if y not in graph.steps or x in graph.steps:
        return False
    if not graph.is_value(x) or not graph.is_float(x) or not graph.is_image(x):
        return False
    batch, channels, *sides = graph.shape(x)
    users, steps = graph.users(y), graph.steps[y]
    if channels > GROUP or y in graph.outputs or not users:
        return False
    if not all(_is_dense(user, selection) for user in users):
        return False
    shape = QuantizeImage(
        batch, channels, prod(sides), steps.scale, Requantization(steps.zero_point)
    )
    function = elementwise.generate_quantize_image(shape, selection.kernels.processor)
    source = selection.value(x, channels_last=False)
    memory.plan.values[y] = Value((batch, *sides, GROUP), INT8)
    memory.append("quantize", [node], Kernel(function), (source, y), (y,))
    memory.plan.hold(y, y, channels_last=True)
    selection.images.add(y)
    return True


def integer_depthwise(node: onnx.NodeProto, selection: IntegerSelection) -> bool:
    """Take a depthwise convolution."""
    graph, kernels = selection.graph, selection.kernels
    conv, layer = convolution_of(node, graph), selection.layer(node)
    if conv is None or layer is None or not conv.is_depthwise:
        return False
    zero, ending = layer.steps.zero_point, layer.ending
    kind = by_bits(layer.weights, IntegerDepthwise, WideDepthwise)
    output, *rounding = rounding_of(node, layer, selection, offset=False)
    shape = kind(conv.batch, conv.inputs, *conv.axes, zero, output)
    kernel = kernels.integer_depthwise(shape, layer.weights, *rounding, *ending.table)
    x = selection.integers(node.input[0])
    selection.emit("integer_depthwise", ending.covered, kernel, (x,), shape.madds)
    return True


def integer_pointwise(node: onnx.NodeProto, selection: IntegerSelection) -> bool:
    """Take a 1x1 convolution or a matrix product."""
    graph, kernels = selection.graph, selection.kernels
    product, layer = product_of(node, graph), selection.layer(node)
    if product is None or layer is None or node.input[0] in selection.images:
        return False
    ending, matrix = layer.ending, layer.weights.reshape(len(layer.weights), -1)
    kind = by_bits(layer.weights, IntegerPointwise, WidePointwise)
    output, *rounding = rounding_of(node, layer, selection)
    shape = kind(product.rows, matrix.shape[1], len(matrix), output)
    if not pointwise.covers(shape):
        return False
    kernel = kernels.integer_pointwise(shape, matrix, *rounding, *ending.table)
    x = selection.integers(node.input[0], channels_last=product.channels_last)
    selection.emit("integer_pointwise", ending.covered, kernel, (x,), shape.madds)
    return True


def integer_convolution(node: onnx.NodeProto, selection: IntegerSelection) -> bool:
    """Take any other dense convolution whose channels come in groups of four."""
    graph, kernels = selection.graph, selection.kernels
    conv, layer = convolution_of(node, graph), selection.layer(node)
    if conv is None or layer is None:
        return False
    shape, x, ending = _dense_shape(conv, layer, kernels.processor), node.input[0], layer.ending
    if shape is None:
        return False
    if x not in selection.images and (conv.is_pointwise or conv.inputs % GROUP):
        return False
    output, *rounding = rounding_of(node, layer, selection)
    shape = replace(shape, output=output)
    kernel = kernels.integer_convolution(shape, layer.weights, *rounding, *ending.table)
    value = x if x in selection.images else selection.integers(x)
    selection.emit("integer_convolution", ending.covered, kernel, (value,), shape.madds)
    return True


def integer_pool(node: onnx.NodeProto, selection: IntegerSelection) -> bool:
    """Take a global average pool of an image."""
    graph = selection.graph
    if node.op_type != "GlobalAveragePool" or not graph.is_image(node.input[0]):
        return False
    read, written = graph.steps.get(node.input[0]), graph.steps.get(node.output[0])
    if read is None or written is None:
        return False
    batch, channels, *sides = graph.shape(node.input[0])
    factor, output = read.scale / written.scale, Requantization(written.zero_point)
    shape = IntegerPool(batch, prod(sides), channels, factor, read.zero_point, output)
    kernel = Kernel(elementwise.generate_pool(shape, selection.kernels.processor))
    x = selection.integers(node.input[0])
    selection.emit("global_pool", [node], kernel, (x,))
    return True


def integer_elementwise(node: onnx.NodeProto, selection: IntegerSelection) -> bool:
    """Take sums and products of two tensors of one shape, or of an image and its gates."""
    graph = selection.graph
    if node.op_type not in ARITHMETIC or any(name not in graph.steps for name in node.input):
        return False
    ending = ending_of(node, graph)
    ordered = ordered_operands(node.input, node.output[0], graph) if ending else None
    if ending is None or ordered is None:
        return False
    operands, per_channel = ordered
    last = reads_channels_last(operands, per_channel, selection)
    first, second = (graph.steps[name] for name in operands)
    shape = IntegerElementwise(
        *extents_of(graph.shape(operands[0]), apart=per_channel),
        ARITHMETIC[node.op_type],
        per_channel,
        first,
        second,
        ending.scale,
        ending.output,
    )
    kernel = Kernel(elementwise.generate(shape, selection.kernels.processor), ending.table)
    inputs = [selection.integers(name, channels_last=last) for name in operands]
    selection.emit("elementwise", ending.covered, kernel, inputs, channels_last=last)
    return True


def look_up(node: onnx.NodeProto, selection: IntegerSelection) -> bool:
    """Take an activation that no kernel of sums takes along, as a table."""
    graph, activation = selection.graph, activation_of(node, selection.graph)
    if activation is None or node.input[0] in selection.images:
        return False
    read, written = graph.steps.get(node.input[0]), graph.steps.get(node.output[0])
    if read is None or written is None:
        return False
    last = reads_channels_last(node.input[:1], False, selection)
    shape = LookUp(prod(graph.shape(node.input[0])))
    function = elementwise.generate_look_up(shape, selection.kernels.processor)
    kernel = Kernel(function, (activation_table(activation, read, written),))
    x = selection.integers(node.input[0], channels_last=last)
    selection.emit("elementwise", [node], kernel, (x,), channels_last=last)
    return True


def integer_frame(node: onnx.NodeProto, selection: IntegerSelection) -> bool:
    """Take a camera's frame, with the number that each colour is moved."""
    return take_integer_frame(node, selection, integer_layer, _is_dense)


# The first that takes a node plans its kernel.
RULES: tuple[Rule[IntegerSelection], ...] = (
    integer_frame,
    quantize_image,
    integer_depthwise,
    integer_pointwise,
    integer_convolution,
    integer_pool,
    integer_elementwise,
    look_up,
    *floats.RULES,
)


def rounding_of(
    node: onnx.NodeProto, layer: IntegerLayer, selection: IntegerSelection, *, offset: bool = True
) -> tuple[Requantization, Array, Array]:
    """Return how sums become int8, and bias and factor of each output.

    Args:
        node: the convolution or product.
        layer: its integers.
        selection: what knows the bias and the processor.
        offset: whether the kernel reads inputs as the processor's dot products want them.
    """
    outputs, zero = len(layer.weights), layer.steps.zero_point
    step = np.broadcast_to(layer.scales.astype(np.float64) * layer.steps.scale, (outputs,))
    bias = np.rint(bias_of(node, selection.graph, outputs) / step)
    sums = layer.weights.reshape(outputs, -1).sum(1, dtype=np.int64)
    processor = selection.kernels.processor
    bias = bias + (correction(zero, sums, processor) if offset else -zero * sums)
    limits = np.iinfo(np.int32)
    clipped = np.clip(bias, limits.min, limits.max).astype(np.int32)
    scale = (step / layer.ending.scale).astype(np.float32)
    output, factors = rounded(layer, clipped, scale, processor)
    return output, clipped, factors


def _dense_shape(
    conv: ImageConvolution, layer: IntegerLayer, processor: Processor
) -> IntegerConvolution | None:
    """Return the shape of a convolution that the dense kernel covers."""
    inputs = -(-conv.inputs // GROUP) * GROUP
    zero, output = layer.steps.zero_point, layer.ending.output
    kind = by_bits(layer.weights, IntegerConvolution, WideConvolution)
    shape = kind(conv.batch, inputs, conv.outputs, *conv.axes, zero, output)
    return shape if conv.groups == 1 and convolution.covers(shape, processor) else None


def _is_dense(node: onnx.NodeProto, selection: IntegerSelection) -> bool:
    """Say whether the dense kernel covers a node."""
    graph, processor = selection.graph, selection.kernels.processor
    conv, layer = convolution_of(node, graph), integer_layer(node, graph)
    if conv is None or layer is None:
        return False
    return _dense_shape(conv, layer, processor) is not None


def rounding_kernels(processor: Processor) -> Rounding:
    """Return the kernels between floats and integers."""

    def quantize(size: int, steps: Quantization) -> PrimFunc:
        shape = Quantize(size, steps.scale, Requantization(steps.zero_point))
        return elementwise.generate_quantize(shape, processor)

    def dequantize(size: int, steps: Quantization) -> PrimFunc:
        return elementwise.generate_dequantize(Dequantize(size, steps), processor)

    return Rounding(quantize, dequantize)
