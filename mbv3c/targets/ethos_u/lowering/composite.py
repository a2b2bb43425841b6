"""Read a composite function: float operations between integers that matched a pattern."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from mbv3c.errors import ModelError
from mbv3c.targets.ethos_u.lowering.named_import import name_of

_PAIRS = ("relax.quantize", "relax.dequantize")


@dataclass(frozen=True)
class Quantization:
    """What the integers of a tensor stand for: (q - zero_point) * scale."""

    scale: float
    zero_point: int

    def integers(self, x: NDArray[np.float32]) -> NDArray[np.int8]:
        """Quantize as QuantizeLinear does, in fp32, halves to even."""
        scaled = np.rint(x.astype(np.float32) / np.float32(self.scale)) + self.zero_point
        clipped: NDArray[np.int8] = np.clip(scaled, -128, 127).astype(np.int8)
        return clipped

    def values(self, q: NDArray[Any]) -> NDArray[np.float32]:
        """Dequantize as DequantizeLinear does, in fp32."""
        x: NDArray[np.float32] = (q.astype(np.int32) - self.zero_point).astype(np.float32)
        return x * np.float32(self.scale)


@dataclass(frozen=True)
class QuantizedConstant:
    """Integers of a constant, with a scale for all or a scale for each output channel."""

    integers: NDArray[Any]
    scales: NDArray[np.float64]


class Composite:
    """A composite function.

    Attributes:
        kind: name of the pattern that the function matched.
        nodes: names of the ONNX nodes in the function, in order, without QDQ pairs.
        parameters: inputs of the function.
        quantized_by: name of the QuantizeLinear node that makes the result.
        output: step and zero point of the result.
        shape: shape of the result, N, C, H, W or N, C.
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

    def find(self, name: str) -> relax.Call:
        """Return the only call of an operator.

        Raises:
            KeyError: there is no such call.
        """
        for call in self._bound.values():
            if operator(call) == name:
                return call
        raise KeyError(name)

    def input_of(self, call: relax.Call, index: int = 0) -> tuple[relax.Var, Quantization]:
        """Return the integers behind an argument of a call, and what they stand for."""
        dequantize = self._value(call.args[index])
        return dequantize.args[0], _quantization(dequantize)

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
            ModelError: a zero point is not 0; the NPU has no zero points per channel.
        """
        value = self._value(call.args[index])
        while operator(value) in ("relax.reshape", "relax.permute_dims"):
            value = self._value(value.args[0])
        integers, scale, zero = (argument.value.numpy() for argument in value.args)
        if zero.any():
            raise ModelError(f"{self.name} has asymmetric weights; quantize them symmetrically")
        return QuantizedConstant(integers, np.atleast_1d(scale).astype(np.float64))

    def bias(self, channels: int, scales: NDArray[np.float64]) -> NDArray[np.int32]:
        """Return the bias in steps of `scales`; zeros if there is no bias."""
        try:
            bias = self.weights_of(self.find("relax.add"), 1)
        except KeyError:
            return np.zeros(channels, np.int32)
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
        both = self.output.integers(np.array([low, high], np.float32))
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
            return _quantization(call).values(values[call.args[0]])
        if name == "relax.quantize":
            return _quantization(call).integers(values[call.args[0]])
        arguments = [values[a] if a in values else np.float32(_number(a)) for a in call.args]
        result: NDArray[Any] = _NUMPY[name](*arguments)
        return result

    def _value(self, expression: relax.Expr) -> relax.Expr:
        return self._bound.get(expression, expression)


_NUMPY: dict[str, Any] = {
    "relax.add": np.add,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.clip": np.clip,
    "relax.nn.relu": lambda x: np.maximum(x, np.float32(0)),
    "relax.sigmoid": lambda x: np.float32(1) / (np.float32(1) + np.exp(-x)),
}


def operator(expression: relax.Expr) -> str:
    """Return the name of the operator that a call calls; empty for anything else."""
    return str(expression.op.name) if isinstance(expression, relax.Call) else ""


def shape_of(expression: relax.Expr) -> tuple[int, ...]:
    """Return a fixed shape."""
    return tuple(int(size) for size in expression.ty.shape.values)


def bindings(function: relax.Function) -> Iterator[tuple[relax.Var, relax.Expr]]:
    """Yield what a function binds, in order."""
    for block in function.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


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
