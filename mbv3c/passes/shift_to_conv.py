"""Write the shift of a frame as a convolution of each channel by itself, before it is quantized.

    x (whole pixels) → Add(s) → Conv   ⇒   x → Conv(1x1, depthwise, weights 1, biases s) → Conv

The pixels and the weights 1 are exact in 8 bits, and biases are integers of 32 bits, so the shift
is as fine as a 127th of a pixel. A constant of 8 bits beside an Add would be as coarse as a pixel.
The zeros with which the second Conv pads stay exactly zero. Only models that take whole pixels,
and are to be quantized, go through this pass.
"""

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import shape_inference

from mbv3c.passes.report import PassReport
from mbv3c.passes.rewrite import constant, operators_of, static, stored, unchanged

NAME = "shift_to_conv"
_MOVING = ("Transpose", "Gather", "Identity")
_WHOLE = (ir.DataType.UINT8, ir.DataType.INT8)
_IMAGE = 4  # rank of N, C, H, W


def shift_to_conv(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Make a convolution of every Add of one number per channel to whole pixels."""
    if "Add" not in operators_of(model):
        return unchanged(model, NAME)
    rewritten = ir.from_proto(shape_inference.infer_shapes(model))
    graph = rewritten.graph
    before, matched = len(graph), []
    for node in tuple(graph):
        found = _shift(node) if node.op_type == "Add" else None
        if found is None:
            continue
        x, shift = found
        matched.append(node.name or node.op_type)
        ones = np.ones((len(shift), 1, 1, 1), np.float32)
        operands = [
            stored(graph, f"{node.name}.{name}", array)
            for name, array in (("weights", ones), ("biases", shift))
        ]
        conv = ir.node("Conv", [x, *operands], {"group": len(shift)}, name=node.name)
        old, new = node.outputs[0], conv.outputs[0]
        ir.convenience.replace_nodes_and_values(graph, node, [node], [conv], [old], [new])
    report = PassReport(NAME, tuple(matched), (), before, len(graph), bool(matched))
    return (ir.to_proto(rewritten) if matched else model), report


def _shift(add: ir.Node) -> tuple[ir.Value, NDArray[np.float32]] | None:
    """Return the pixels that a node shifts, and by how much each channel; None if it does not."""
    pairs = [each for each in add.inputs if each is not None]
    computed = [each for each in pairs if constant(each) is None]
    if len(pairs) != 2 or len(computed) != 1 or not _is_whole(computed[0]):
        return None
    (x,) = computed
    shape = static(x)
    numbers = next(constant(each) for each in pairs if each is not x)
    if shape is None or len(shape) != _IMAGE or numbers is None or numbers.dtype != np.float32:
        return None
    full = numbers.reshape((1,) * (_IMAGE - numbers.ndim) + numbers.shape)
    if full.size not in (1, shape[1]) or full.size != full.shape[1]:
        return None
    if not all(user.op_type == "Conv" for user in add.outputs[0].consumers()):
        return None
    return x, np.ascontiguousarray(np.broadcast_to(full.reshape(-1), shape[1:2]))


def _is_whole(value: ir.Value) -> bool:
    """Say whether a tensor holds the pixels of an input, only moved."""
    while (node := value.producer()) is not None and node.inputs[0] is not None:
        before = node.inputs[0]
        if node.op_type == "Cast" and before.dtype in _WHOLE:
            return _is_input(before)
        if node.op_type not in _MOVING:
            return False
        value = before
    return False


def _is_input(value: ir.Value) -> bool:
    while (node := value.producer()) is not None:
        if node.op_type not in _MOVING or node.inputs[0] is None:
            return False
        value = node.inputs[0]
    return value.is_graph_input()
