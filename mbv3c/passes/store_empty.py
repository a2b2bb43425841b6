"""Store tensors of no elements: they are constants, whatever the input is.

    Slice(x)[2:2] → e, Concat(e, x) → y     ⇒   initialiser e; folding constants leaves y = x
    ReduceSum(e) → y                        ⇒   initialiser y of zeros

A cache of length 0 or a cut that leaves nothing comes to this. No kernel could compute one.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference


def store_empty(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which initialisers stand for all tensors that hold nothing.

    Without such tensors that is the model itself. What leaves the graph stays computed. An
    operand of a Concat that holds nothing is left out.
    """
    inferred = shape_inference.infer_shapes(model)
    empty = {
        value.name: value.type.tensor_type
        for value in inferred.graph.value_info
        if _is_empty(value)
    }
    hollow = {tensor.name for tensor in model.graph.initializer if 0 in tensor.dims} | {*empty}
    if not any(hollow & {*node.output} or _joins(node, hollow) for node in model.graph.node):
        return model
    kept = []
    for node in inferred.graph.node:
        names = [name for name in node.output if name]
        if names and all(name in empty for name in names):
            inferred.graph.initializer.extend(_stored(name, empty[name]) for name in names)
            continue
        if _joins(node, hollow):
            node.input[:] = [name for name in node.input if name not in hollow]
            if len(node.input) == 1:
                node.op_type = "Identity"
                del node.attribute[:]
        kept.append(node)
    del inferred.graph.node[:]
    inferred.graph.node.extend(kept)
    return inferred


def _joins(node: onnx.NodeProto, hollow: set[str]) -> bool:
    """Say whether a node joins tensors that hold nothing to others."""
    without = hollow.intersection(node.input)
    return node.op_type == "Concat" and bool(without) and not without.issuperset(node.input)


def _is_empty(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    known = all(dim.HasField("dim_value") for dim in dims)
    return known and any(dim.dim_value == 0 for dim in dims)


def _stored(name: str, kind: onnx.TypeProto.Tensor) -> onnx.TensorProto:
    shape = tuple(dim.dim_value for dim in kind.shape.dim)
    return numpy_helper.from_array(
        np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type)), name
    )
