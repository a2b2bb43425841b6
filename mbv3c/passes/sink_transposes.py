"""Sink Transposes until they cancel: TensorFlow's NHWC islands in an NCHW graph.

    Transpose(p) → Transpose(q)                        ⇒   Transpose(p · q), or nothing
    Transpose(p)(a), Transpose(p)(b) → Add, Mul, …     ⇒   Add, Mul, … → Transpose(p)
    Transpose(p) → Relu, HardSwish, Clip, …            ⇒   Relu, HardSwish, Clip, … → Transpose(p)
    Transpose(p) → ReduceMean([1, 2]) → …              ⇒   ReduceMean([2, 3]) → Transpose(p)
    Transpose(p) → Pad                                 ⇒   Pad → Transpose(p)

A constant operand of a binary operator is laid out anew. The graph changes only if fewer
Transposes that move data are left than before.
"""

import numpy as np
import onnx
import onnx_ir as ir
from onnx import shape_inference

from mbv3c.passes.layout import Perm, count_moving, lay_out, perm_of, untransposed
from mbv3c.passes.report import PassReport, Removal
from mbv3c.passes.rewrite import (
    constant,
    operators_of,
    remove_unused,
    static,
    stored,
    unchanged,
    unused_name,
)

NAME = "sink_transposes"
REMOVES = Removal(("Transpose",), "where two of them cancel")

_UNARY = ("Relu", "Sigmoid", "HardSigmoid", "HardSwish", "Clip", "Cast", "Identity")
_BINARY = ("Add", "Mul", "Sub", "Div", "Min", "Max")


def sink_transposes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Move every Transpose down as far as it goes and drop the pairs that cancel."""
    if "Transpose" not in operators_of(model):
        return unchanged(model, NAME)
    rewritten = ir.from_proto(shape_inference.infer_shapes(model))
    graph = rewritten.graph
    before, moving = len(graph), count_moving(graph)
    matched: dict[str, None] = {}
    if moving:
        while names := [
            node.name or node.op_type for node in tuple(graph) if _sink_node(graph, node)
        ]:
            matched |= dict.fromkeys(names)
    if count_moving(graph) >= moving:
        return model, PassReport(NAME, (), (), before, before, False)
    return ir.to_proto(rewritten), PassReport(
        NAME, tuple(matched), (), before, len(graph), changed=True
    )


def _sink_node(graph: ir.Graph, node: ir.Node) -> bool:
    """Sink or merge the Transposes before one node; tell whether anything changed."""
    if node.graph is not graph or node.domain or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "Transpose":
        return _compose(graph, node)
    if node.op_type in _BINARY and len(node.inputs) == 2:
        return _sink_binary(graph, node)
    perm = perm_of(node.inputs[0])
    if perm is None:
        return False
    x = untransposed(node.inputs[0])
    if node.op_type in _UNARY:
        return _sink(graph, node, perm, [x, *node.inputs[1:]])
    if node.op_type == "ReduceMean":
        return _sink_mean(graph, node, perm, x)
    return node.op_type == "Pad" and _sink_pad(graph, node, perm, x)


def _compose(graph: ir.Graph, node: ir.Node) -> bool:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    first, second = perm_of(source), perm_of(output)
    if first is None or second is None:
        return False
    perm = tuple(first[axis] for axis in second)
    op_type, attributes = "Transpose", {"perm": perm}
    if perm == tuple(sorted(perm)):
        if not output.is_graph_output() or not _keeps_name(untransposed(source)):
            _pass_on(graph, node, untransposed(source))
            return True
        op_type, attributes = "Identity", {}
    _replace(graph, node, ir.node(op_type, [untransposed(source)], attributes, name=node.name))
    return True


def _keeps_name(value: ir.Value) -> bool:
    """Tell whether a tensor's name belongs to the interface of the graph."""
    return value.is_graph_input() or value.is_initializer() or value.is_graph_output()


