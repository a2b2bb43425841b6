"""Which nodes of an fp32 network CPUs compute in integers, once it is quantized.

    MatMul → Add → Sigmoid → Mul → MatMul
     int8    └────  fp32  ────┘     int8

A node without an integer kernel is computed in fp32, between two roundings. In a row of such
nodes, as in normalisation and attention, these roundings cost time and accuracy and save nothing.
"""

from math import prod

import onnx

from mbv3c.lowering.qdq import QuantizedGraph
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.nodes import (
    ARITHMETIC,
    RENAMES,
    activation_of,
    convolution_of,
    ordered_operands,
    product_of,
)
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP


def computed_in_integers(model: onnx.ModelProto) -> frozenset[str]:
    """Name the nodes of an fp32 graph that are best computed in integers.

    These are products with stored weights that have an integer kernel, and what has one and reads
    integers anyway: sums, gates, means and activations. The graph has fixed shapes, and its nodes
    have names and an order.

    Raises:
        ModelError: a shape is unknown.
    """
    graph = Graph(QuantizedGraph(model))
    nodes = graph.model.graph.node
    integers = {value.name for value in graph.model.graph.input}
    found = set()
    for node in nodes:
        if _is_integer_product(node, graph) or _reads_integers(node, graph, integers):
            integers.update(node.output)
            found.add(node.name)
    return frozenset(found)


def _reads_integers(node: onnx.NodeProto, graph: Graph, integers: set[str]) -> bool:
    """Say whether a node without weights has an integer kernel, and integers to read."""
    x = node.input[0] if node.input else ""
    if node.op_type in RENAMES or (node.op_type == "Cast" and not graph.is_float(x)):
        return x in integers  # a frame's pixels have steps of 1 as they come
    if not node.output or not graph.is_float(node.output[0]):
        return False
    if node.op_type == "GlobalAveragePool":
        return x in integers and graph.is_image(x)
    if node.op_type not in ARITHMETIC:
        return x in integers and activation_of(node, graph) is not None
    if not all(graph.is_value(name) for name in node.input):
        return False
    ordered = ordered_operands(node.input, node.output[0], graph)
    if ordered is None:
        return False
    operands, per_channel = ordered
    # A gate is small: rounding it costs less than a whole image of floats.
    return integers.issuperset(operands[:1] if per_channel else operands)


def _is_integer_product(node: onnx.NodeProto, graph: Graph) -> bool:
    """Say whether a node is a product with stored weights that an integer kernel covers."""
    product = product_of(node, graph)
    if product is not None:
        return prod(product.weights.shape[1:]) >= GROUP
    conv = convolution_of(node, graph)
    if conv is None:
        return False
    whole = conv.inputs % GROUP == 0 or conv.inputs < GROUP
    return conv.is_depthwise or (conv.groups == 1 and whole)
