"""Import ONNX with QDQ pairs to Relax, and keep the names of nodes.

TVM's importer drops the names. Here the last call that a node becomes has the node's name as its
source span, which TVM's passes keep when they move calls into other functions.
"""

from collections import Counter
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.ir import SourceName, Span
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from mbv3c.errors import ModelError
from mbv3c.lowering.onnx_import import check_operators

_DEFAULT_DOMAINS = ("", "ai.onnx")


def import_named(model: onnx.ModelProto) -> tvm.IRModule:
    """Import a QDQ graph of fixed shapes.

    Raises:
        UnknownOperatorsError: TVM has no importer for some operators.
        ModelError: TVM fails to import an operator.
    """
    prepared = with_own_pairs(model)
    check_operators(prepared)
    opset = next(e.version for e in prepared.opset_import if e.domain in _DEFAULT_DOMAINS)
    importer = _NamedImporter({}, "float32", keep_params_in_input=False, sanitize=True)
    try:
        return importer.from_onnx(prepared.graph, opset)
    except Exception as error:  # the importer raises whatever its converters raise
        reason = str(error).strip().splitlines()[-1:] or [repr(error)]
        raise ModelError(
            f"TVM {tvm.__version__} cannot import the quantized model: {reason[0]}"
        ) from error


def name_of(expression: relax.Expr) -> str | None:
    """Return the name of the node whose result an expression is; None if there is none."""
    span = expression.span
    return str(span.source_name.name) if span is not None else None


class _NamedImporter(ONNXGraphImporter):  # type: ignore[misc]
    def _convert_operator(
        self, op_name: str, inputs: list[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        bounds = inputs[1:]
        if op_name == "Clip" and all(isinstance(bound, tvm.ir.GenericConst) for bound in bounds):
            # The importer would make kernels of a Clip, as a bound might be NaN: no pattern fits.
            low, high = (float(bound.value.numpy().reshape(())) for bound in bounds)
            result = self.bb.normalize(relax.op.clip(inputs[0], low, high))
        else:
            result = super()._convert_operator(op_name, inputs, attrs, opset)
        if not isinstance(result, relax.Call):
            return result
        span = Span(SourceName(attrs["tvm_custom"]["name"]), 0, 0, 0, 0)
        named = relax.Call(result.op, result.args, result.attrs, result.ty_args, span)
        return self.bb.normalize(named)


def with_own_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which every dequantized tensor has one reader.

        Q → DQ → {a, b}   ⇒   Q → {DQ → a, DQ → b}

    So every DequantizeLinear can go into the integer operation that reads it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    pairs = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
    readers: Counter[str] = Counter()
    nodes = []
    for node in graph.node:
        if node.op_type != "DequantizeLinear":
            for index, name in enumerate(node.input):
                if name not in pairs:
                    continue
                readers[name] += 1
                if readers[name] > 1:
                    own = onnx.NodeProto()
                    own.CopyFrom(pairs[name])
                    own.name = own.output[0] = f"{name}__{readers[name]}"
                    node.input[index] = own.output[0]
                    nodes.append(own)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return copy
