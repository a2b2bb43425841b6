"""Biases of Gemm as one number for each channel, which is how onnxruntime quantizes them.

    Gemm(x, w, b[1]), Gemm(x, w, b[]), Gemm(x, w, b[1, N])   ⇒   Gemm(x, w, b[N])
    Gemm(x, w, b[M, N]), Gemm(x, w, b[M, 1]), computed b     ⇒   Add(Gemm(x, w), b · beta)

ONNX lets a bias be anything that broadcasts to the result.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbv3c.passes.names import FreeNames


def with_biases_of_channels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write biases of Gemm that are not one number for each channel otherwise, in place."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    free = FreeNames(graph)
    nodes = [
        written
        for node in graph.node
        for written in (_written(node, graph, constants, free) if _has_bias(node) else [node])
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _has_bias(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gemm" and len(node.input) > 2 and bool(node.input[2])


def _written(
    node: onnx.NodeProto,
    graph: onnx.GraphProto,
    constants: dict[str, onnx.TensorProto],
    free: FreeNames,
) -> Iterator[onnx.NodeProto]:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    weight, bias = (constants.get(name) for name in node.input[1:3])
    channels = None if weight is None else weight.dims[0 if given.get("transB") else 1]
    if channels is None or (bias is not None and list(bias.dims) == [channels]):
        yield node
        return
    array = None if bias is None else numpy_helper.to_array(bias)
    if array is not None and array.size in (1, channels) and array.shape[:-1] in ((), (1,)):
        node.input[2] = _stored(
            graph, free.take(f"{node.input[2]}.row"), np.broadcast_to(array.ravel(), (channels,))
        )
        yield node
        return
    added, beta = node.input[2], float(given.get("beta", 1.0))
    product = onnx.NodeProto()
    product.CopyFrom(node)
    product.output[0] = free.take(f"{node.output[0]}.product")
    del product.input[2:]
    kept = [attribute for attribute in node.attribute if attribute.name != "beta"]
    del product.attribute[:]
    product.attribute.extend(kept)
    yield product
    if beta != 1:
        factor = _stored(graph, free.take(f"{node.output[0]}.beta"), np.array(beta, np.float32))
        scaled = free.take(f"{node.output[0]}.scaled")
        yield helper.make_node("Mul", [added, factor], [scaled], free.take(scaled))
        added = scaled
    name = free.take(f"{node.name}.bias")
    yield helper.make_node("Add", [product.output[0], added], [node.output[0]], name)


def _stored(graph: onnx.GraphProto, name: str, array: NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return name
