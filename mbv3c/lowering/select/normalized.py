"""Normalisations of rows: LayerNormalization, InstanceNormalization, groups of channels.

    d = (x - x₀) - mean(x - x₀)        y = d / √(mean(d²) + ε) · scale + bias

x₀ is the first number of a row. A sum of numbers that lie far from zero loses digits, and the
mean of it would move every d; the differences from x₀ are as small as the numbers are spread. TVM
adds x itself. What follows per channel is part of scale and bias, also behind a Reshape:

    Reshape [N, G, -1] → InstanceNormalization → Reshape [N, C, H, W] → Mul(scale) → Add(bias)

is how torch writes a GroupNormalization, and how `spell_normalization` does. Source: ONNX
operators LayerNormalization-17, InstanceNormalization-6.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from tvm import te, tirx
from tvm.tirx import PrimFunc, Var

from mbv3c.lowering.plan import Array, Kernel
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.nodes import affine_after, attribute_of
from mbv3c.lowering.select.selection import Selection

_FLOAT_TYPES = ("float32", "float64")

Covered = list[onnx.NodeProto]


@dataclass(frozen=True)
class Normalization:
    """Rows that are normalised, each by itself, then scaled and shifted.

    Attributes:
        rows: number of rows.
        parts: number of parts of a row that have one scale each; 1 if every place has its own.
        places: numbers in a part.
        scale, bias: [sets, parts], one set for each row in turn; or [places].
        epsilon: what is added to the variance.
    """

    rows: int
    parts: int
    places: int
    scale: Array
    bias: Array
    epsilon: float


Taken = tuple[Covered, Normalization]


def normalization(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take a normalisation with stored scales whose mean and deviation nothing else reads."""
    graph, memory = selection.graph, selection.memory
    taken = _layer_of(node, graph) or _channels_of(node, graph)
    if taken is None:
        return False
    covered, shape = taken
    x, y = node.input[0], covered[-1].output[0]
    dtype = graph.dtype(x)
    function = selection.kernels.schedule(_function(shape, dtype), selection.target)
    source = memory.value(x, dtype, channels_last=False)
    memory.add_result(y, dtype, channels_last=False)
    arguments: tuple[str | Array, ...] = (source, shape.scale, shape.bias, y)
    memory.append("normalization", covered, Kernel(function), arguments, (y,))
    memory.hold(y, y, channels_last=False)
    return True


def _layer_of(node: onnx.NodeProto, graph: Graph) -> Taken | None:
    """Return what a LayerNormalization covers and computes; None for what this rule leaves."""
    if node.op_type != "LayerNormalization" or not _is_plain(node, graph):
        return None
    shape = graph.shape(node.input[0])
    axis = attribute_of(node, "axis", -1) % len(shape)
    scale, bias = _stored(node, graph)
    if max(scale.ndim, bias.ndim) > len(shape) - axis:
        return None  # they differ from row to row
    scale, bias = (np.broadcast_to(each, shape[axis:]).reshape(-1) for each in (scale, bias))
    epsilon = attribute_of(node, "epsilon", 1e-5)
    return [node], Normalization(prod(shape[:axis]), 1, len(scale), scale, bias, epsilon)


def _channels_of(node: onnx.NodeProto, graph: Graph) -> Taken | None:
    """Return what an InstanceNormalization covers and computes, with what follows per channel."""
    if node.op_type != "InstanceNormalization" or not _is_plain(node, graph):
        return None
    batch, rows, *sides = graph.shape(node.input[0])
    covered, channels = [node], rows
    user = graph.float_follower(node.output[0])
    if user is not None and user.op_type == "Reshape":
        shape = graph.shape(user.output[0])
        if len(shape) > 2 and shape[0] == batch and shape[1] % rows == 0:
            covered, channels = [node, user], shape[1]
    followers, factor, shift = affine_after(covered[-1], graph, channels)
    if not followers:
        covered, channels, factor, shift = [node], rows, factor[:rows], shift[:rows]
    each = channels // rows
    gain, offset = (np.repeat(values, each) for values in _stored(node, graph))
    dtype = graph.dtype(node.input[0])
    scale, bias = (
        values.astype(dtype).reshape(rows, each)
        for values in (gain * factor, offset * factor + shift)
    )
    epsilon, places = attribute_of(node, "epsilon", 1e-5), prod(sides) // each
    made = Normalization(batch * rows, each, places, scale, bias, epsilon)
    return [*covered, *followers], made


def _is_plain(node: onnx.NodeProto, graph: Graph) -> bool:
    """Say whether scale and bias are stored, and nothing reads mean and deviation."""
    return (
        graph.is_value(node.input[0])
        and graph.dtype(node.input[0]) in _FLOAT_TYPES
        and all(name in graph.stored for name in node.input[1:] if name)
        and not any(graph.users(name) or name in graph.outputs for name in node.output[1:])
    )


def _stored(node: onnx.NodeProto, graph: Graph) -> tuple[Array, Array]:
    """Return scale and bias; zeros where there is no bias."""
    scale = graph.stored[node.input[1]]
    given = node.input[2] if len(node.input) > 2 else ""
    return scale, graph.stored[given] if given else np.zeros_like(scale)


def _function(shape: Normalization, dtype: str) -> PrimFunc:
    """Return what normalises x [rows, parts · places] to y [rows, parts, places]."""
    rows, parts, places = shape.rows, shape.parts, shape.places
    size = parts * places
    x = te.placeholder((rows, size), dtype, "x")
    scale, bias = (
        te.placeholder(array.shape, dtype, name)
        for array, name in ((shape.scale, "scale"), (shape.bias, "bias"))
    )
    share = tirx.const(1 / size, dtype)
    # Values of their own, or else a sum would read its row in two ways, and not as vectors.
    first = te.compute((rows,), lambda r: x[r, 0], "first")
    at = te.reduce_axis((0, size), "at")
    total = te.compute((rows,), lambda r: te.sum(x[r, at] - first[r], at), "total")
    mean = te.compute((rows,), lambda r: total[r] * share, "mean")
    along = te.reduce_axis((0, size), "along")

    def square(r: Var) -> Any:
        offset = x[r, along] - first[r] - mean[r]
        return te.sum(offset * offset, along)

    squares = te.compute((rows,), square, "squares")
    epsilon = tirx.const(shape.epsilon, dtype)
    factor = te.compute(
        (rows,), lambda r: tirx.const(1, dtype) / te.sqrt(squares[r] * share + epsilon), "factor"
    )

    def normalised(r: Var, part: Var, place: Var) -> Any:
        offset = x[r, part * places + place] - first[r] - mean[r]
        own = (place,) if shape.scale.ndim == 1 else (r % shape.scale.shape[0], part)
        return offset * factor[r] * scale[own] + bias[own]

    y = te.compute((rows, parts, places), normalised, "y")
    function: PrimFunc = te.create_prim_func([x, scale, bias, y])
    return function
