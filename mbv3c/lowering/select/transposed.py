"""Transposed convolutions: a convolution with the channels of s × s places, and these interleaved.

    y[h·s + i, w·s + j] = W[i, j] · x[h, w]        (stride s = kernel size, no padding)

Every place of the input makes s × s places of the output, each by weights of its own: one 1x1
convolution with s·s times the channels. Heads that find text (DB) and many decoders end in such
layers. What follows per channel, a bias as an Add or BatchNormalization, is part of the weights.

    y[q·s + i] = Σ W[i + p − s·d] · x[q + d]        (padding p; d: all for which W has that tap)

Where windows overlap, as in U-Nets (4x4 or 3x3, stride 2), each of the s × s places reads some
neighbours of its own. One window around all of them holds zeros for the others.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from tvm.tirx import PrimFunc

from mbv3c.lowering import fallback
from mbv3c.lowering.plan import Array, Kernel, Pointwise
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.nodes import (
    ImageConvolution,
    affine_after,
    attribute_of,
    bias_of,
    with_activation,
)
from mbv3c.lowering.select.selection import Selection, dense_kernel

Tensors = dict[str, tuple[tuple[int, ...], int]]


@dataclass(frozen=True)
class Phases:
    """How the places of one output axis read an input axis.

    Attributes:
        axis: the window around all that the places between two strides read.
        count: the number of such groups of places.
        taps: for each place of a group and each tap of the window the tap of the weights, or -1.
    """

    axis: Axis
    count: int
    taps: list[list[int]]


def transposed(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take a transposed convolution without overlaps, with the activation after it."""
    graph, memory = selection.graph, selection.memory
    weights = _weights_of(node, graph)
    if weights is None:
        return False
    x, outputs = node.input[0], weights.shape[1]
    batch, inputs, *sizes = graph.shape(x)
    strides = attribute_of(node, "strides", [1, 1])
    pads = attribute_of(node, "pads", [0, 0, 0, 0])
    apart = attribute_of(node, "dilations", [1, 1])
    ways = [
        _phases(size, made, tuple(range(0, taps * step, step)), stride, pad)
        for size, made, taps, step, stride, pad in zip(
            sizes,
            graph.shape(node.output[0])[2:],
            weights.shape[2:],
            apart,
            strides,
            pads[:2],
            strict=True,
        )
    ]
    vertical, horizontal = ways
    if vertical is None or horizontal is None:
        return False
    followers, scale, shift = affine_after(node, graph, outputs)
    weights = (weights * scale[:, None, None]).astype(np.float32)
    bias = (bias_of(node, graph, outputs) * scale + shift).astype(np.float32)
    ended, activation = with_activation([node, *followers][-1], graph)
    covered = [node, *followers[:-1], *ended] if followers else ended
    down, right = strides
    made, biases = down * right * outputs, np.tile(bias, down * right)
    spread_weights = _spread(weights, vertical, horizontal)
    height, width = (way.axis.size for way in (vertical, horizontal))
    axes = vertical.axis, horizontal.axis
    conv = ImageConvolution(batch, inputs, axes, 1, spread_weights, biases)
    if conv.is_pointwise:
        rows = batch * height * width
        shape = Pointwise(rows, inputs, made, activation, False, selection.dtype)
        kernel = selection.kernels.pointwise(shape, spread_weights[:, :, 0, 0], biases)
        kind, value, madds = "pointwise", selection.value(x, channels_last=True), shape.madds
    else:
        kernel, value, madds = dense_kernel(conv, x, activation, selection)
        kind, height, width = "convolution", vertical.count, horizontal.count
    result, dtype = covered[-1].output[0], str(kernel.function.params[-1].dtype)
    phases = memory.add_value(f"{result}.phases", (batch, height, width, made), dtype)
    arguments: tuple[str | Array, ...] = (value, *kernel.constants, phases)
    memory.append(kind, covered, kernel, arguments, (phases,), madds)
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
    plain = attribute_of(node, "group", 1) == 1
    strides = attribute_of(node, "strides", [1, 1])
    if not plain or padding not in (b"NOTSET", b"") or attribute_of(node, "output_shape", None):
        return None
    return weights if any(stride > 1 for stride in strides) else None


def _phases(size: int, made: int, taps: tuple[int, ...], stride: int, pad: int) -> Phases | None:
    """Return how `made` places read `size` by taps at these places; None if in no whole groups."""
    if made % stride:
        return None
    # Place i of a group reads, by a tap, the input that lies this far from the group's own.
    apart = {
        (place, number): (place + pad - tap) // stride
        for place in range(stride)
        for number, tap in enumerate(taps)
        if (place + pad - tap) % stride == 0
    }
    first, last = min(apart.values()), max(apart.values())
    count, window = made // stride, last - first + 1
    after = count + window - 1 - size + first
    if first > 0 or after < 0:
        return None
    found = [[-1] * window for _ in range(stride)]
    for (place, tap), distance in apart.items():
        found[place][distance - first] = tap
    return Phases(Axis(size, window, 1, 1, -first, after), count, found)


def _spread(weights: Any, vertical: Phases, horizontal: Phases) -> Any:
    """Return weights [C, M, R, S] as those of a convolution, [places · M, C, window]."""
    inputs, outputs = weights.shape[:2]
    parts = []
    for rows in vertical.taps:
        for columns in horizontal.taps:
            part = np.zeros((outputs, inputs, len(rows), len(columns)), np.float32)
            for (r, down), (s, right) in product(enumerate(rows), enumerate(columns)):
                if down >= 0 and right >= 0:
                    part[:, :, r, s] = weights[:, :, down, right].T
            parts.append(part)
    return np.concatenate(parts)


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
    lowered = fallback.lower_region(
        model,
        [node],
        read,
        written,
        "interleave.",
        selection.target,
        lambda function, target, tunable: Kernel(selection.kernels.schedule(function, target)),
    )
    (step,) = lowered.steps
    return step.function