def _pass_on(graph: ir.Graph, node: ir.Node, x: ir.Value) -> None:
    """Replace a node's output by x, which takes over the name of an output of the graph."""
    output, named = node.outputs[0], node.outputs[0].is_graph_output()
    ir.convenience.replace_all_uses_with(output, x, replace_graph_outputs=True)
    _clean(graph, node)
    if named:
        x.name = output.name


def _sink_binary(graph: ir.Graph, node: ir.Node) -> bool:
    perms = {perm for operand in node.inputs if operand and (perm := perm_of(operand))}
    if len(perms) != 1:
        return False
    perm = perms.pop()
    operands: list[ir.Value | None] = []
    for operand in node.inputs:
        assert operand is not None
        laid_out = untransposed(operand) if perm_of(operand) else lay_out(graph, operand, perm)
        if laid_out is None:
            return False
        operands.append(laid_out)
    return _sink(graph, node, perm, operands)


def _sink_mean(graph: ir.Graph, node: ir.Node, perm: Perm, x: ir.Value) -> bool:
    axes = node.attributes.get_ints("axes", ())
    if len(node.inputs) > 1:
        operand = None if node.inputs[1] is None else constant(node.inputs[1])
        axes = [] if operand is None else [int(axis) for axis in operand]
    if not axes:
        return False
    lifted_axes = sorted(perm[axis] for axis in axes)
    keep = node.attributes.get_int("keepdims", 1)
    left = [axis for axis in perm if axis not in lifted_axes]
    if not keep and left != sorted(left):
        return False
    attributes: dict[str, ir.Attr | int | list[int]] = {"keepdims": keep}
    operands = [x]
    if len(node.inputs) > 1:
        operands.append(stored(graph, f"{node.name}.axes", np.array(lifted_axes, np.int64)))
    else:
        attributes["axes"] = lifted_axes
    mean = ir.node("ReduceMean", operands, attributes, name=node.name)
    return _finish(graph, node, mean, perm if keep else None)


def _sink_pad(graph: ir.Graph, node: ir.Node, perm: Perm, x: ir.Value) -> bool:
    widths = node.inputs[1]
    pads = None if widths is None else constant(widths)
    if pads is None or pads.size != 2 * len(perm) or len(node.inputs) > 3:
        return False
    lifted_pads = pads.reshape(2, -1)[:, np.argsort(perm)].ravel()
    new_widths = stored(graph, f"{node.name}.pads", lifted_pads)
    operands = [x, new_widths, *node.inputs[2:]]
    lifted = ir.node("Pad", operands, node.attributes, name=node.name)
    return _finish(graph, node, lifted, perm)


def _sink(graph: ir.Graph, node: ir.Node, perm: Perm, operands: list[ir.Value | None]) -> bool:
    lifted = ir.node(node.op_type, operands, node.attributes, name=node.name)
    return _finish(graph, node, lifted, perm)


def _finish(graph: ir.Graph, node: ir.Node, lifted: ir.Node, perm: Perm | None) -> bool:
    """Replace a node by its lifted copy, followed by a Transpose unless `perm` is None."""
    output = node.outputs[0]
    if perm is None:
        _replace(graph, node, lifted)
        return True
    result = lifted.outputs[0]
    result.type = output.type
    result.name = unused_name(graph, f"{output.name}.nchw")
    shape = static(output)
    if shape is not None:
        result.shape = ir.Shape(tuple(shape[axis] for axis in np.argsort(perm)))
    transpose = ir.node("Transpose", [result], {"perm": perm})
    _replace(graph, node, lifted, transpose)
    return True


def _replace(graph: ir.Graph, node: ir.Node, *new: ir.Node) -> None:
    output = node.outputs[0]
    sources = [value for value in node.inputs if value is not None]
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], new, [output], [new[-1].outputs[0]]
    )
    remove_unused(graph, [p for value in sources if (p := value.producer()) is not None])


def _clean(graph: ir.Graph, node: ir.Node) -> None:
    source = node.inputs[0]
    producer = source.producer() if source is not None else None
    remove_unused(graph, [node, *([producer] if producer is not None else [])])
