"""Cut a quantized graph into what the NPU computes, region by region, and what stays on the CPU.

import → match patterns → merge neighbours to regions → `relax.ext.ethos_u` lowers each to TOSA
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
import tvm
import tvm_ffi
from tvm import relax

from mbv3c.targets.ethos_u.lowering.composite import (
    Composite,
    Quantization,
    bindings,
    operator,
    shape_of,
)
from mbv3c.targets.ethos_u.lowering.convert import Lowering, allowed_lsb, convert
from mbv3c.targets.ethos_u.lowering.named_import import import_named, name_of
from mbv3c.targets.ethos_u.lowering.patterns import BACKEND, patterns
from mbv3c.targets.ethos_u.lowering.region import Alone, Boundary, Operator, Partition, Region
from mbv3c.targets.ethos_u.lowering.tosa_graph import Tensor, TosaGraph

CONVERSIONS = ("quantize", "dequantize")
_ENTRY = "main"
_REGION_CALL = "relax.call_dps_packed"


def partition(model: onnx.ModelProto, lowering: Lowering | None = None) -> Partition:
    """Partition a QDQ graph of fixed shapes and lower what the NPU computes.

    Args:
        model: as `quantization.quantize` writes it.
        lowering: how to lower; None for what there is without a choice.

    Raises:
        ModelError: it cannot be imported.
    """
    module = import_named(model)
    module = relax.transform.FuseOpsByPattern(patterns(), bind_constants=True)(module)
    module = relax.transform.MergeCompositeFunctions()(module)
    module = _with_short_symbols(module)
    ends = _Ends(model, module)
    regions: dict[str, Region] = {}

    def lower_regions(
        functions: Sequence[relax.Function], options: Any, names: Any
    ) -> list[tvm.runtime.Module]:
        for function in functions:
            region = _lower(function, ends, lowering or Lowering())
            regions[region.symbol] = region
        return [_placeholder(str(function.attrs["global_symbol"])) for function in functions]

    tvm_ffi.register_global_func(f"relax.ext.{BACKEND}", lower_regions, override=True)
    try:
        compiled = relax.transform.RunCodegen({BACKEND: {}})(module)
    finally:
        tvm_ffi.remove_global_func(f"relax.ext.{BACKEND}")
    types = {node.name: node.op_type for node in model.graph.node}
    left = dict(_left(compiled[_ENTRY], types))
    on_cpu = [variable for variable, (_, is_end) in left.items() if not is_end]
    awaited = _awaited(compiled[_ENTRY], on_cpu)
    return Partition(
        compiled,
        tuple(regions[symbol] for symbol in ends.symbols if symbol in regions),
        tuple(left[variable][0] for variable in on_cpu),
        tuple(left[variable][0] for variable in on_cpu if variable in awaited),
        tuple(one for one, is_end in left.values() if is_end),
    )


def _placeholder(symbol: str) -> tvm.runtime.Module:
    """Return what stands for a region in TVM's module: it is the device that has the code."""
    source = f"/* {symbol} is a command stream of the NPU, beside this module */\n"
    return tvm_ffi.get_global_func("runtime.CSourceModuleCreate")(source, "c", [symbol], [])


def _with_short_symbols(module: tvm.IRModule) -> tvm.IRModule:
    """Name regions by their number; merging has made their names of all operators in them."""
    regions = [call.op for _, call in bindings(module[_ENTRY]) if _is_region(module, call)]
    for index, variable in enumerate(dict.fromkeys(regions)):
        function = module[variable].with_attr("global_symbol", f"{BACKEND}_{index}")
        module.update_func(variable, function)
    return module


def _is_region(module: tvm.IRModule, call: relax.Expr) -> bool:
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.GlobalVar):
        return False
    attributes = getattr(module[call.op], "attrs", None)
    return attributes is not None and "Codegen" in attributes


class _Ends:
    """What the tensors at the ends of regions are called, and how they are quantized.

    Attributes:
        symbols: the regions, in the order of their calls.
    """

    def __init__(self, model: onnx.ModelProto, module: tvm.IRModule) -> None:
        main = module[_ENTRY]
        self.symbols: list[str] = []
        self._inputs: dict[str, list[str]] = {}
        self._outputs: dict[str, dict[int, str]] = {}
        given = [one.name for one in model.graph.input if one.name not in _constants(model)]
        names: dict[Any, str] = dict(zip(main.params, given, strict=True))
        items: dict[Any, tuple[str, int]] = {}
        for variable, value in bindings(main):
            if _is_region(module, value):
                symbol = str(module[value.op].attrs["global_symbol"])
                self.symbols.append(symbol)
                self._inputs[symbol] = [names.get(one, "input") for one in value.args]
                self._outputs[symbol] = {}
                items[variable] = (symbol, 0)
            elif isinstance(value, relax.TupleGetItem) and value.tuple_value in items:
                items[variable] = (items[value.tuple_value][0], int(value.index))
            elif operator(value) == "relax.quantize" and value.args[0] in names:
                names[variable] = names[value.args[0]]
            elif operator(value) == "relax.dequantize" and value.args[0] in items:
                symbol, index = items[value.args[0]]
                self._outputs[symbol].setdefault(index, "")
                if self._is_result(main, variable):
                    position = self._results(main).index(variable)
                    self._outputs[symbol][index] = model.graph.output[position].name

    @staticmethod
    def _results(main: relax.Function) -> list[Any]:
        body = main.body.body
        bound = dict(bindings(main))
        value = bound.get(body, body)
        return list(value.fields) if isinstance(value, relax.Tuple) else [body]

    def _is_result(self, main: relax.Function, variable: relax.Var) -> bool:
        return any(one.same_as(variable) for one in self._results(main))

    def input(self, symbol: str, index: int) -> str:
        return self._inputs[symbol][index]

    def output(self, symbol: str, index: int) -> str:
        return self._outputs[symbol].get(index, "")


