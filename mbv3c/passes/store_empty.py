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

    Without such tensors that is the model itself. What leaves the graph stays computed. Operands
    of a Concat and parts of a Split that hold nothing are left out.
    """
    inferred = shape_inference.infer_shapes(model)
    empty = {
        value.name: value.type.tensor_type
        for value in inferred.graph.value_info
        if _is_empty(value)
    }
    sizes = {tensor.name: tensor for tensor in inferred.graph.initializer}
    hollow = {name for name, tensor in sizes.items() if 0 in tensor.dims} | {*empty}
    kept, changed = [], False
    for node in inferred.graph.node:
        gone = [name for name in node.output if name in empty]
        made = [name for name in node.output if name and name not in empty]
        parts = node.op_type == "Split" and len(node.input) > 1 and node.input[1] in sizes
        if gone and (parts or not made):
            changed = True
            inferred.graph.initializer.extend(_stored(name, empty[name]) for name in gone)
            if not made:
                continue
            _leave_out(node, made, sizes[node.input[1]], inferred.graph)
        elif _joins(node, hollow):
            changed = True
            node.input[:] = [name for name in node.input if name not in hollow]
            if len(node.input) == 1:
                _pass_on(node)
        kept.append(node)
    if not changed:
        return model
    del inferred.graph.node[:]
    inferred.graph.node.extend(kept)
    return inferred


def _leave_out(
    node: onnx.NodeProto, made: list[str], sizes: onnx.TensorProto, graph: onnx.GraphProto
) -> None:
    """Have a Split make only some of its parts."""
    if len(made) == 1:
        node.output[:] = made
        _pass_on(node)
        return
    by_name = dict(zip(node.output, numpy_helper.to_array(sizes), strict=True))
    name = f"{made[0]}.parts"
    graph.initializer.append(numpy_helper.from_array(np.array([by_name[m] for m in made]), name))
    node.input[1] = name
    node.output[:] = made


def _pass_on(node: onnx.NodeProto) -> None:
    node.op_type = "Identity"
    del node.input[1:], node.attribute[:]


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
