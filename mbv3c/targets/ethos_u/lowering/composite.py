"""Composite functions, read as operations on integers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import erf
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from mbv3c.errors import ModelError
from mbv3c.lowering.quantization import Quantization

_PAIRS = ("relax.quantize", "relax.dequantize")


def name_of(expression: relax.Expr) -> str | None:
    """Return the name of the node whose result an expression is; None if there is none."""
    span = expression.span
    return str(span.source_name.name) if span is not None else None


@dataclass(frozen=True)
class QuantizedConstant:
    """Integers of a constant, with a scale for all or a scale for each output channel.

    Attributes:
        integers: the integers.
        scales: the value of a step: one, or one for each output channel.
        zero: the integer that stands for 0.
    """

    integers: NDArray[Any]
    scales: NDArray[np.float64]
    zero: int = 0


class Composite:
    """A composite function.

    Attributes:
        kind: name of the pattern that the function matched.
        nodes: names of the ONNX nodes in the function, in order, without QDQ pairs.
        parameters: inputs of the function.
        quantized_by: name of the QuantizeLinear node that makes the result.
        output: step and zero point of the result.
        shape: shape of the result, N, C, H, W or N, C, L or N, C.
        name: name of the first node.
    """

    def __init__(self, function: relax.Function) -> None:
        self.kind = str(function.attrs["Composite"]).partition(".")[2]
        self.parameters: Sequence[relax.Var] = list(function.params)
        self._bound = {b.var: b.value for block in function.body.blocks for b in block.bindings}
        last = self._bound[function.body.body]
        self.output = _quantization(last)
        self.shape = shape_of(last)
        named = [name_of(call) for call in self._bound.values() if operator(call) not in _PAIRS]
        self.nodes = tuple(name for name in named if name)
        self.quantized_by = name_of(last) or ""
        self.name = self.nodes[0] if self.nodes else name_of(last) or self.kind

    def find(self, *names: str) -> relax.Call:
        """Return the only call of an operator, which may have any of these names.

        Raises:
            KeyError: there is no such call.
        """
        for call in self._bound.values():
            if operator(call) in names:
                return call
        raise KeyError(names[0])

    def input_of(self, call: relax.Call, index: int = 0) -> tuple[relax.Var, Quantization]:
        """Return the integers behind an argument of a call, and what they stand for."""
        return _integers(self._value(call.args[index]))

    def inputs_of(self, call: relax.Call) -> list[tuple[relax.Var, Quantization]]:
        """Return the same for every part of a call of a tuple."""
        return [_integers(self._value(part)) for part in self._value(call.args[0]).fields]

    def read(self) -> Iterator[tuple[relax.Var, Quantization]]:
        """Yield every input, and what its integers stand for."""
        for call in self._bound.values():
            if operator(call) == "relax.dequantize" and call.args[0] in self.parameters:
                yield call.args[0], _quantization(call)

    def only_input(self) -> tuple[relax.Var, Quantization]:
        """Return the only input, and what its integers stand for."""
        return next(self.read())

    def weights_of(self, call: relax.Call, index: int) -> QuantizedConstant:
        """Return the constant behind an argument of a call.

        Raises:
            ModelError: zero points differ; the NPU has one for all channels.
        """
        value = self._constant(call.args[index])
        integers, scale, zero = (argument.value.numpy() for argument in value.args)
        first = int(zero.reshape(-1)[0])
        if (zero != first).any():
            raise ModelError(
                f"the weights of {self.name} have a zero point for each channel, and an Ethos-U "
                "has one for all; quantize them symmetrically or per tensor, or use another "
                "target, such as arm_cpu with --precision int8"
            )
        scales = np.atleast_1d(scale).astype(np.float64)
        return QuantizedConstant(integers, scales, first)

    def symmetric_weights_of(self, call: relax.Call, index: int) -> QuantizedConstant:
        """Return the constant behind an argument of a call, to which zeros can be added.

        Raises:
            ModelError: its zero point is not 0.
        """
        weights = self.weights_of(call, index)
        if weights.zero:
            raise ModelError(
                f"the weights of {self.name} have a zero point, which an Ethos-U has in Conv and "
                "Gemm without groups only; quantize them symmetrically, or use another target, "
                "such as arm_cpu with --precision int8"
            )
        return weights

    def stored(self, call: relax.Call, index: int) -> NDArray[np.float32] | None:
        """Return the values of an argument of a call, if it is a quantized constant."""
        dequantize = self._value(call.args[index])
        source = dequantize.args[0]
        if not isinstance(source, tvm.ir.GenericConst):
            return None
        return _quantization(dequantize).dequantize(source.value.numpy())

    def slopes(self, prelu: relax.Call) -> NDArray[np.float64]:
        """Return the slope of each channel of a PRelu."""
        value = self._constant(prelu.args[1])
        if isinstance(value, tvm.ir.GenericConst):
            slopes = value.value.numpy()
        else:
            slopes = _quantization(value).dequantize(value.args[0].value.numpy())
        by_channel = np.broadcast_to(slopes.reshape(-1).astype(np.float64), self.shape[1:2])
        return np.ascontiguousarray(by_channel)

    def _constant(self, expression: relax.Expr) -> relax.Expr:
        """Return what an argument is, before it was reshaped and transposed."""
        value = self._value(expression)
        while operator(value) in ("relax.reshape", "relax.permute_dims"):
            value = self._value(value.args[0])
        return value

    def bias(self, channels: int, scales: NDArray[np.float64]) -> NDArray[np.int32]:
        """Return the bias in steps of `scales`; zeros if there is no bias."""
        try:
            added = self.find("relax.add")
        except KeyError:
            return np.zeros(channels, np.int32)
        stored = self._constant(added.args[1])
        if isinstance(stored, tvm.ir.GenericConst):  # in fp32
            steps = np.rint(stored.value.numpy().reshape(-1).astype(np.float64) / scales)
        else:
            bias = self.symmetric_weights_of(added, 1)
            steps = np.rint(bias.integers.astype(np.float64) * (bias.scales / scales))
        limits = np.iinfo(np.int32)
        clipped: NDArray[np.int32] = np.clip(steps, limits.min, limits.max).astype(np.int32)
        return clipped

    def bounds(self) -> tuple[int, int]:
        """Return the least and the largest integer that the clamp before the result allows."""
        low, high = -np.inf, np.inf
        for call in self._bound.values():
            if operator(call) == "relax.nn.relu":
                low = max(low, 0.0)
            elif operator(call) == "relax.clip":
                low, high = max(low, _number(call.args[1])), min(high, _number(call.args[2]))
        both = self.output.quantize(np.array([low, high], np.float32))
        return int(both[0]), int(both[1])

    def table(self) -> NDArray[np.int8]:
        """Return the result for each of the 256 int8, from -128 on."""
        parameter, _ = self.only_input()
        integers = np.arange(-128, 128).astype(np.int8)
        values: dict[Any, NDArray[Any]] = {parameter: integers}
        for var, call in self._bound.items():
            values[var] = self._evaluate(call, values)
        (*_, last) = values.values()
        result: NDArray[np.int8] = last
        return result

    def _evaluate(self, call: relax.Call, values: dict[Any, NDArray[Any]]) -> NDArray[Any]:
        name = operator(call)
        if name == "relax.dequantize":
            source = call.args[0]
            stored = isinstance(source, tvm.ir.GenericConst)
            integers = source.value.numpy() if stored else values[source]
            return _quantization(call).dequantize(integers.reshape(-1) if stored else integers)
        if name == "relax.quantize":
            return _quantization(call).quantize(values[call.args[0]])
        arguments = [values[a] if a in values else np.float32(_number(a)) for a in call.args]
        if name == "relax.nn.leakyrelu":
            arguments.append(np.float32(call.attrs.alpha))
        # An exponential of what is large, or a power of what is negative.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            result: NDArray[Any] = _NUMPY[name](*arguments)
        return result

    def _value(self, expression: relax.Expr) -> relax.Expr:
        return self._bound.get(expression, expression)


def _erf(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.array([erf(value) for value in x], np.float32)


_NUMPY: dict[str, Any] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.clip": np.clip,
    "relax.nn.relu": lambda x: np.maximum(x, np.float32(0)),
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.power": np.power,
    "relax.abs": np.abs,
    "relax.negative": np.negative,
    "relax.exp": np.exp,
    "relax.log": np.log,
    "relax.sqrt": lambda x: np.sqrt(np.maximum(x, np.float32(0))),
    "relax.tanh": np.tanh,
    "relax.erf": _erf,
    "relax.nn.gelu": lambda x: x * (1 + _erf(x / np.sqrt(np.float32(2)))) / 2,
    "relax.nn.leakyrelu": lambda x, alpha: np.where(x < 0, x * alpha, x),
    "relax.sigmoid": lambda x: np.float32(1) / (np.float32(1) + np.exp(-x)),
}


def operator(expression: relax.Expr) -> str:
    """Return the name of the operator that a call calls; empty for anything else."""
    return str(expression.op.name) if isinstance(expression, relax.Call) else ""


def is_stored(dequantize: relax.Call) -> bool:
    """Say whether what is dequantized is a constant."""
    return isinstance(dequantize.args[0], tvm.ir.GenericConst)


def shape_of(expression: relax.Expr) -> tuple[int, ...]:
    """Return a fixed shape."""
    return tuple(int(size) for size in expression.ty.shape.values)


def axes_of_turn(transpose: relax.Call) -> list[int]:
    """Return the axes of a Transpose."""
    rank = len(transpose.args[0].ty.shape.values)
    return [int(axis) for axis in transpose.attrs.axes or reversed(range(rank))]


def bindings(function: relax.Function) -> Iterator[tuple[relax.Var, relax.Expr]]:
    """Yield what a function binds, in order."""
    for block in function.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


def _integers(dequantize: relax.Call) -> tuple[relax.Var, Quantization]:
    return dequantize.args[0], _quantization(dequantize)


def _quantization(call: relax.Call) -> Quantization:
    scale, zero = (argument.value.numpy() for argument in call.args[1:3])
    if scale.size != 1:
        raise ModelError("activations with a scale per channel are not for the NPU")
    return Quantization(float(scale.reshape(())), int(zero.reshape(())))


def _number(expression: Any) -> float:
    if isinstance(expression, tvm.ir.GenericConst):
        return float(expression.value.numpy().reshape(()))
    value = getattr(expression, "value", expression)
    return float(getattr(value, "value", value))
