"""Count parameters and multiply-adds of an ONNX graph."""

from dataclasses import dataclass
from math import prod

import onnx
from onnx import shape_inference

WEIGHTED = {"Conv", "Gemm", "MatMul"}


@dataclass(frozen=True)
class Counts:
    """Size and work of a network.

    Attributes:
        params: weights, biases and BatchNormalization scale and shift. Running statistics and
            the constants of activations are not parameters.
        madds: multiply-adds of Conv, Gemm and MatMul for one inference of the whole batch.
    """

    params: int
    madds: int


def count(model: onnx.ModelProto) -> Counts:
    """Count parameters and multiply-adds, the way the paper and torchvision do."""
    shapes = tensor_shapes(model)
    parameters: set[str] = set()
    madds = 0
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            parameters.update(node.input[1:])
            madds += multiply_adds(node, shapes)
        elif node.op_type == "BatchNormalization":
            parameters.update(node.input[1:3])
    stored = {tensor.name for tensor in model.graph.initializer}
    return Counts(sum(prod(shapes[name]) for name in parameters & stored), madds)


def tensor_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor with a static shape, initialisers included."""
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def multiply_adds(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the multiply-adds of one Conv, Gemm or MatMul, given every tensor's shape."""
    output = prod(shapes[node.output[0]])
    weight = shapes[node.input[1]]
    if node.op_type == "Conv":
        return output * prod(weight[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return output * weight[1 if transposed else 0]
    return output * weight[-2 if len(weight) > 1 else 0]
