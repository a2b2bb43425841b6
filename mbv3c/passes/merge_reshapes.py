"""Merge nodes that only change the shape of a tensor.

    Reshape, Squeeze, Unsqueeze, Flatten, Transpose of sizes 1   …   ⇒   one Reshape
    … from [N, C, 1, 1] to [N, C]                                    ⇒   Flatten
    … back to the shape at the start                                 ⇒   nothing

All of these keep the elements in their order, so that only the two ends of a chain matter. A node
inside a chain stays if something else uses it.
"""

import math

import numpy as np
import onnx
import onnx_ir as ir
from onnx import shape_inference

from mbv3c.passes.layout import moves_only_ones
from mbv3c.passes.report import PassReport, Removal
from mbv3c.passes.rewrite import operators_of, remove_unused, static, stored, unchanged

NAME = "merge_reshapes"
REMOVES = Removal(
    ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"),
    "where several follow each other, or one changes nothing",
)


def merge_reshapes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Replace each chain of shape changes by one Reshape or Flatten, or by nothing."""
    if operators_of(model).isdisjoint(REMOVES.operators):
        return unchanged(model, NAME)
    rewritten = ir.from_proto(shape_inference.infer_shapes(model))
    graph = rewritten.graph
    before = len(graph)
    matched = []
    for node in reversed(tuple(graph)):
        if node.graph is not graph or not _keeps_order(node):
            continue
        chain = _chain(node)
        if _merge(graph, chain):
            matched.append(node.name or node.op_type)
            remove_unused(graph, chain)
    report = PassReport(NAME, tuple(reversed(matched)), (), before, len(graph), bool(matched))
    return (ir.to_proto(rewritten) if matched else model), report


def _chain(last: ir.Node) -> list[ir.Node]:
    """Return the shape changes that end in this one, the last one first."""
    chain = [last]
    while True:
        source = chain[-1].inputs[0]
        producer = source.producer() if source is not None else None
        if producer is None or producer.graph is not last.graph or not _keeps_order(producer):
            return chain
        chain.append(producer)


def _keeps_order(node: ir.Node) -> bool:
    """Tell whether a node changes nothing but the shape, from and to a known one."""
    if node.domain or not node.inputs or node.inputs[0] is None:
        return False
    shape = static(node.inputs[0])
    if shape is None or static(node.outputs[0]) is None:
        return False
    if node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        return True
    return node.op_type == "Transpose" and moves_only_ones(node, shape)


def _merge(graph: ir.Graph, chain: list[ir.Node]) -> bool:
    """Let one node, or none, stand for the chain; tell whether there was anything to do."""
    last, source = chain[0], chain[-1].inputs[0]
    output = last.outputs[0]
    assert source is not None
    start, end = static(source), static(output)
    assert start is not None
    assert end is not None
    if start == end and not output.is_graph_output():
        output.replace_all_uses_with(source)
        return True
    flat = len(start) > 2 and end == (start[0], math.prod(start[1:]))
    wanted = "Flatten" if flat else "Reshape"
    axis = last.attributes.get_int("axis", 1)
    if len(chain) == 1 and last.op_type == wanted and (not flat or axis in (1, 1 - len(start))):
        return False
    tape = ir.tape.Tape()
    if flat:
        new = tape.op("Flatten", [source], {"axis": 1}, name=last.name)
    else:
        shape = stored(graph, f"{last.name or output.name}.shape", np.array(end, np.int64))
        new = tape.op("Reshape", [source, shape], name=last.name)
    ir.convenience.replace_nodes_and_values(graph, last, [last], tape.nodes, [output], [new])
    return True
