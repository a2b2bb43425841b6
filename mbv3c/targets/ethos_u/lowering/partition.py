"""Cut a quantized graph into regions that the NPU computes and operators that stay on the CPU.

import → match patterns → merge neighbours to regions → `relax.ext.ethos_u` lowers each to TOSA
"""

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import tvm
import tvm_ffi
from tvm import relax

from mbv3c.errors import ModelError
from mbv3c.lowering.quantization import Quantization
from mbv3c.targets.ethos_u.lowering.channels_last import is_from_channels_last
from mbv3c.targets.ethos_u.lowering.composite import (
    Composite,
    bindings,
    name_of,
    operator,
    shape_of,
)
from mbv3c.targets.ethos_u.lowering.convert import LoweringOptions, allowed_lsb, convert
from mbv3c.targets.ethos_u.lowering.cutting import REGION_CALL, is_worth_a_cut, needs_of_regions
from mbv3c.targets.ethos_u.lowering.importing import import_named
from mbv3c.targets.ethos_u.lowering.layout import on_device
from mbv3c.targets.ethos_u.lowering.left import left_operators
from mbv3c.targets.ethos_u.lowering.patterns import BACKEND, patterns
from mbv3c.targets.ethos_u.lowering.region import (
    Boundary,
    Operator,
    Partition,
    Region,
    SingleOperator,
)
from mbv3c.targets.ethos_u.lowering.tosa_graph import TosaGraph, TosaTensor

_ENTRY = "main"
_AT_THE_INPUT = ("relax.quantize", "relax.astype")  # which leave the values as they are


def partition(
    model: onnx.ModelProto, lowering: LoweringOptions | None = None, *, may_cut: bool = True
) -> Partition:
    """Partition a QDQ graph of fixed shapes and lower what the NPU computes.

    Args:
        model: QDQ graph, as `quantization.quantize` writes it.
        lowering: choices of the lowering; None for the defaults.
        may_cut: whether what comes behind the first region may be left to the CPU with all that
            follows, regions among it.

    Raises:
        ModelError: the graph cannot be imported, or an operator has no form on the NPU.
    """
    module = import_named(model)
    module = relax.transform.FuseOpsByPattern(patterns(), bind_constants=True)(module)
    module = relax.transform.MergeCompositeFunctions()(module)
    module = _with_short_symbols(module)
    ends = _BoundaryNames(model, module)
    regions: dict[str, Region] = {}
    refused: list[ModelError] = []

    def lower_regions(
        functions: Sequence[relax.Function], options: Any, names: Any
    ) -> list[tvm.runtime.Module]:
        for function in functions:
            try:
                region = _lower(function, ends, lowering or LoweringOptions())
            except ModelError as error:  # TVM would make another error of it
                refused.append(error)
                raise
            regions[region.symbol] = region
        return [_placeholder(str(function.attrs["global_symbol"])) for function in functions]

    tvm_ffi.register_global_func(f"relax.ext.{BACKEND}", lower_regions, override=True)
    try:
        compiled = relax.transform.RunCodegen({BACKEND: {}})(module)
    except RuntimeError:
        if refused:
            raise refused[0] from None
        raise
    finally:
        tvm_ffi.remove_global_func(f"relax.ext.{BACKEND}")
    found = tuple(regions[symbol] for symbol in ends.symbols if symbol in regions)
    left = dict(_left(compiled[_ENTRY]))
    inside = [variable for variable, (_, is_end) in left.items() if not is_end]
    at_ends = tuple(end for end, is_end in left.values() if is_end)
    on_cpu = left_operators(model, found, at_ends)
    waits = [each for each in on_cpu if each.stay is not None and each.stay.is_awaited]
    if not on_cpu:  # conversions between steps that no pattern takes
        on_cpu = tuple(left[variable][0] for variable in inside)
    needs = list(needs_of_regions(compiled[_ENTRY], inside))
    if not waits and any(needs):
        waits = list(on_cpu)
    if may_cut and waits and not needs[0] and is_worth_a_cut(model, found[0]):
        on_cpu = left_operators(model, found[:1], at_ends, behind=found[1:])
        found, waits = found[:1], []
        at_ends = tuple(end for end in at_ends if end.kind != "dequantize")
    return Partition(compiled, found, on_cpu, tuple(waits), at_ends)


