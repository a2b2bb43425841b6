"""Compute what a quantized graph computes of its constants alone.

    ConstantOfShape(stored) → Cast → z      ⇒   initialiser z
    Mul(stored scale, stored scale) → s     ⇒   initialiser s

torch writes the zero points of biases in the first way and, unless it folds constants, their
scales in the second. A graph with pairs is not simplified as others are, since that would fold its
integers to fp32; so only what moves, converts or scales constants is computed, and no
DequantizeLinear.
"""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from mbv3c.passes.report import PassReport
from mbv3c.passes.upgrade_opset import DEFAULT_DOMAINS, opset_of

NAME = "fold_constants"

_FOLDED = frozenset(
    (
        *("Cast", "Concat", "ConstantOfShape", "Div", "Flatten", "Gather", "Identity", "Mul"),
        *("Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze"),
    )
)
_MOST = 1 << 24  # numbers that a ConstantOfShape may make


def fold_constants(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Store the outputs of these nodes where all that they read is stored."""
    before = len(model.graph.node)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    kept, made, matched = list[onnx.NodeProto](), list[onnx.TensorProto](), list[str]()
    for node in model.graph.node:
        if _is_constant(node, stored.get) and not outputs.intersection(node.output):
            tensor = _computed(node, stored, opset_of(model))
            stored[tensor.name] = tensor
            made.append(tensor)
            matched.append(node.name or node.output[0])
        else:
            kept.append(node)
    report = PassReport(NAME, tuple(matched), (), before, len(kept), bool(matched))
    if not matched:
        return model, report
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    copy.graph.initializer.extend(made)
    return copy, report


def _is_constant(node: onnx.NodeProto, stored: Callable[[str], onnx.TensorProto | None]) -> bool:
    if node.op_type not in _FOLDED or node.domain not in DEFAULT_DOMAINS:
        return False
    tensors = [stored(name) for name in node.input if name]
    if not tensors or len(node.output) != 1 or any(tensor is None for tensor in tensors):
        return False
    if node.op_type != "ConstantOfShape":
        return True
    sizes = [numpy_helper.to_array(tensor) for tensor in tensors if tensor is not None]
    return 0 <= float(np.prod(sizes[0].astype(np.float64))) <= _MOST


def _computed(
    node: onnx.NodeProto, stored: dict[str, onnx.TensorProto], opset: int
) -> onnx.TensorProto:
    """Return what a node makes, under the name of its output."""
    known = ReferenceEvaluator(node, opsets={"": opset})
    given = {name: numpy_helper.to_array(stored[name]) for name in node.input if name}
    (array,) = known.run(None, given)
    return numpy_helper.from_array(np.asarray(array), node.output[0])
