"""Rewrite chains of nodes that compute on one pixel: from convolutions to products, and back."""

from collections.abc import Callable

import onnx
import onnx_ir as ir
from onnx import shape_inference

from mbv3c.passes.report import PassReport, Refusal
from mbv3c.passes.rewrite import operators_of, unchanged

Chain = list[ir.Node]

# What a chain may hold beside convolutions and products: it does not care how a pixel is laid out.
ELEMENTWISE = ("Relu", "Sigmoid", "HardSigmoid", "HardSwish", "Clip")


def rewrite_chains(
    model: onnx.ModelProto,
    name: str,
    *,
    ends: tuple[str, ...],
    chain_before: Callable[[ir.Node], Chain],
    refusal: Callable[[ir.Node, Chain], str | None],
    convert: Callable[[ir.Graph, Chain], None],
) -> tuple[onnx.ModelProto, PassReport]:
    """Rewrite every chain of a model.

    Args:
        model: the model, which is returned itself if nothing is rewritten.
        name: name of the pass.
        ends: the operators of which a chain may have one at its end.
        chain_before: function from a node to the chain that ends with it, empty if none does.
        refusal: function from a node and its chain to the reason why the chain must stay, or None.
        convert: function that replaces a chain of a graph by new nodes.
    """
    if operators_of(model).isdisjoint(ends):
        return unchanged(model, name)
    rewritten = ir.from_proto(shape_inference.infer_shapes(model))
    graph = rewritten.graph
    before = len(graph)
    matched: list[str] = []
    refused = []
    for node in tuple(graph):
        chain = chain_before(node)
        if not chain:
            continue
        reason = next((r for step in chain if (r := refusal(step, chain))), None)
        if reason is not None:
            refused.append(Refusal(node.name or node.op_type, reason))
            continue
        matched += [step.name or step.op_type for step in chain]
        convert(graph, chain)
    report = PassReport(name, tuple(matched), tuple(refused), before, len(graph), bool(matched))
    return (ir.to_proto(rewritten) if matched else model), report
