"""Drop what does nothing at inference.

Identity(x) ⇒ x      Dropout(x) ⇒ x      nodes and initialisers that no output needs ⇒ nothing
"""

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

from mbv3c.passes.report import PassReport, Refusal
from mbv3c.passes.rewrite import scalar

NAME = "drop_dead"


def drop_dead(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Remove Dropout, Identity, and every node and initialiser that no output needs."""
    rewritten = ir.from_proto(model)
    graph = rewritten.graph
    names = [node.name or node.op_type for node in graph]
    initializers = len(graph.initializers)
    refused = []
    for node in [node for node in graph if node.op_type == "Dropout"]:
        reason = _drops(node)
        if reason is not None:
            refused.append(Refusal(node.name or "Dropout", reason))
            continue
        identity = ir.Node("", "Identity", [node.inputs[0]], name=node.name)
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], [identity], [node.outputs[0]], [identity.outputs[0]]
        )
    IdentityEliminationPass()(rewritten)
    RemoveUnusedNodesPass()(rewritten)
    kept = {node.name or node.op_type for node in graph}
    dropped = tuple(name for name in names if name not in kept)
    changed = len(graph) != len(names) or len(graph.initializers) != initializers
    report = PassReport(NAME, dropped, tuple(refused), len(names), len(graph), changed)
    return (ir.to_proto(rewritten) if changed else model), report


def _drops(dropout: ir.Node) -> str | None:
    """Say why a Dropout cannot be dropped, if it cannot."""
    source = dropout.inputs[0]
    if source is not None and source.is_graph_input() and dropout.outputs[0].is_graph_output():
        return "Dropout connects an input of the graph with an output"
    if any(mask.consumers() or mask.is_graph_output() for mask in dropout.outputs[1:]):
        return "the mask of Dropout is used"
    training = dropout.inputs[2] if len(dropout.inputs) > 2 else None
    if training is not None and scalar(training) != 0:
        return "Dropout may be in training mode"
    return None
