"""What no kernel of ours covers: TVM's own operators, laid out as in ONNX.

Correct for every operator that TVM imports, and scheduled by one general rule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper
from tvm import relax
from tvm.tirx import PrimFunc

from mbv3c.errors import ModelError
from mbv3c.graphs.count import WEIGHTED, multiply_adds
from mbv3c.lowering.onnx_import import import_onnx, legalize
from mbv3c.lowering.plan import Array, Kernel, Step, Value
from mbv3c.lowering.schedules import general
from mbv3c.lowering.traced import KIND, knobs_of, may_be_tuned

# Operators whose results have as many elements as the values say that they read.
_OPEN_SHAPES = ("Compress", "NonMaxSuppression", "NonZero", "Unique", "Range", "ConstantOfShape")
_COMPUTED_SHAPES = ("call_packed", "call_pure_packed")  # TVM's runtime computes them
_SHOWN = 5  # names of nodes in a message


# Brings a function that TVM wrote into the form in which a target runs it. The last argument says
# whether contests could measure it, so that it may be as it was measured.
WriteOperator = Callable[[PrimFunc, tvm.target.Target, bool], Kernel]


def by_rules(function: PrimFunc, target: tvm.target.Target, tunable: bool) -> Kernel:
    """Write one of TVM's operators by the general schedule, whatever was measured."""
    return Kernel(general.schedule(function, target))


@dataclass(frozen=True)
class LoweredRegion:
    """A lowered region.

    Attributes:
        steps: the calls of the region's kernels.
        values: the values that the kernels write.
        held: for each output the value that holds it, or the output itself if it is constant.
    """

    steps: list[Step]
    values: dict[str, Value]
    held: dict[str, str | Array]


def lower_region(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[tuple[int, ...], int]],
    outputs: dict[str, tuple[tuple[int, ...], int]],
    prefix: str,
    target: tvm.target.Target,
    write: WriteOperator = by_rules,
) -> LoweredRegion:
    """Lower some nodes of a model by TVM.

    Args:
        model: the model that the nodes belong to.
        nodes: the nodes, in order.
        inputs: shape and ONNX element type of every tensor that the nodes read.
        outputs: shape and ONNX element type of every tensor that other nodes read.
        prefix: beginning of the names of new values.
        target: the target that runs the kernels.
        write: brings a function of TVM's into the form in which the target runs it.

    Raises:
        ModelError: TVM cannot import a node, or leaves something that is no kernel.
    """
    module = legalize(import_onnx(_region(model, nodes, inputs, outputs)), target)
    main = module["main"]
    names: dict[Any, str | Array] = dict(zip(main.params, inputs, strict=True))
    reader = _CallReader(module, names, prefix, nodes, target, write)
    lowered = reader.read(main, list(outputs))
    madds = _madds(model, nodes)
    if madds and lowered.steps:  # every step names all nodes; so the first one stands for them
        lowered.steps[0] = replace(lowered.steps[0], madds=madds)
    return lowered


