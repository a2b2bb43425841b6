"""Fold the order of a frame's colours into the convolution that reads it.

    Gather(x, [2, 1, 0], axis 1) → Add(s) → Conv(w)   ⇒   Add(x, s reordered) → Conv(w reordered)

with any order of the channels, and without the Add, too. Only models that take whole pixels go
through this pass.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import shape_inference

from mbv3c.passes.report import PassReport, Refusal
from mbv3c.passes.rewrite import (
    constant,
    leaking,
    operators_of,
    remove_unused,
    static,
    stored,
    unchanged,
)

NAME = "fold_colours"
_IMAGE = 4  # rank of N, C, H, W


@dataclass(frozen=True)
class _Place:
    """A convolution that reads channels in another order.

    Attributes:
        conv: the convolution.
        add: the sum between, if there is one.
        gather: what brings the channels into their order.
        order: the channel of the frame that each channel of the convolution reads.
    """

    conv: ir.Node
    add: ir.Node | None
    gather: ir.Node
    order: NDArray[np.int64]


def fold_colours(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Reorder weights instead of channels, where a convolution alone reads these."""
    if "Gather" not in operators_of(model):
        return unchanged(model, NAME)
    rewritten = ir.from_proto(shape_inference.infer_shapes(model))
    graph = rewritten.graph
    before = len(graph)
    matched, refused = [], []
    for node in tuple(graph):
        place = _place(node) if node.op_type == "Conv" else None
        if place is None:
            continue
        reason = _not_foldable(place)
        if reason is not None:
            refused.append(Refusal(node.name or node.op_type, reason))
            continue
        matched.append(node.name or node.op_type)
        _fold(graph, place)
    report = PassReport(NAME, tuple(matched), tuple(refused), before, len(graph), bool(matched))
    return (ir.to_proto(rewritten) if matched else model), report


def _place(conv: ir.Node) -> _Place | None:
    source = conv.inputs[0].producer() if conv.inputs[0] is not None else None
    add = source if source is not None and source.op_type == "Add" else None
    if add is not None:
        computed = [each for each in add.inputs if each is not None and constant(each) is None]
        source = computed[0].producer() if len(computed) == 1 else None
    if source is None or source.op_type != "Gather" or source.inputs[1] is None:
        return None
    order, x = constant(source.inputs[1]), source.inputs[0]
    shape = static(x) if x is not None else None
    if order is None or shape is None or source.attributes.get_int("axis", 0) != 1:
        return None
    if order.ndim != 1 or sorted(order.tolist()) != list(range(shape[1])):
        return None
    return _Place(conv, add, source, order.astype(np.int64))


def _not_foldable(place: _Place) -> str | None:
    inside = [node for node in (place.gather, place.add, place.conv) if node is not None]
    reason = leaking(inside[:-1], inside)
    if reason is not None:
        return reason
    weight = place.conv.inputs[1]
    if weight is None or constant(weight) is None:
        return "the weight of Conv is not a constant"
    if place.conv.attributes.get_int("group", 1) != 1:
        return "Conv reads its channels in groups"
    for operand in place.add.inputs if place.add is not None else ():
        numbers = constant(operand) if operand is not None else None
        if numbers is not None and numbers.size > 1 and not _is_by_channel(numbers):
            return "what is added is not one number for each channel"
    return None


def _is_by_channel(numbers: NDArray[np.generic]) -> bool:
    full = (1,) * (_IMAGE - numbers.ndim) + numbers.shape
    return numbers.size == full[1]


def _fold(graph: ir.Graph, place: _Place) -> None:
    conv, gather, where = place.conv, place.gather, np.argsort(place.order)
    weight, image = conv.inputs[1], gather.inputs[0]
    assert weight is not None
    array = np.asarray(constant(weight))
    conv.replace_input_with(
        1, stored(graph, f"{weight.name}.reordered", np.ascontiguousarray(array[:, where]))
    )
    if place.add is None:
        conv.replace_input_with(0, image)
    for index, operand in enumerate(place.add.inputs if place.add is not None else ()):
        assert place.add is not None
        numbers = constant(operand) if operand is not None else None
        if numbers is None:
            place.add.replace_input_with(index, image)
        elif numbers.size > 1:
            assert operand is not None
            full = np.ascontiguousarray(numbers.reshape(-1)[where].reshape(numbers.shape))
            place.add.replace_input_with(index, stored(graph, f"{operand.name}.reordered", full))
    remove_unused(graph, [gather])
