"""Where the tensors of a graph lie in the values of a plan, and the kernels that move them.

A tensor is held by one value or by several: laid out as in ONNX, or with the channels last; in its
own type, or in that of the kernels. A tensor with steps is rounded to int8 as soon as it is held.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import prod

import numpy as np
import onnx
from tvm.tirx import PrimFunc

from mbv3c.errors import ModelError
from mbv3c.graphs.load import model_inputs
from mbv3c.lowering.plan import Array, Elementwise, Kernel, Kernels, Plan, Step, Transpose, Value
from mbv3c.lowering.quantization import Quantization
from mbv3c.lowering.schedules.emit import LINEAR
from mbv3c.lowering.select.graph import Graph

INT8 = "int8"

_Form = tuple[bool, str]  # of a tensor: whether the channels are last, and the type


@dataclass(frozen=True)
class Rounding:
    """The kernels between floats and integers, by how many there are and in which steps.

    Attributes:
        quantize: the writer of kernels from fp32 to int8.
        dequantize: the writer of kernels from int8 to fp32.
    """

    quantize: Callable[[int, Quantization], PrimFunc]
    dequantize: Callable[[int, Quantization], PrimFunc]


@dataclass(frozen=True)
class Deferred:
    """A tensor that is made when something reads it.

    Attributes:
        make: the function that plans its kernels and holds it.
        channels_last: whether its channels will be last.
    """

    make: Callable[[], None]
    channels_last: bool


class Memory:
    """The plan so far, and where tensors lie in it.

    Attributes:
        plan: the kernels and values.
        covered: first outputs of the nodes whose work is planned.
        deferred: tensors that are not made before something reads them, by name.
    """

    def __init__(self, graph: Graph, kernels: Kernels, rounding: Rounding | None = None) -> None:
        self._graph, self._kernels, self._rounding = graph, kernels, rounding
        names = [value.name for value in model_inputs(graph.model)]
        given = {name: self._end(name, name in graph.integer_inputs) for name in names}
        self.plan = Plan(tuple(names), tuple(value.shape for value in given.values()))
        self.plan.values.update(given)
        self.covered: set[str] = set()
        self.deferred: dict[str, Deferred] = {}
        self._held: dict[str, dict[_Form, str]] = {}
        for name in names:
            self.hold(name, name, channels_last=name in graph.integer_inputs)

    def _end(self, name: str, as_integers: bool) -> Value:
        """Return how a tensor enters or leaves the plan: as ONNX declares it, or as int8."""
        shape = self._graph.shape(name)
        if as_integers:
            return Value((shape[0], *shape[2:], shape[1]), INT8)
        return Value(shape, self._graph.dtype(name))

    # ---- steps ----

    def append(
        self,
        kind: str,
        covered: Sequence[onnx.NodeProto],
        kernel: Kernel,
        arguments: tuple[str | Array, ...],
        writes: tuple[str, ...],
        madds: int = 0,
    ) -> None:
        """Append a kernel that does the work of the `covered` nodes."""
        nodes = tuple(node.name or f"→ {node.output[0]}" for node in covered)
        converted = tuple(
            argument
            if isinstance(argument, str)
            else _converted(argument, str(parameter.dtype), nodes)
            for argument, parameter in zip(arguments, kernel.function.params, strict=True)
        )
        knobs = {} if kernel.knobs is None else asdict(kernel.knobs)
        self.plan.steps.append(
            Step(
                kind,
                nodes,
                kernel.function,
                converted,
                writes,
                madds,
                knobs,
                kernel.shape,
                kernel.origin,
            )
        )
        self.covered.update(node.output[0] for node in covered)

    def unused_name(self, name: str) -> str:
        """Return a name with which no tensor of the graph and no value begins."""
        while any(taken.startswith(name) for taken in (*self._graph.types, *self.plan.values)):
            name += "'"
        return name

    def add_value(self, name: str, shape: tuple[int, ...], dtype: str) -> str:
        """Add a value beside those of tensors; return its name, which begins with `name`."""
        new = self.unused_name(name)
        self.plan.values[new] = Value(shape, dtype)
        return new

    def add_result(self, name: str, dtype: str, *, channels_last: bool = True) -> bool:
        """Add the value that a kernel writes for a tensor; say whether its channels are last."""
        shape = self._graph.shape(name)
        last = channels_last and not self._graph.is_flat(name)
        memory = (shape[0], *shape[2:], shape[1]) if last else shape
        self.plan.values[name] = Value(memory, dtype)
        return last

    # ---- where tensors lie ----

    def hold(self, name: str, value: str, *, channels_last: bool) -> None:
        """Remember which value holds a tensor that none holds so far."""
        steps, dtype = self._graph.steps.get(name), self.plan.values[value].dtype
        if steps is not None and dtype != INT8 and self._rounding is not None:
            value = self._quantize(name, value, self._rounding.quantize, steps)
            dtype = INT8
        self.deferred.pop(name, None)
        self._held[name] = {(channels_last, dtype): value}
        self.plan.hold(name, value, channels_last=channels_last)

    def is_ready(self, name: str) -> bool:
        """Say whether a value holds a tensor."""
        return name in self._held

    def has_channels_last(self, name: str) -> bool:
        """Say whether a tensor can be read with the channels last as it lies."""
        if name in self.deferred:
            return self.deferred[name].channels_last
        return self._graph.is_flat(name) or any(last for last, _ in self._held[name])

    def made_type(self, name: str) -> str:
        """Return the type in which a tensor was made."""
        if name in self.deferred:
            self.deferred[name].make()
        return next(dtype for _, dtype in self._held[name])

    def is_shared(self, value: str, name: str) -> bool:
        """Say whether a value holds another tensor than `name` that is still wanted."""
        return any(
            value in held.values() and self._is_wanted(other)
            for other, held in self._held.items()
            if other != name
        )

    def value(self, name: str, dtype: str, *, channels_last: bool) -> str:
        """Return the value that holds a tensor in the wanted form; make it where needed."""
        made_type = self.made_type(name)
        held = self._held[name]
        if self._graph.is_flat(name):
            channels_last = next(last for last, _ in held)
        form = (channels_last, dtype)
        if form not in held:
            # What has the layout already is only converted.
            held[form] = (
                self._convert(name, held[channels_last, made_type], dtype)
                if (channels_last, made_type) in held
                else self._transpose(name, held[not channels_last, made_type], form)
            )
            self.plan.hold(name, held[form], channels_last=channels_last)
        return held[form]

    def write_output(self, name: str) -> None:
        """Let a tensor leave the plan, as ONNX declares it or as int8, in memory of its own."""
        as_integers = name in self._graph.integer_outputs
        end = self._end(name, as_integers)
        if name in self._graph.stored:
            value = self.copy(name, self._graph.stored[name])
        else:
            value = self.value(name, end.dtype, channels_last=as_integers)
        if value in (*self.plan.inputs, *self.plan.outputs):
            value = self._pass_on(
                "copy", value, self.add_value(f"{name}.copy", end.shape, end.dtype)
            )
            self.plan.hold(name, value, channels_last=as_integers)
        self.plan.outputs += (value,)
        self.plan.output_shapes += (end.shape,)

    def copy(self, name: str, source: str | Array) -> str:
        """Copy a tensor that lies in another's memory, or is constant, to its own."""
        dtype = self._graph.dtype(name) if isinstance(source, str) else source.dtype.name
        result = self.add_value(f"{name}.copy", self._graph.shape(name), dtype)
        return self._pass_on("copy", source, result)

    def _is_wanted(self, name: str) -> bool:
        unplanned = (user.output[0] not in self.covered for user in self._graph.users(name))
        return name in self._graph.outputs or any(unplanned)

    # ---- kernels that move tensors ----

    def _transpose(self, name: str, source: str, form: _Form) -> str:
        channels_last, dtype = form
        if self.plan.values[source].dtype == INT8 != dtype:
            source = self._convert(name, source, dtype)
        batch, channels, *sides = self._graph.shape(name)
        rows, columns = (channels, prod(sides)) if channels_last else (prod(sides), channels)
        memory = (batch, *sides, channels) if channels_last else (batch, channels, *sides)
        layout = "nhwc" if channels_last else "nchw"
        result = self.add_value(f"{name}.{layout}", memory, dtype)
        shape = Transpose(batch, rows, columns, self.plan.values[source].dtype, dtype)
        kernel = self._kernels.transpose(shape)
        self.append("transpose", (), kernel, (source, result), (result,))
        return result

    def _convert(self, name: str, source: str, dtype: str) -> str:
        """Convert a tensor, laid out as it is."""
        value, steps = self.plan.values[source], self._graph.steps.get(name)
        result = self.add_value(f"{name}.{dtype}", value.shape, dtype)
        if value.dtype != INT8 or steps is None or self._rounding is None:
            return self._pass_on("cast", source, result)
        kernel = Kernel(self._rounding.dequantize(prod(value.shape), steps))
        self.append("dequantize", (), kernel, (source, result), (result,))
        return result

    def _pass_on(self, kind: str, source: str | Array, result: str) -> str:
        """Copy values to `result`, in its type, and return that."""
        dtype = self.plan.values[source].dtype if isinstance(source, str) else source.dtype.name
        value = self.plan.values[result]
        shape = Elementwise(1, 1, prod(value.shape), "", False, LINEAR, dtype, value.dtype)
        self.append(kind, (), self._kernels.elementwise(shape), (source, result), (result,))
        return result

    def _quantize(
        self,
        name: str,
        source: str,
        write: Callable[[int, Quantization], PrimFunc],
        steps: Quantization,
    ) -> str:
        shape = self.plan.values[source].shape
        result = self.add_value(f"{name}.int8", shape, INT8)
        kernel = Kernel(write(prod(shape), steps))
        self.append("quantize", (), kernel, (source, result), (result,))
        return result


def _converted(weights: Array, dtype: str, nodes: tuple[str, ...]) -> Array:
    """Return the weights of some nodes in the type in which their kernel reads them."""
    with np.errstate(over="ignore"):
        converted = weights.astype(dtype, copy=False)
    if not np.isfinite(converted[np.isfinite(weights)]).all():
        raise ModelError(
            f"{nodes[0]!r} has weights beyond what {dtype} holds; compile with --precision fp32"
        )
    return converted