def _placeholder(symbol: str) -> tvm.runtime.Module:
    """Return what stands for a region in TVM's module, whose code only the device has."""
    source = f"/* {symbol} is a command stream of the NPU, beside this module */\n"
    return tvm_ffi.get_global_func("runtime.CSourceModuleCreate")(source, "c", [symbol], [])


def _with_short_symbols(module: tvm.IRModule) -> tvm.IRModule:
    """Name regions by number, instead of by all the operators in them."""
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


class _BoundaryNames:
    """The names of the tensors at the ends of regions.

    Attributes:
        symbols: names of the regions, in the order of their calls.
    """

    def __init__(self, model: onnx.ModelProto, module: tvm.IRModule) -> None:
        main = module[_ENTRY]
        results = _results(main)
        self.symbols: list[str] = []
        self._inputs: dict[str, list[str]] = {}
        self._outputs: dict[str, dict[int, str]] = {}
        self._shapes: dict[str, list[tuple[int, ...] | None]] = {}
        self._reads: dict[str, tuple[str, ...]] = {}
        quantized: dict[Any, str] = {}
        made: dict[str, list[str]] = {}
        shapes: dict[Any, tuple[int, ...]] = {}
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [value.name for value in model.graph.input if value.name not in stored]
        names: dict[Any, str] = dict(zip(main.params, inputs, strict=True))
        items: dict[Any, tuple[str, int]] = {}
        for variable, value in bindings(main):
            if _is_region(module, value):
                symbol = str(module[value.op].attrs["global_symbol"])
                self.symbols.append(symbol)
                self._inputs[symbol] = [
                    names.get(argument) or quantized.get(argument) or "input"
                    for argument in value.args
                ]
                self._shapes[symbol] = [shapes.get(argument) for argument in value.args]
                self._reads[symbol] = tuple(quantized.get(argument, "") for argument in value.args)
                made[symbol] = _makers_of(module[value.op])
                quantized[variable] = made[symbol][0]
                self._outputs[symbol] = {}
                items[variable] = (symbol, 0)
            elif isinstance(value, relax.TupleGetItem) and value.tuple_value in items:
                items[variable] = (items[value.tuple_value][0], int(value.index))
                quantized[variable] = made[items[variable][0]][int(value.index)]
            elif operator(value) in _AT_THE_INPUT and value.args[0] in names:
                quantized[variable] = name_of(value) or ""
                names[variable] = names[value.args[0]]
                if value.args[0] in shapes:
                    shapes[variable] = shapes[value.args[0]]
            elif _is_moved_input(value, main.params):
                names[variable] = names[value.args[0]]
                shapes[variable] = shape_of(value.args[0])
            elif operator(value) == "relax.dequantize" and value.args[0] in items:
                symbol, index = items[value.args[0]]
                self._outputs[symbol].setdefault(index, "")
                if variable in results:
                    output = model.graph.output[results.index(variable)]
                    self._outputs[symbol][index] = output.name
            elif operator(value) == "relax.quantize":
                names[variable] = quantized[variable] = name_of(value) or ""

    def reads(self, symbol: str) -> tuple[str, ...]:
        """Return the QuantizeLinear nodes that make a region's inputs."""
        return self._reads[symbol]

    def input(self, symbol: str, index: int) -> str:
        return self._inputs[symbol][index]

    def shape(self, symbol: str, index: int) -> tuple[int, ...] | None:
        """Return the shape in the model of an input with its channels last; else None."""
        return self._shapes[symbol][index]

    def output(self, symbol: str, index: int) -> str:
        return self._outputs[symbol].get(index, "")


def _is_moved_input(value: relax.Expr, inputs: Sequence[relax.Var]) -> bool:
    """Say whether a call only moves the channels of an input, which are last, to the front."""
    return is_from_channels_last(value) and value.args[0] in inputs


def _makers_of(region: relax.Function) -> list[str]:
    """Return the QuantizeLinear nodes that make a region's results."""
    bound = dict(bindings(region))
    composites = {
        variable: Composite(value)
        for variable, value in bound.items()
        if isinstance(value, relax.Function)
    }

    def maker(variable: Any) -> str:
        value = bound[variable]
        return composites[value.op].quantized_by if isinstance(value, relax.Call) else maker(value)

    return [maker(variable) for variable in _results(region)]