def _constants(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


def _lower(function: relax.Function, ends: _Ends, lowering: Lowering) -> Region:
    symbol = str(function.attrs["global_symbol"])
    graph = TosaGraph()
    composites: dict[Any, Composite] = {}
    values: dict[Any, Tensor] = {}
    known: dict[Any, Quantization] = {}
    names: dict[Any, str] = {}
    makers: dict[Any, str] = {}
    operators: list[Operator] = []
    alone: list[Alone] = []
    for index, parameter in enumerate(function.params):
        names[parameter] = makers[parameter] = ends.input(symbol, index)
        values[parameter] = graph.input(names[parameter], on_device(shape_of(parameter)))
    tuples: dict[Any, relax.Tuple] = {}
    for variable, value in bindings(function):
        if isinstance(value, relax.Function):
            composites[variable] = Composite(value)
        elif isinstance(value, relax.Tuple):
            tuples[variable] = value
        elif isinstance(value, relax.Call):
            one = composites[value.op]
            arguments = dict(zip(one.parameters, value.args, strict=True))
            known |= {arguments[p]: q for p, q in one.read() if arguments[p] not in known}
            inside = {parameter: values[outer] for parameter, outer in arguments.items()}
            values[variable] = convert(one, graph, inside, lowering)
            known[variable], names[variable] = one.output, one.name
            makers[variable] = one.quantized_by
            reads = tuple(makers[outer] for outer in value.args)
            alone.append(_alone(one, reads, lowering))
            operators.append(Operator(one.name, one.nodes, one.kind, on_npu=True))
        else:
            values[variable], known[variable] = values[value], known[value]
            names[variable], makers[variable] = names[value], makers[value]
    body = function.body.body
    result = tuples.get(body, body)
    outputs = list(result.fields) if isinstance(result, relax.Tuple) else [result]

    def boundary(variable: Any, name: str) -> Boundary:
        shape = shape_of(variable)
        return Boundary(name, shape, on_device(shape), known[variable], makers[variable])

    return Region(
        symbol,
        graph.finish([values[one] for one in outputs]),
        tuple(boundary(one, names[one]) for one in function.params),
        tuple(
            boundary(one, ends.output(symbol, index) or names[one])
            for index, one in enumerate(outputs)
        ),
        tuple(operators),
        tuple(alone),
        graph.channels,
        graph.tables,
    )


def _alone(one: Composite, reads: tuple[str, ...], lowering: Lowering) -> Alone:
    graph = TosaGraph()
    inside = {
        parameter: graph.input(f"input {index}", on_device(shape_of(parameter)))
        for index, parameter in enumerate(one.parameters)
    }
    result = convert(one, graph, inside, lowering)
    tosa = graph.finish([result])
    return Alone(one.name, tosa, reads, one.quantized_by, allowed_lsb(one, lowering))


def on_device(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the N, H, W, C of a shape N, C, H, W or N, C."""
    batch, channels, *sizes = shape
    height, width = sizes or (1, 1)
    return batch, height, width, channels


def _awaited(main: relax.Function, on_cpu: Sequence[Any]) -> set[Any]:
    """Return which of some variables are needed by what a region computes."""
    before: dict[Any, set[Any]] = {}
    awaited: set[Any] = set()
    for variable, value in bindings(main):
        needed = {variable} if variable in on_cpu else set()
        for read in tvm.relax.analysis.free_vars(value):
            needed |= before.get(read, set())
        before[variable] = needed
        if operator(value) == _REGION_CALL:
            awaited |= needed
    return awaited


def _left(
    main: relax.Function, types: Mapping[str, str]
) -> Iterator[tuple[Any, tuple[Operator, bool]]]:
    """Yield what `main` computes itself, and whether that only converts at one of its ends.

    Each is yielded with the variable that it is bound to. `types` has the ONNX operators by the
    names of their nodes.
    """
    body = main.body.body
    results = {body}
    for variable, value in bindings(main):
        if variable == body and isinstance(value, relax.Tuple):
            results |= set(value.fields)
    for variable, value in bindings(main):
        name = operator(value)
        if not name or name == _REGION_CALL:
            continue
        kind = name.removeprefix("relax.")
        node = name_of(value)
        is_end = (kind == "quantize" and value.args[0] in main.params) or (
            kind == "dequantize" and variable in results
        )
        # TVM makes several calls of some operators; the last of them stands for the node.
        nodes = (node,) if node else ()
        shown = kind if kind in CONVERSIONS else types.get(node or "", kind)
        yield variable, (Operator(node or kind, nodes, shown, on_npu=False), is_end)
