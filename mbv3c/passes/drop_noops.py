"""Drop what computes nothing.

Identity(x) ⇒ x      Dropout(x) ⇒ x      Cast(x) to the type that x has ⇒ x

It runs before the fusions, from which these nodes would hide matches.
"""

import onnx
import onnx_ir as ir
from onnx import shape_inference
from onnx_ir.passes.common import IdentityEliminationPass

from mbv3c.errors import ModelError
from mbv3c.passes.report import PassReport, Refusal, Removal
from mbv3c.passes.rewrite import operators_of, scalar, unchanged

NAME = "drop_noops"
REMOVES = Removal(("Identity", "Dropout", "Cast"), "where they pass on what they are given")


def drop_noops(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Remove every Identity, Dropout and Cast that passes on its input.

    Raises:
        ModelError: the model gives both sides of one shapes that contradict each other.
    """
    nested = any(one.HasField("g") or one.graphs for n in model.graph.node for one in n.attribute)
    if not nested and operators_of(model).isdisjoint(REMOVES.operators):
        return unchanged(model, NAME)
    rewritten = ir.from_proto(shape_inference.infer_shapes(model))
    graph = rewritten.graph
    nodes = tuple(graph)
    refused = []
    for node in nodes:
        if node.op_type != "Dropout" and not (node.op_type == "Cast" and _keeps_type(node)):
            continue
        reason = _does_something(node)
        if reason is not None:
            refused.append(Refusal(node.name or node.op_type, reason))
            continue
        identity = ir.Node("", "Identity", [node.inputs[0]], name=node.name)
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], [identity], [node.outputs[0]], [identity.outputs[0]]
        )
    kept = _needed_for_names(graph)
    for node in kept:
        node.domain = _KEPT
    try:
        IdentityEliminationPass()(rewritten)
    except ValueError as error:
        raise ModelError(
            f"what the model says of its tensors contradicts itself: {error}"
        ) from error
    for node in kept:
        node.domain = ""
    dropped = tuple(node.name or node.op_type for node in nodes if node.graph is not graph)
    report = PassReport(
        NAME, dropped, tuple(refused), len(nodes), len(graph), changed=bool(dropped)
    )
    return (ir.to_proto(rewritten) if dropped else model), report


_KEPT = "mbv3c.kept"


def _needed_for_names(graph: ir.Graph) -> list[ir.Node]:
    """Return the Identity nodes that give a tensor another name, where both names are outputs."""
    named, needed = set(graph.outputs), list[ir.Node]()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if node.graph is not graph:
            if node.op_type == "Identity" and not node.domain:
                needed.append(node)  # in a branch, whose outputs may be tensors outside of it
            continue
        if node.op_type != "Identity" or not node.outputs[0].is_graph_output():
            continue
        source = node.inputs[0]
        while (maker := source and source.producer()) and maker.op_type == "Identity":
            source = maker.inputs[0]
        if source in named:
            needed.append(node)
        elif source is not None:
            named.add(source)
    return needed


def _keeps_type(cast: ir.Node) -> bool:
    source = cast.inputs[0]
    wanted = cast.attributes.get_int("to", ir.DataType.UNDEFINED.value)
    return source is not None and source.dtype is not None and source.dtype.value == wanted


def _does_something(node: ir.Node) -> str | None:
    """Say why a Dropout or Cast cannot be dropped, if it cannot."""
    source = node.inputs[0]
    if source is not None and source.is_graph_input() and node.outputs[0].is_graph_output():
        return f"{node.op_type} connects an input of the graph with an output"
    if node.op_type == "Cast":
        return None
    if any(mask.consumers() or mask.is_graph_output() for mask in node.outputs[1:]):
        return "the mask of Dropout is used"
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and scalar(training) != 0:
        return "Dropout may be in training mode"
    return None
