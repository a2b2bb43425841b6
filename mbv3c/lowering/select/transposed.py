"""Transposed convolutions: convolutions, whose results are interleaved.

    y[h·s + i, w·s + j] = W[i, j] · x[h, w]        (stride s = kernel size, no padding)

Every place of the input makes s × s places of the output, each by weights of its own: one 1x1
convolution with s·s times the channels. Heads that find text (DB) and many decoders end in such
layers. What follows per channel, a bias as an Add or BatchNormalization, is part of the weights.

    y[q·s + i] = Σ W[i + p − s·d] · x[q + d]        (padding p; d: all for which W has that tap)

Where windows overlap, as in U-Nets (4x4 or 3x3, stride 2), each of the s × s places reads some
neighbours of its own. One window around all of them would hold many zeros: there every place is a
convolution by itself, of each channel where they are apart (group = channels). Few groups are one
convolution with zeros for the channels of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from tvm import te, tirx
from tvm.tirx import PrimFunc, Var

from mbv3c.lowering import fallback
from mbv3c.lowering.plan import Array, Depthwise, Kernel, Pointwise
from mbv3c.lowering.schedules.emit import Activation
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


_MOST_APART = 64  # places that are computed by kernels of their own
_LEAST_SAVED = 1.25  # by kernels of their own, of the products of one window for all places
_MOST_GROUPS = 4  # that are computed as one, with zeros


@dataclass(frozen=True)
class Phases:
    """How places of one output axis read an input axis.

    Attributes:
        axis: the window around all that these places of a group read.
        count: the number of groups of places, one for every stride.
        taps: for each of the places and each tap of the window the tap of the weights, or -1.
    """

    axis: Axis
    count: int
    taps: list[list[int]]


@dataclass(frozen=True)
class _Layer:
    """A transposed convolution.

    Attributes:
        weights: [C, M, R, S], of the channels of a group in the latter case [C, 1, R, S].
        bias: [outputs].
        strides: down and across.
        depthwise: whether each channel is convolved by itself.
        ways, apart: how the places read both axes, all in one window; each place by itself.
        is_cut: whether the last group of places is not whole.
    """

    weights: Any
    bias: Any
    strides: tuple[int, int]
    depthwise: bool
    ways: tuple[Phases, Phases]
    apart: tuple[list[Phases], list[Phases]]
    is_cut: bool

    @property
    def outputs(self) -> int:
        return len(self.bias)

    def parts(self) -> list[tuple[Phases, Phases]]:
        """Return what becomes a convolution: all places together, or each, row by row."""
        down, right = self.strides
        together = prod(len(way.taps) * way.axis.taps for way in self.ways)
        single = prod(sum(way.axis.taps for way in each) for each in self.apart)
        worth = together > _LEAST_SAVED * single and down * right <= _MOST_APART
        must = self.depthwise or self.is_cut
        return list(product(*self.apart)) if worth or must else [self.ways]


def transposed(node: onnx.NodeProto, selection: Selection) -> bool:
    """Take a transposed convolution with stored weights, with the activation after it."""
    graph, memory = selection.graph, selection.memory
    layer = _layer_of(node, graph)
    if layer is None:
        return False
    followers, scale, shift = affine_after(node, graph, layer.outputs)
    per_output = scale[:, None, None, None] if layer.depthwise else scale[:, None, None]
    layer = replace(
        layer,
        weights=(layer.weights * per_output).astype(np.float32),
        bias=(layer.bias * scale + shift).astype(np.float32),
    )
    ended, activation = with_activation([node, *followers][-1], graph)
    covered = [node, *followers[:-1], *ended] if followers else ended
    parts = layer.parts()
    result, names, dtype = covered[-1].output[0], list[str](), selection.dtype
    for vertical, horizontal in parts:
        places = len(vertical.taps) * len(horizontal.taps)
        spread = _spread(layer, vertical, horizontal)
        batch, inputs = graph.shape(node.input[0])[:2]
        groups = inputs if layer.depthwise else 1
        axes, biases = (vertical.axis, horizontal.axis), np.tile(layer.bias, places)
        conv = ImageConvolution(batch, inputs, axes, groups, spread, biases)
        kind, kernel, value, madds = _convolved(conv, node.input[0], activation, selection)
        if max(layer.strides) == 1:
            selection.emit(kind, covered, kernel, (value,), madds)
            return True
        dtype = str(kernel.function.params[-1].dtype)
        made = (batch, vertical.count, horizontal.count, len(biases))
        names.append(memory.add_value(f"{result}.phases", made, dtype))
        arguments: tuple[str | Array, ...] = (value, *kernel.constants, names[-1])
        memory.append(kind, covered, kernel, arguments, (names[-1],), madds)
    last = memory.add_result(result, dtype)
    batch, outputs, *sides = graph.shape(result)
    counts = [way.count for way in layer.ways]
    if len(parts) == 1:
        down, right = layer.strides
        extents = (batch * counts[0], counts[1], down, right * outputs)
        function = _interleaving(extents, dtype, selection)
    else:
        phases = [
            te.placeholder((batch, *counts, outputs), dtype, f"p{at}") for at in range(len(parts))
        ]
        woven = _woven(phases, (sides[0], sides[1]), layer.strides)
        function = selection.kernels.schedule(woven, selection.target)
    memory.append("interleave", (), Kernel(function), (*names, result), (result,))
    memory.hold(result, result, channels_last=last)
    return True


def _convolved(
    conv: ImageConvolution, x: str, activation: Activation, selection: Selection
) -> tuple[str, Kernel, str, int]:
    """Return kind and kernel of a convolution, the value that it reads, and multiply-adds."""
    kernels, dtype = selection.kernels, selection.dtype
    if conv.groups > 1:
        of_each = Depthwise(conv.batch, conv.inputs, *conv.axes, activation, dtype)
        kernel = kernels.depthwise(of_each, conv.weights, conv.bias)
        return "depthwise", kernel, selection.value(x, channels_last=True), of_each.madds
    if conv.is_pointwise:
        rows = conv.batch * prod(axis.size for axis in conv.axes)
        shape = Pointwise(rows, conv.inputs, conv.outputs, activation, False, dtype)
        kernel = kernels.pointwise(shape, conv.weights[:, :, 0, 0], conv.bias)
        return "pointwise", kernel, selection.value(x, channels_last=True), shape.madds
    return ("convolution", *dense_kernel(conv, x, activation, selection))


def _layer_of(node: onnx.NodeProto, graph: Graph) -> _Layer | None:
    """Return the layer of a node that this rule takes; None for others."""
    if node.op_type != "ConvTranspose" or not graph.is_value(node.input[0]):
        return None
    if not all(name in graph.stored for name in node.input[1:] if name):
        return None
    weights = graph.stored[node.input[1]]
    if weights.ndim != 4 or weights.dtype != np.float32 or not graph.is_float(node.input[0]):
        return None
    padding = attribute_of(node, "auto_pad", b"NOTSET")
    down, right = attribute_of(node, "strides", [1, 1])
    if padding not in (b"NOTSET", b"") or attribute_of(node, "output_shape", None):
        return None
    groups, inputs = attribute_of(node, "group", 1), len(weights)
    outputs = groups * weights.shape[1]
    depthwise = groups == inputs == outputs > 1
    if groups > _MOST_GROUPS and not depthwise:
        return None
    lines = _lines(node, graph, weights.shape[2:])
    is_cut = any(made % stride for _, made, _, stride, _ in lines)
    if (depthwise or is_cut) and down * right > _MOST_APART:
        return None
    vertical, horizontal = (_phases(*line, tuple(range(line[3]))) for line in lines)
    rows, columns = ([_phases(*line, (place,)) for place in range(line[3])] for line in lines)
    if not depthwise:
        weights = _in_one_group(weights, groups)
    bias, ways = bias_of(node, graph, outputs), (vertical, horizontal)
    return _Layer(weights, bias, (down, right), depthwise, ways, (rows, columns), is_cut)


_Line = tuple[int, int, tuple[int, ...], int, int]  # inputs, outputs, taps, stride, padding


def _lines(node: onnx.NodeProto, graph: Graph, taps: Sequence[int]) -> list[_Line]:
    """Return the two axes of a layer."""
    sizes, made = (graph.shape(name)[2:] for name in (node.input[0], node.output[0]))
    strides = attribute_of(node, "strides", [1, 1])
    pads = attribute_of(node, "pads", [0, 0, 0, 0])[:2]
    dilations = attribute_of(node, "dilations", [1, 1])
    return [
        (size, outputs, tuple(range(0, count * step, step)), stride, pad)
        for size, outputs, count, step, stride, pad in zip(
            sizes, made, taps, dilations, strides, pads, strict=True
        )
    ]


def _in_one_group(weights: Any, groups: int) -> Any:
    """Return weights [C, M / groups, R, S] as [C, M, R, S], with zeros between groups."""
    inputs, each = weights.shape[:2]
    whole = np.zeros((inputs, groups * each, *weights.shape[2:]), np.float32)
    for group in range(groups):
        rows = slice(group * inputs // groups, (group + 1) * inputs // groups)
        whole[rows, group * each : (group + 1) * each] = weights[rows]
    return whole


def _phases(
    size: int, made: int, taps: tuple[int, ...], stride: int, pad: int, places: tuple[int, ...]
) -> Phases:
    """Return how some places of `made` read `size` by taps; the last group may be cut."""
    # Place i of a group reads, by a tap, the input that lies this far from the group's own.
    apart = {
        (at, number): (place + pad - tap) // stride
        for at, place in enumerate(places)
        for number, tap in enumerate(taps)
        if (place + pad - tap) % stride == 0
    }
    # A window that begins behind the first input, or ends before the last, holds zeros there.
    count = -(-made // stride)
    first = min([0, *apart.values()])
    last = max([first, size - count, *apart.values()])  # a place that no tap reaches reads one
    window = last - first + 1
    found = [[-1] * window for _ in places]
    for (at, tap), distance in apart.items():
        found[at][distance - first] = tap
    return Phases(Axis(size, window, 1, 1, -first, last + count - size), count, found)


def _spread(layer: _Layer, vertical: Phases, horizontal: Phases) -> Any:
    """Return a layer's weights as those of a convolution, [places · outputs, inputs, window]."""
    weights = layer.weights if layer.depthwise else layer.weights.swapaxes(0, 1)
    parts = []
    for rows in vertical.taps:
        for columns in horizontal.taps:
            part = np.zeros((*weights.shape[:2], len(rows), len(columns)), np.float32)
            for (r, down), (s, right) in product(enumerate(rows), enumerate(columns)):
                if down >= 0 and right >= 0:
                    part[:, :, r, s] = weights[:, :, down, right]
            parts.append(part)
    return np.concatenate(parts)


def _woven(phases: Sequence[Any], sides: tuple[int, int], strides: tuple[int, int]) -> PrimFunc:
    """Return what puts the places of every phase [N, rows, columns, M] between the others'."""
    batch, *_, outputs = phases[0].shape
    down, right = strides

    def place(image: Var, row: Var, column: Var, output: Var) -> Any:
        at = (image, tirx.floordiv(row, down), tirx.floordiv(column, right), output)
        of_rows = [
            _one_of([each[at] for each in phases[first : first + right]], column)
            for first in range(0, len(phases), right)
        ]
        return _one_of(of_rows, row)

    y = te.compute((batch, *sides, outputs), place, "y")
    function: PrimFunc = te.create_prim_func([*phases, y])
    return function


def _one_of(values: Sequence[Any], at: Var) -> Any:
    """Return the value of a place in a group of as many."""
    *others, value = values
    own = tirx.floormod(at, len(values))
    for number, other in reversed([*enumerate(others)]):
        value = tirx.if_then_else(own == number, other, value)
    return value


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
