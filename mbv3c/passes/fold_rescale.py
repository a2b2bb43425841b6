"""Fold the rescaling of an image into the convolution that reads it.

    Mul(x, a) → Conv(w, b)                        ⇒   Conv(x, a · w, b)
    Mul(x, a) → Add(s) → Conv(w, b), not padded   ⇒   Conv(x, a · w, b + Σ w · s)
    Mul(x, a) → Add(s) → Conv(w, b), padded       ⇒   Add(x, s / a) → Conv(a · w, b)

with a and s one number, or one per channel. There may be several Add, Mul and Div in any order,
and the Transpose of an NHWC image between them. Keras' Rescaling layer looks like that, and what
other exporters put before the first convolution. A padded convolution adds its zeros after the
shift, so the shift must stay before it; that is reported as a refusal.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import shape_inference

from mbv3c.passes.layout import perm_of
from mbv3c.passes.report import PassReport, Refusal
from mbv3c.passes.rewrite import (
    FLOATS,
    constant,
    leaking,
    operators_of,
    remove_unused,
    static,
    stored,
    unchanged,
)

NAME = "fold_rescale"

_STEPS = ("Add", "Mul", "Div")

_SHIFT_STAYS = "the shift stays: Conv pads with zeros behind it, which are other numbers before it"

_Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class _Line:
    """The input of a convolution as scale · x + shift.

    Attributes:
        x: the tensor at the start.
        scale: factor per channel of x, not zero.
        shift: addend per channel of x.
        steps: the Add, Mul and Div nodes that compute the input, the last one first.
        transpose: the Transpose between the steps, if there is one.
    """

    x: ir.Value
    scale: _Numbers
    shift: _Numbers
    steps: tuple[ir.Node, ...]
    transpose: ir.Node | None


def fold_rescale(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Fold Add, Mul and Div of constants into the Conv after them, as far as padding permits."""
    if operators_of(model).isdisjoint(_STEPS):
        return unchanged(model, NAME)
    rewritten = ir.from_proto(shape_inference.infer_shapes(model))
    graph = rewritten.graph
    before = len(graph)
    matched, refused = [], []
    for node in tuple(graph):
        line = _line(node) if node.op_type == "Conv" else None
        if line is None or not line.steps:
            continue
        reason = _not_foldable(node, line)
        if reason is not None:
            refused.append(Refusal(node.name or node.op_type, reason))
            continue
        matched.append(node.name or node.op_type)
        if _padded(node) and line.shift.any():
            refused.append(Refusal(line.steps[0].name or "Add", _SHIFT_STAYS))
        _fold(graph, node, line)
    report = PassReport(NAME, tuple(matched), tuple(refused), before, len(graph), bool(matched))
    return (ir.to_proto(rewritten) if matched else model), report


def _line(conv: ir.Node) -> _Line | None:
    """Follow the input of a convolution upwards through Add, Mul and Div of constants."""
    x = conv.inputs[0]
    shape = x and static(x)
    if x is None or not shape or x.dtype not in FLOATS:
        return None
    start, transpose, axis = x, None, 1
    scale, shift = np.ones(shape[1]), np.zeros(shape[1])
    steps: list[ir.Node] = []
    folded_transpose: ir.Node | None = None
    while (node := x.producer()) is not None:
        perm = perm_of(x)
        if perm is not None and transpose is None and node.inputs[0] is not None:
            transpose, axis, x = node, perm[1], node.inputs[0]
            continue
        if node.op_type not in _STEPS:
            break
        operands = list(node.inputs)
        if node.op_type != "Div" and _per_channel(operands[0], x, axis) is not None:
            operands.reverse()
        source = operands[0]
        number = _per_channel(operands[1], x, axis) if len(operands) == 2 else None
        if source is None or number is None or static(source) != static(x):
            break
        if node.op_type == "Add":
            shift = shift + scale * number
        elif node.op_type in ("Mul", "Div") and number.all():
            scale = scale * (number if node.op_type == "Mul" else 1 / number)
        else:
            break
        steps.append(node)
        x = start = source
        folded_transpose = transpose
    return _Line(start, scale, shift, tuple(steps), folded_transpose)


def _per_channel(operand: ir.Value | None, x: ir.Value, axis: int) -> _Numbers | None:
    """Return a constant beside x as one number per channel, or None if it is anything else."""
    array, shape = None if operand is None else constant(operand), static(x)
    if array is None or shape is None or array.ndim > len(shape):
        return None
    full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    if full.size != 1 and full.size != full.shape[axis]:
        return None
    return np.broadcast_to(full.astype(np.float64).ravel(), shape[axis])


def _not_foldable(conv: ir.Node, line: _Line) -> str | None:
    """Say why the convolution cannot take over a part of the line, if it cannot."""
    inside = (conv, *line.steps, *([line.transpose] if line.transpose else []))
    reason = leaking(inside[1:], inside)
    if reason is not None:
        return reason
    for operand in conv.inputs[1:]:
        if operand is not None and constant(operand) is None:
            return f"{operand.name!r} of Conv is not a constant"
    if conv.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "Conv chooses its padding by itself (auto_pad)"
    if _padded(conv) and line.shift.any() and len(line.steps) == 1:
        return _SHIFT_STAYS
    return None


def _padded(conv: ir.Node) -> bool:
    return any(conv.attributes.get_ints("pads", ()))


def _fold(graph: ir.Graph, conv: ir.Node, line: _Line) -> None:
    old_weight = conv.inputs[1]
    assert old_weight is not None
    weight = np.asarray(constant(old_weight))
    # One number for each row of the weight and each channel that the row reads.
    group = conv.attributes.get_int("group", 1)
    rows = np.arange(len(weight)) * group // len(weight)
    ones = (1,) * (weight.ndim - 2)
    scale = line.scale.reshape(group, -1)[rows].reshape(*weight.shape[:2], *ones)
    scaled = stored(graph, f"{old_weight.name}.rescaled", (weight * scale).astype(weight.dtype))
    x, bias = line.x, list(conv.inputs[2:3])
    new: list[ir.Node] = []
    if line.transpose is not None:
        transpose = line.transpose
        new.append(ir.node("Transpose", [x], transpose.attributes, name=transpose.name))
        x = new[-1].outputs[0]
    if line.shift.any() and _padded(conv):
        last = line.steps[0]
        shift = (line.shift / line.scale).reshape(1, -1, *ones)
        constants = stored(graph, f"{conv.name}.shift", shift.astype(weight.dtype))
        new.append(ir.node("Add", [x, constants], name=last.name))
        x = new[-1].outputs[0]
    elif line.shift.any():
        shift = line.shift.reshape(group, -1)[rows].reshape(*weight.shape[:2], *ones)
        old = 0 if not bias or bias[0] is None else np.asarray(constant(bias[0]), np.float64)
        total = old + (weight * shift).reshape(len(weight), -1).sum(1)
        bias = [stored(graph, f"{conv.name}.shifted", total.astype(weight.dtype))]
    new.append(ir.node("Conv", [x, scaled, *bias], conv.attributes, name=conv.name))
    old_nodes = [node for node in reversed(graph) if node in (*line.steps, line.transpose)]
    output = conv.outputs[0]
    ir.convenience.replace_nodes_and_values(
        graph, conv, [conv], new, [output], [new[-1].outputs[0]]
    )
    remove_unused(graph, old_nodes)
