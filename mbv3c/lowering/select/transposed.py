"""Transposed convolutions whose windows do not overlap: a product whose rows are interleaved.

    y[h·s + i, w·s + j] = W[i, j] · x[h, w]        (stride s = kernel size, no padding)

Every place of the input makes s × s places of the output, each by weights of its own: one 1x1
convolution with s·s times the channels. Heads that find text (DB) and many decoders end in such
layers. What follows per channel, a bias as an Add or BatchNormalization, is part of the weights.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tvm.tirx import PrimFunc

from mbv3c.lowering import fallback
from mbv3c.lowering.plan import Array, Kernel, Pointwise
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.nodes import attribute_of, bias_of, per_channel, with_activation
from mbv3c.lowering.select.selection import Selection

Doubles = NDArray[np.float64]
Tensors = dict[str, tuple[tuple[int, ...], int]]

_PLAIN = {"group": 1, "dilations": [1, 1], "pads": [0] * 4, "output_padding": [0, 0]}


def transposed(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take a transposed convolution without overlaps, with the activation after it."""
    graph, memory = selection.graph, selection.memory
    weights = _weights_of(node, graph)
    if weights is None:
        return False
    x, (inputs, outputs, down, right) = node.input[0], weights.shape
    batch, _, height, width = graph.shape(x)
    followers, scale, shift = _affine_after(node, graph, outputs)
    weights = (weights * scale[:, None, None]).astype(np.float32)
    bias = (bias_of(node, graph, outputs) * scale + shift).astype(np.float32)
    ended, activation = with_activation([node, *followers][-1], graph)
    covered = [node, *followers[:-1], *ended] if followers else ended
    rows, made = batch * height * width, down * right * outputs
    shape = Pointwise(rows, inputs, made, activation, False, selection.dtype)
    rows_of_weights = np.ascontiguousarray(weights.transpose(2, 3, 1, 0)).reshape(made, inputs)
    kernel = selection.kernels.pointwise(shape, rows_of_weights, np.tile(bias, down * right))
    value = selection.value(x, channels_last=True)
    result, dtype = covered[-1].output[0], str(kernel.function.params[-1].dtype)
    phases = memory.add_value(f"{result}.phases", (batch, height, width, made), dtype)
    arguments: tuple[str | Array, ...] = (value, *kernel.constants, phases)
    memory.append("pointwise", covered, kernel, arguments, (phases,), shape.madds)
    last = memory.add_result(result, dtype)
    spread = _interleaving((batch * height, width, down, right * outputs), dtype, selection)
    memory.append("interleave", (), Kernel(spread), (phases, result), (result,))
    memory.hold(result, result, channels_last=last)
    return True


def _weights_of(node: onnx.NodeProto, graph: Graph) -> Any:
    """Return the stored weights [C, M, R, S] of a layer that this rule takes; None for others."""
    if node.op_type != "ConvTranspose" or not graph.is_value(node.input[0]):
        return None
    if not all(name in graph.stored for name in node.input[1:] if name):
        return None
    weights = graph.stored[node.input[1]]
    if weights.ndim != 4 or weights.dtype != np.float32 or not graph.is_float(node.input[0]):
        return None
    padding = attribute_of(node, "auto_pad", b"NOTSET")
    plain = all(attribute_of(node, name, usual) == usual for name, usual in _PLAIN.items())
    strides = attribute_of(node, "strides", [1, 1])
    if not plain or padding not in (b"NOTSET", b"") or attribute_of(node, "output_shape", None):
        return None
    return weights if list(weights.shape[2:]) == strides else None


def _affine_after(
    node: onnx.NodeProto, graph: Graph, channels: int
) -> tuple[list[onnx.NodeProto], Doubles, Doubles]:
    """Return the nodes behind a layer that scale and shift its channels, and by how much."""
    followers: list[onnx.NodeProto] = []
    scale, shift = np.ones(channels), np.zeros(channels)
    while (user := graph.float_follower([node, *followers][-1].output[0])) is not None:
        stored = [graph.stored[name] for name in user.input if name in graph.stored]
        if user.op_type == "BatchNormalization" and len(stored) == 4 and len(user.output) == 1:
            gain, offset, mean, variance = (values.astype(np.float64) for values in stored)
            factor = gain / np.sqrt(variance + attribute_of(user, "epsilon", 1e-5))
            scale, shift = scale * factor, (shift - mean) * factor + offset
        elif user.op_type in ("Add", "Mul") and len(stored) == 1:
            number = per_channel(stored[0], channels)
            if number is None:
                break
            added = user.op_type == "Add"
            scale, shift = (scale, shift + number) if added else (scale * number, shift * number)
        else:
            break
        followers.append(user)
    return followers, scale, shift


def _interleaving(
    extents: tuple[int, int, int, int], dtype: str, selection: Selection
) -> PrimFunc:
    """Return what exchanges the two axes in the middle of four."""
    kind = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT
    first, second, third, fourth = extents
    node = helper.make_node("Transpose", ["phases"], ["places"], "interleave", perm=[0, 2, 1, 3])
    read: Tensors = {"phases": (extents, kind)}
    written: Tensors = {"places": ((first, third, second, fourth), kind)}
    graph = helper.make_graph([node], "interleave", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    schedule = selection.kernels.schedule
    lowered = fallback.lower_region(
        model, [node], read, written, "interleave.", selection.target, schedule
    )
    (step,) = lowered.steps
    return step.function
