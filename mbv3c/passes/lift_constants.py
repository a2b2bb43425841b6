"""Store as initialisers what a graph holds as constants in other ways.

    Constant(value) → y                            ⇒   initialiser y
    initialiser w, listed among the inputs, too    ⇒   initialiser w

paddle2onnx and torch's quantized exports write weights as Constant nodes; torch lists initialisers
as inputs with `keep_initializers_as_inputs`, and every file of IR version 3 does. Such an input is
a default that a caller may replace; nothing compiled ahead of time can take another, so it is a
constant here. Every later pass then looks for constants in one place.
"""

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from onnx_ir.passes.common import (
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
)

from mbv3c.passes.report import PassReport
from mbv3c.passes.upgrade_opset import FIRST_IR_WITH_DEFAULTS

NAME = "lift_constants"


def lift_constants(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Make initialisers of Constant nodes, and nothing but initialisers of listed ones."""
    before = len(model.graph.node)
    if model.graph.sparse_initializer or _SPARSE in _kinds(model.graph):
        model = _dense(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    listed = tuple(value.name for value in model.graph.input if value.name in stored)
    if not listed and not any(node.op_type == "Constant" for node in model.graph.node):
        return model, PassReport(NAME, (), (), before, before, False)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # onnx_ir would name the tensors of the given one
    lifted = ir.from_proto(copy)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(lifted)
    RemoveInitializersFromInputsPass()(lifted)
    lifted.ir_version = max(lifted.ir_version or 0, FIRST_IR_WITH_DEFAULTS)
    result = ir.to_proto(lifted)
    kept = {output for node in result.graph.node for output in node.output}
    constants = tuple(
        node.name or node.output[0]
        for node in model.graph.node
        if node.op_type == "Constant" and node.output[0] not in kept
    )
    after = len(result.graph.node)
    changed = bool(constants or listed)
    report = PassReport(NAME, (*constants, *listed), (), before, after, changed)
    return (result if changed else model), report


_SPARSE = "sparse_value"


def _kinds(graph: onnx.GraphProto) -> set[str]:
    """Return the attributes in which Constant nodes hold their values."""
    return {a.name for node in graph.node if node.op_type == "Constant" for a in node.attribute}


def _dense(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose sparse constants hold all their zeros, which onnx_ir does not read."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for sparse in copy.graph.sparse_initializer:
        copy.graph.initializer.append(_filled(sparse, sparse.values.name))
    del copy.graph.sparse_initializer[:]
    for node in copy.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == _SPARSE:
                dense = helper.make_attribute("value", _filled(attribute.sparse_tensor, ""))
                attribute.CopyFrom(dense)
    return copy


def _filled(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    values, places = (numpy_helper.to_array(part) for part in (sparse.values, sparse.indices))
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    where = places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), dense.shape)
    dense.reshape(-1)[where] = values
    return numpy_helper.from_array(dense, name)