def _results(function: relax.Function) -> list[Any]:
    """Return the variables that a function returns."""
    body = function.body.body
    value = dict(bindings(function)).get(body, body)
    return list(value.fields) if isinstance(value, relax.Tuple) else [body]


def _lower(function: relax.Function, ends: _BoundaryNames, lowering: LoweringOptions) -> Region:
    symbol = str(function.attrs["global_symbol"])
    graph = TosaGraph()
    composites: dict[Any, Composite] = {}
    values: dict[Any, TosaTensor] = {}
    quantizations: dict[Any, Quantization] = {}
    names: dict[Any, str] = {}
    makers: dict[Any, str] = {}
    operators: list[Operator] = []
    placed: set[str] = set()
    single_operators: list[SingleOperator] = []
    for index, parameter in enumerate(function.params):
        names[parameter] = makers[parameter] = ends.input(symbol, index)
        values[parameter] = graph.input(names[parameter], on_device(shape_of(parameter)))
    for variable, value in bindings(function):
        if isinstance(value, relax.Function):
            composites[variable] = Composite(value)
        elif isinstance(value, relax.Call):
            composite = composites[value.op]
            arguments = dict(zip(composite.parameters, value.args, strict=True))
            for parameter, quantization in composite.read():
                quantizations.setdefault(arguments[parameter], quantization)
            inside = {parameter: values[outer] for parameter, outer in arguments.items()}
            values[variable] = convert(composite, graph, inside, lowering)
            quantizations[variable], names[variable] = composite.output, composite.name
            makers[variable] = composite.quantized_by
            reads = tuple(makers[outer] for outer in value.args)
            single_operators.append(_single_operator(composite, reads, lowering))
            # Of a Split every result is a composite.
            nodes = tuple(name for name in composite.nodes if name not in placed)
            placed.update(nodes)
            operators.append(Operator(composite.name, nodes, composite.kind, on_npu=True))
        elif not isinstance(value, relax.Tuple):
            values[variable], quantizations[variable] = values[value], quantizations[value]
            names[variable], makers[variable] = names[value], makers[value]
    outputs = _results(function)

    def boundary(variable: Any, name: str, given: tuple[int, ...] | None = None) -> Boundary:
        shape = shape_of(variable)
        steps = quantizations[variable]
        return Boundary(name, given or shape, on_device(shape), steps, makers[variable])

    return Region(
        symbol,
        graph.finish([values[variable] for variable in outputs]),
        tuple(
            boundary(variable, names[variable], ends.shape(symbol, index))
            for index, variable in enumerate(function.params)
        ),
        tuple(
            boundary(variable, ends.output(symbol, index) or names[variable])
            for index, variable in enumerate(outputs)
        ),
        tuple(operators),
        tuple(single_operators),
        graph.channels,
        graph.tables,
        ends.reads(symbol),
    )


def _single_operator(
    composite: Composite, reads: tuple[str, ...], lowering: LoweringOptions
) -> SingleOperator:
    graph = TosaGraph()
    inside = {
        parameter: graph.input(f"input {index}", on_device(shape_of(parameter)))
        for index, parameter in enumerate(composite.parameters)
    }
    result = convert(composite, graph, inside, lowering)
    tosa = graph.finish([result])
    return SingleOperator(
        composite.name, tosa, reads, composite.quantized_by, allowed_lsb(composite, lowering)
    )


def _left(main: relax.Function) -> Iterator[tuple[Any, tuple[Operator, bool]]]:
    """Yield the operators that `main` computes itself, with the variables they are bound to.

    Each comes with whether it only converts an input or output of the model.
    """
    results, inputs = _results(main), list(main.params)
    for variable, value in bindings(main):
        name = operator(value)
        if not name or name == REGION_CALL:
            continue
        kind = name.removeprefix("relax.")
        node = name_of(value)
        is_given = _is_moved_input(value, main.params) or (
            kind == "astype" and value.args[0] in inputs
        )
        if is_given:
            inputs.append(variable)
        is_end = (
            is_given
            or (kind == "quantize" and value.args[0] in inputs)
            or (kind == "dequantize" and variable in results)
        )
        nodes = (node,) if node else ()
        yield variable, (Operator(node or kind, nodes, kind, on_npu=False), is_end)
