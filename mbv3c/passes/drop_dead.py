"""Drop what no output needs.

nodes and initialisers that no output needs ⇒ nothing
"""

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mbv3c.passes.report import PassReport

NAME = "drop_dead"


def drop_dead(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Remove every node and initialiser that no output needs."""
    rewritten = ir.from_proto(model)
    graph = rewritten.graph
    nodes = tuple(graph)
    initializers = len(graph.initializers)
    RemoveUnusedNodesPass()(rewritten)
    dropped = tuple(node.name or node.op_type for node in nodes if node.graph is not graph)
    changed = bool(dropped) or len(graph.initializers) != initializers
    report = PassReport(NAME, dropped, (), len(nodes), len(graph), changed)
    return (ir.to_proto(rewritten) if changed else model), report
