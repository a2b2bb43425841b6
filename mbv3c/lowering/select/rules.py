"""Rules that several backends have: they ask `Kernels` for what every backend can write."""

from collections.abc import Sequence
from math import prod

import onnx

from mbv3c.lowering.select.memory import INT8
from mbv3c.lowering.select.nodes import (
    ARITHMETIC,
    RENAMES,
    MatrixProduct,
    activation_of,
    convolution_of,
    ordered_operands,
    product_of,
    with_activation,
)
from mbv3c.lowering.select.selection import Selection
from mbv3c.lowering.shapes import Convolution, Depthwise, Elementwise, GlobalPool, Pointwise


def rename(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take what changes the shape and not the memory."""
    graph, memory = selection.graph, selection.memory
    if node.op_type not in RENAMES:
        return False
    x, y = node.input[0], node.output[0]
    if not graph.is_value(x) or selection.is_pending(x):
        return False
    if any(graph.users(name) or name in graph.outputs for name in node.output[1:]):
        return False  # a Dropout's mask
    dtype = memory.made_type(x)
    if x in graph.steps and graph.steps.setdefault(y, graph.steps[x]) != graph.steps[x]:
        dtype = selection.dtype  # is rounded again, in other steps
    memory.hold(y, memory.value(x, dtype, channels_last=False), channels_last=False)
    memory.covered.add(y)
    return True


def depthwise(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take a depthwise convolution, with the activation after it."""
    conv = convolution_of(node, selection.graph)
    if conv is None or not conv.is_depthwise:
        return False
    covered, activation = with_activation(node, selection.graph)
    shape = Depthwise(conv.batch, conv.inputs, *conv.axes, activation, selection.dtype)
    kernel = selection.kernels.depthwise(shape, conv.weights, conv.bias)
    x = selection.value(node.input[0], channels_last=True)
    selection.emit("depthwise", covered, kernel, (x,), shape.madds)
    return True


def pointwise(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take a 1x1 convolution or a matrix product, with an activation and a sum after it."""
    product = product_of(node, selection.graph)
    if product is None:
        return False
    x = selection.value(node.input[0], channels_last=product.channels_last)
    covered, shape, addends = fused_product(node, product, selection)
    kernel = selection.kernels.pointwise(shape, product.weights, product.bias)
    selection.emit("pointwise", covered, kernel, (x,), shape.madds, after=addends)
    return True


def convolution(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take any other dense convolution; it reads the image as it lies in memory."""
    conv = convolution_of(node, selection.graph)
    if conv is None or conv.groups != 1:
        return False
    x = node.input[0]
    covered, activation = with_activation(node, selection.graph)
    channels_first, source = not selection.memory.has_channels_last(x), selection.dtype
    if channels_first and (made := selection.memory.made_type(x)) != INT8:
        source = made  # the kernel converts it
    shape = Convolution(
        conv.batch,
        conv.inputs,
        conv.outputs,
        *conv.axes,
        activation,
        channels_first,
        selection.dtype,
        source,
    )
    kernel = selection.kernels.convolution(shape, conv.weights, conv.bias)
    value = selection.memory.value(x, source, channels_last=not channels_first)
    selection.emit("convolution", covered, kernel, (value,), shape.madds)
    return True


def global_pool(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take a global average pool of an image of floats."""
    graph = selection.graph
    if node.op_type != "GlobalAveragePool" or not graph.is_image(node.input[0]):
        return False
    x = node.input[0]
    if not graph.is_value(x) or not graph.is_float(x):
        return False
    batch, channels, *sides = graph.shape(x)
    kernel = selection.kernels.global_pool(
        GlobalPool(batch, prod(sides), channels, selection.dtype)
    )
    value = selection.value(x, channels_last=True)
    selection.emit("global_pool", [node], kernel, (value,))
    return True


def elementwise(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take an activation that stands alone, or a sum or product with the activation after it."""
    graph, alone = selection.graph, activation_of(node, selection.graph)
    if alone is None and node.op_type not in ARITHMETIC:
        return False
    operands = [name for name in node.input if name] if alone is None else [node.input[0]]
    if not all(graph.is_value(name) and graph.is_float(name) for name in operands):
        return False
    if any(selection.is_pending(name) for name in operands):
        return False
    ordered = ordered_operands(operands, node.output[0], graph)
    if ordered is None:
        return False
    names, per_channel = ordered
    last = reads_channels_last(names, per_channel, selection)
    batch, places, channels = extents_of(graph.shape(names[0]), apart=last)
    covered, activation = with_activation(node, graph) if alone is None else ([node], alone)
    operator = ARITHMETIC[node.op_type] if alone is None else ""
    shape = Elementwise(
        batch, places, channels, operator, per_channel, activation, selection.dtype
    )
    inputs = tuple(selection.value(name, channels_last=last) for name in names)
    kernel = selection.kernels.elementwise(shape)
    selection.emit("elementwise", covered, kernel, inputs, channels_last=last)
    return True


# ---- what rules share ----


def fused_product(
    node: onnx.NodeProto, product: MatrixProduct, selection: Selection
) -> tuple[list[onnx.NodeProto], Pointwise, tuple[str, ...]]:
    """Return what a product covers, its shape, and the value that it adds, if any."""
    covered, activation = with_activation(node, selection.graph)
    residual = _residual_after(covered[-1], selection)
    outputs, inputs = product.weights.shape
    shape = Pointwise(
        product.rows, inputs, outputs, activation, residual is not None, selection.dtype
    )
    if residual is None:
        return covered, shape, ()
    total, addend = residual
    return [*covered, total], shape, (addend,)


def _residual_after(
    node: onnx.NodeProto, selection: Selection
) -> tuple[onnx.NodeProto, str] | None:
    """Return the Add that is the only user, and the value that it adds, if that is ready."""
    graph, result = selection.graph, node.output[0]
    total = graph.float_follower(result)
    if total is None or total.op_type != "Add":
        return None
    if graph.shape(total.output[0]) != graph.shape(result):
        return None
    others = [name for name in total.input if name != result]
    if len(others) != 1 or not graph.is_value(others[0]):
        return None
    if not selection.memory.is_ready(others[0]) or graph.shape(others[0]) != graph.shape(result):
        return None
    return total, selection.value(others[0], channels_last=True)


def reads_channels_last(operands: Sequence[str], per_channel: bool, selection: Selection) -> bool:
    """Say whether an elementwise kernel reads images with the channels last."""
    if per_channel or not selection.graph.is_image(operands[0]):
        return per_channel
    return any(selection.memory.has_channels_last(name) for name in operands)


def extents_of(shape: Sequence[int], *, apart: bool) -> tuple[int, int, int]:
    """Return batch, places and channels of an elementwise kernel.

    Where it need not keep them `apart`, all numbers are the channels of one place.
    """
    return (shape[0], prod(shape[2:]), shape[1]) if apart else (1, 1, prod(shape))
