"""Import a quantized graph into Relax, with the names of its nodes.

TVM's importer drops the names. Here the last call that a node becomes has the node's name as its
source span, which TVM's passes keep when they move calls into other functions. Nodes that only
move elements, and BatchNormalization, become calls that patterns can read:

    Slice, Pad, DepthToSpace …   ⇒   take(pad(x as one row, with a zero in front), numbers)
    BatchNormalization           ⇒   x * a + b, with a number for each channel
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper, numpy_helper
from tvm import relax
from tvm.ir import SourceName, Span
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from mbv3c.errors import ModelError, UnknownOperatorsError
from mbv3c.lowering.onnx_import import check_operators
from mbv3c.passes.leftovers import why_left
from mbv3c.passes.upgrade_opset import opset_of
from mbv3c.targets.ethos_u.lowering.composite import is_stored, operator, shape_of
from mbv3c.targets.ethos_u.lowering.moves import MOVES, numbers_moved, padded_with
from mbv3c.targets.ethos_u.lowering.reasons import reason_of

_MOST_STORED = 1 << 16  # elements of a constant that a node needs in fp32
_EPSILON = 1e-5  # of a BatchNormalization that says none


def import_named(model: onnx.ModelProto) -> tvm.IRModule:
    """Import a QDQ graph of fixed shapes.

    Raises:
        ModelError: TVM has no importer for some operators, or fails to import one.
    """
    prepared = with_own_pairs(model)
    try:
        check_operators(prepared)
    except UnknownOperatorsError as error:
        reasons = why_left(prepared, error.positions, ())
        raise ModelError("\n  ".join([str(error), *reasons])) from error
    opset = opset_of(prepared)
    importer = _NamedImporter({}, "float32", keep_params_in_input=False, sanitize=True)
    importer.readable = _Readable(prepared, opset)
    try:
        with redirect_stdout(StringIO()):  # where the importer says what it does not import
            return importer.from_onnx(prepared.graph, opset)
    except ModelError:
        raise
    except Exception as error:  # the importer raises whatever its converters raise
        raise ModelError(
            f"TVM {tvm.__version__} cannot import the quantized model: {_last_line(error)}"
        ) from error


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines()[-1:] or [repr(error)])[0]


@dataclass(frozen=True)
class _Readable:
    """The nodes of a model that become calls which patterns can read.

    Attributes:
        model: the model.
        opset: the version of ONNX's operators.
    """

    model: onnx.ModelProto
    opset: int

    @cached_property
    def nodes(self) -> dict[str, onnx.NodeProto]:
        return {node.name: node for node in self.model.graph.node}

    @cached_property
    def stored(self) -> dict[str, onnx.TensorProto]:
        """The constants, also those behind a DequantizeLinear with one scale."""
        stored = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for node in self.model.graph.node:
            names = node.input
            if node.op_type != "DequantizeLinear" or any(name not in stored for name in names):
                continue
            integers, scale, *zero = (numpy_helper.to_array(stored[name]) for name in names)
            if scale.size == 1 and integers.size <= _MOST_STORED:
                shifted = integers.astype(np.float32) - sum(
                    each.astype(np.float32) for each in zero
                )
                made = (shifted * scale).astype(np.float32).reshape(integers.shape)
                stored[node.output[0]] = numpy_helper.from_array(made, node.output[0])
        return stored

    def calls(self, name: str, op_type: str, x: relax.Expr) -> list[relax.Call]:
        """Return calls for the results of a node that reads `x`; none for other nodes."""
        node = self.nodes.get(name)
        if node is None or operator(x) != "relax.dequantize" or is_stored(x):
            return []
        if op_type in MOVES:
            return self._moves(node, x)
        return self._normalization(node, x) if op_type == "BatchNormalization" else []

    def _moves(self, node: onnx.NodeProto, x: relax.Call) -> list[relax.Call]:
        shape, around = shape_of(x), padded_with(node, self.stored)
        if around is None:
            return []
        moved = numbers_moved(node, self.stored, shape, self.opset)
        calls = []
        for numbers in moved or ():
            # Each result has a pair of its own, which can go into the operation on integers.
            own = relax.Call(x.op, x.args, x.attrs, x.ty_args, x.span)
            row = relax.op.reshape(own, (int(np.prod(shape)),))
            row = relax.op.nn.pad(row, [1, 0], pad_value=around)
            calls.append(relax.op.take(row, relax.const(numbers + 1, "int32"), 0))
        return calls

    def _normalization(self, node: onnx.NodeProto, x: relax.Call) -> list[relax.Call]:
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        names = node.input[1:]
        if attributes.get("training_mode") or any(name not in self.stored for name in names):
            return []
        scale, bias, mean, variance = (
            numpy_helper.to_array(self.stored[name]).astype(np.float64) for name in names
        )
        factor = scale / np.sqrt(variance + attributes.get("epsilon", _EPSILON))
        shape = (-1, *(1 for _ in shape_of(x)[2:]))
        numbers = [
            relax.const(each.astype(np.float32).reshape(shape))
            for each in (factor, bias - mean * factor)
        ]
        return [relax.op.add(relax.op.multiply(x, numbers[0]), numbers[1])]


class _NamedImporter(ONNXGraphImporter):  # type: ignore[misc]
    readable: _Readable

    def _convert_operator(
        self, op_name: str, inputs: list[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        name, bounds = attrs["tvm_custom"]["name"], inputs[1:]
        made = self.readable.calls(name, op_name, inputs[0]) if len(inputs) else []
        if len(made) > 1:
            return relax.Tuple([self._named(self.bb.normalize(each), name) for each in made])
        if made:
            result = self.bb.normalize(made[0])
        elif op_name == "Clip" and (limits := _limits_of(bounds)) is not None:
            # The importer would make kernels of a Clip, as a bound might be NaN: no pattern fits.
            result = self.bb.normalize(relax.op.clip(inputs[0], *limits))
        else:
            result = self._converted(op_name, inputs, attrs, opset)
        return self._named(result, name) if isinstance(result, relax.Call) else result

    def _converted(
        self, op_name: str, inputs: list[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        try:
            return super()._convert_operator(op_name, inputs, attrs, opset)
        except Exception as error:  # the importer raises whatever its converters raise
            reason = reason_of(op_name, quantized=True)
            raise ModelError(
                f"TVM {tvm.__version__} cannot import {op_name} ({attrs['tvm_custom']['name']}): "
                f"{_last_line(error)}\n{reason.change}, or use another target, such as arm_cpu "
                "with --precision int8"
            ) from error

    def _named(self, call: relax.Call, name: str) -> relax.Expr:
        span = Span(SourceName(name), 0, 0, 0, 0)
        named = relax.Call(call.op, call.args, call.attrs, call.ty_args, span)
        return self.bb.normalize(named)


def _limits_of(bounds: Sequence[relax.Expr | None]) -> tuple[float, float] | None:
    """Return the bounds of a Clip, of which either may be left out; None if one is computed."""
    limits = [-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max)]
    for index, bound in enumerate(bounds):
        if isinstance(bound, tvm.ir.GenericConst):
            limits[index] = float(bound.value.numpy().reshape(()))
        elif bound is not None:
            return None
    return limits[0], limits[1]


def with_own_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which every dequantized tensor has one reader.

        Q → DQ → {a, b}   ⇒   Q → {DQ → a, DQ → b}

    So every DequantizeLinear can go into the integer operation that reads it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    pairs = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
    readers = Counter(output.name for output in graph.output)  # who takes an output reads it, too
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