def _madds(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> int:
    """Count the multiply-adds of nodes of a model whose shapes are inferred."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(dim.dim_value for dim in dims)
    weighted = (node for node in nodes if node.op_type in WEIGHTED)
    return sum(
        multiply_adds(node, shapes)
        for node in weighted
        if node.input[1] in shapes and node.output[0] in shapes
    )


def _region(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[tuple[int, ...], int]],
    outputs: dict[str, tuple[tuple[int, ...], int]],
) -> onnx.ModelProto:
    """Return the nodes as a model of their own, with names that TVM need not change."""
    inside = {name for node in nodes for name in (*node.input, *node.output) if name}
    short = {name: f"v{i}" for i, name in enumerate(sorted(inside))}
    renamed = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = node.name or f"→ {node.output[0]}"  # for messages
        copy.input[:] = [short.get(name, "") for name in node.input]
        copy.output[:] = [short.get(name, "") for name in node.output]
        renamed.append(copy)
    stored = []
    for tensor in model.graph.initializer:
        if tensor.name in inside:
            copied = onnx.TensorProto()
            copied.CopyFrom(tensor)
            copied.name = short[tensor.name]
            stored.append(copied)
    inputs_info, outputs_info = (
        [
            helper.make_tensor_value_info(short[name], dtype, shape)
            for name, (shape, dtype) in values.items()
        ]
        for values in (inputs, outputs)
    )
    graph = helper.make_graph(renamed, "region", inputs_info, outputs_info, stored)
    return helper.make_model(graph, opset_imports=list(model.opset_import))


class _CallReader:
    """Reads the calls of a legalized `main`."""

    def __init__(
        self,
        module: tvm.IRModule,
        names: dict[Any, str | Array],
        prefix: str,
        nodes: Sequence[onnx.NodeProto],
        target: tvm.target.Target,
        write: WriteOperator,
    ) -> None:
        self._module, self._names, self._prefix = module, names, prefix
        self._target, self._write = target, write
        self._covered = tuple(node.name or f"→ {node.output[0]}" for node in nodes)
        self._suspects = [
            f"{node.op_type} ({name})"
            for node, name in zip(nodes, self._covered, strict=True)
            if node.op_type in _OPEN_SHAPES
        ]
        self._steps: list[Step] = []
        self._values: dict[str, Value] = {}
        self._parts: dict[Any, list[str | Array]] = {}  # the values of a tuple

    def read(self, main: relax.Function, outputs: Sequence[str]) -> LoweredRegion:
        for block in main.body.blocks:
            for binding in block.bindings:
                self._bind(binding.var, binding.value)
        body = main.body.body
        results = self._fields(body) or [self._operand(body)]
        return LoweredRegion(self._steps, self._values, dict(zip(outputs, results, strict=True)))

    def _bind(self, variable: Any, value: Any) -> None:
        if isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.call_tir"):
            self._call(variable, value)
        elif isinstance(value, relax.TupleGetItem):
            self._names[variable] = self._parts[value.tuple_value][value.index]
        elif fields := self._fields(value):
            self._parts[variable] = fields
        else:
            self._names[variable] = self._operand(value)

    def _fields(self, value: Any) -> list[str | Array]:
        """Return the fields of a tuple; nothing for anything else."""
        if isinstance(value, relax.Tuple):
            return [self._operand(field) for field in value.fields]
        return self._parts.get(value, [])

    def _operand(self, value: Any) -> str | Array:
        """Return the name of a tensor, or the constant that it is."""
        if isinstance(value, tvm.ir.expr.GenericConst):
            return np.asarray(value.value.numpy())
        if isinstance(value, relax.ShapeExpr):
            return np.array([int(extent) for extent in value.values], np.int64)
        if value not in self._names:
            operation = str(value).partition("(")[0].removeprefix("R.")
            if operation in _COMPUTED_SHAPES:
                operation = "a shape that is computed when the model runs"
            more = len(self._covered) - _SHOWN
            lacking = ", ".join(self._suspects[:_SHOWN]) or (
                f"{operation}, which one of these nodes needs: {', '.join(self._covered[:_SHOWN])}"
                + (f" and {more} more" if more > 0 else "")
            )
            raise ModelError(
                f"TVM {tvm.__version__} has no kernel for {lacking}; leave it out of the export "
                "and compute it after the model"
            )
        return self._names[value]

    def _call(self, variable: Any, call: relax.Call) -> None:
        kernel, arguments = call.args[0], call.args[1].fields
        result = call.ty_args[0]
        types = list(result.fields) if isinstance(result, relax.TupleType) else [result]
        written: list[str] = []
        for kind in types:
            name = f"{self._prefix}{len(self._values)}"
            shape = tuple(int(extent) for extent in kind.shape)
            self._values[name] = Value(shape, str(kind.dtype))
            written.append(name)
        if isinstance(result, relax.TupleType):
            self._parts[variable] = list(written)
        else:
            self._names[variable] = written[0]
        read = [self._operand(argument) for argument in arguments]
        function = self._module[kernel]
        drawn = [
            str(parameter.dtype)
            for parameter, operand in zip(function.params, read, strict=False)
            if isinstance(operand, str)
        ]
        tunable = may_be_tuned(drawn, [str(kind.dtype) for kind in types])
        made = self._write(function, self._target, tunable)
        self._steps.append(
            Step(
                KIND,
                self._covered,
                made.function,
                (*read, *written),
                tuple(written),
                knobs=knobs_of(made),
                shape=made.shape,
                origin=made.origin,
                operator=str(kernel.name_hint),
                warning=made.warning,
            )
        )
