"""Reduce a graph to what its architecture is made of: convolutions, pools, sums and products.

An activation is no step of its own: it is the name of what lies between two steps. The elementwise
nodes there are evaluated on a few numbers, so that every spelling of a function (HardSwish;
x · HardSigmoid(x); Add, Clip, Mul, Div in any order) gets one name.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbv3c.graphs.count import tensor_shapes

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ConvGeometry:
    """The geometry of a convolution; a dense layer counts as a 1x1 convolution."""

    channels_in: int
    channels_out: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1


@dataclass(frozen=True)
class Source:
    """Where an operand comes from: a step, and the activation on the way from there."""

    step: int
    activation: str


@dataclass(frozen=True)
class SkeletonStep:
    """A node that is more than elementwise.

    Attributes:
        kind: `input`, `conv`, `pool` (mean over the whole map), `add`, `mul` (of two computed
            tensors), or else the ONNX operator.
        name: name of the node.
        sources: origins of the computed operands.
        conv: geometry of a convolution with square kernels, or of a dense layer; else None.
    """

    kind: str
    name: str
    sources: tuple[Source, ...] = ()
    conv: ConvGeometry | None = None


_PROBES: Array = np.linspace(-8, 8, 129)

# The second hard-sigmoid stands after a convolution that holds its scale and shift.
_FUNCTIONS: tuple[tuple[str, Array], ...] = (
    ("relu", np.maximum(_PROBES, 0)),
    ("relu6", np.clip(_PROBES, 0, 6)),
    ("hardswish", _PROBES * np.clip(_PROBES + 3, 0, 6) / 6),
    ("hardsigmoid", np.clip(_PROBES + 3, 0, 6) / 6),
    ("hardsigmoid", np.clip(_PROBES, 0, 1)),
    ("sigmoid", 1 / (1 + np.exp(-_PROBES))),
    ("swish", _PROBES / (1 + np.exp(-_PROBES))),
)
_TOLERANCE = 1e-3  # constants may be fp16

_TRANSPARENT = {
    *("Identity", "Dropout", "Cast", "Pad"),
    *("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"),
}
_MEANS = {"GlobalAveragePool", "ReduceMean", "AveragePool"}
_AFFINE = {"Add", "Sub", "Mul", "Div", "BatchNormalization"}
_NUMBERS = {"value", "value_float", "value_floats", "value_int", "value_ints"}
_JOINS = {"Add": "add", "Mul": "mul"}


def _clip(node: onnx.NodeProto, x: Array, low: Any = None, high: Any = None) -> Array:
    low = _attribute(node, "min", -np.inf) if low is None else low
    high = _attribute(node, "max", np.inf) if high is None else high
    return np.clip(x, low, high)


def _hardsigmoid(node: onnx.NodeProto, x: Array) -> Array:
    y: Array = _attribute(node, "alpha", 0.2) * x + _attribute(node, "beta", 0.5)
    return np.clip(y, 0, 1)


_EVALUATE: dict[str, Callable[..., Array]] = {
    "Add": lambda node, x, y: x + y,
    "Sub": lambda node, x, y: x - y,
    "Mul": lambda node, x, y: x * y,
    "Div": lambda node, x, y: x / y,
    "Min": lambda node, *xs: functools.reduce(np.minimum, xs),
    "Max": lambda node, *xs: functools.reduce(np.maximum, xs),
    "Clip": _clip,
    "Relu": lambda node, x: np.maximum(x, 0),
    "Sigmoid": lambda node, x: 1 / (1 + np.exp(-x)),
    "HardSigmoid": _hardsigmoid,
    "HardSwish": lambda node, x: x * np.clip(x / 6 + 0.5, 0, 1),
}


def skeleton(model: onnx.ModelProto) -> tuple[SkeletonStep, ...]:
    """Reduce a graph to its steps, in graph order; the first ones are the inputs."""
    reader = _SkeletonReader(model)
    for node in model.graph.node:
        reader.read(node)
    return tuple(reader.steps)


@dataclass(frozen=True)
class _Trace:
    """A tensor as a function of a step's output: its values where that output is `_PROBES`."""

    step: int
    values: Array


class _SkeletonReader:
    """Reads nodes in order and knows where each tensor comes from."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.steps: list[SkeletonStep] = []
        self._shapes = tensor_shapes(model)
        self._constants = constant_tensors(model.graph)
        self._traces: dict[str, _Trace] = {}
        for value in model.graph.input:
            if value.name not in self._constants:
                self._add(SkeletonStep("input", value.name), [value.name])

    def read(self, node: onnx.NodeProto) -> None:
        traces = [self._traces[name] for name in node.input if name in self._traces]
        if not traces or node.op_type == "Shape":
            return  # constants and shape arithmetic
        trace = self._transformed(node, traces)
        if trace is not None:
            self._traces[node.output[0]] = trace
            return
        sources = tuple(Source(source.step, _activation(source.values)) for source in traces)
        conv = self._convolution(node)
        kind = "conv" if conv else self._kind(node, len(traces))
        self._add(SkeletonStep(kind, node.name or node.output[0], sources, conv), node.output)

    def _add(self, step: SkeletonStep, outputs: Any) -> None:
        self._traces.update((name, _Trace(len(self.steps), _PROBES)) for name in outputs)
        self.steps.append(step)

    def _transformed(self, node: onnx.NodeProto, traces: list[_Trace]) -> _Trace | None:
        """Return what an elementwise node makes of the step before it; None if it is a step."""
        trace = traces[0]
        if node.op_type in _TRANSPARENT:
            return trace
        if len({source.step for source in traces}) > 1:
            return None
        operands = [self._operand(name) for name in node.input]
        missing = any(
            name and operand is None for name, operand in zip(node.input, operands, strict=True)
        )
        if node.op_type in _EVALUATE and not missing:
            with np.errstate(all="ignore"):
                return _Trace(trace.step, _EVALUATE[node.op_type](node, *operands))
        # Another scale and shift for each channel leave the function what it is.
        if node.op_type in _AFFINE and len(traces) == 1 and _is_affine(trace.values):
            return _Trace(trace.step, _PROBES)
        return None

    def _operand(self, name: str) -> Array | float | None:
        if name in self._traces:
            return self._traces[name].values
        constant = self._constants.get(name)
        if constant is None or prod(constant.dims) != 1:
            return None
        return float(numpy_helper.to_array(constant).item())

    def _convolution(self, node: onnx.NodeProto) -> ConvGeometry | None:
        """Return the geometry of a convolution or dense layer with constant weights."""
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] in self._traces:
            return None
        weight = self._shapes.get(node.input[1], ())
        if node.op_type != "Conv":
            if len(weight) != 2:
                return None
            transposed = node.op_type == "Gemm" and _attribute(node, "transB", 0)
            return ConvGeometry(*(reversed(weight) if transposed else weight))
        groups = _attribute(node, "group", 1)
        strides = set(_attribute(node, "strides", [1, 1]))
        dilations = set(_attribute(node, "dilations", [1, 1]))
        if len(weight) != 4 or {len(set(weight[2:])), len(strides), len(dilations)} != {1}:
            return None
        return ConvGeometry(
            weight[1] * groups, weight[0], weight[2], strides.pop(), dilations.pop(), groups
        )

    def _kind(self, node: onnx.NodeProto, operands: int) -> str:
        if operands == 2 and node.op_type in _JOINS:
            return _JOINS[node.op_type]
        before = self._shapes.get(node.input[0], ())
        after = prod(self._shapes.get(node.output[0], (0,)))
        # Channels stand second, or last in what came from TensorFlow.
        over_map = len(before) == 4 and after in (before[0] * before[1], before[0] * before[3])
        return "pool" if over_map and node.op_type in _MEANS else node.op_type


def _activation(values: Array) -> str:
    """Name a function by its values at `_PROBES`."""
    if _is_affine(values):
        return "none"
    for name, known in _FUNCTIONS:
        if np.allclose(values, known, rtol=_TOLERANCE, atol=_TOLERANCE):
            return name
    return "unknown"


def _is_affine(values: Array) -> bool:
    slopes = np.diff(values)
    return bool(np.allclose(slopes, slopes[0], rtol=1e-6, atol=1e-12) and slopes[0] != 0)


def constant_tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the numbers behind initialisers and Constant nodes."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name in _NUMBERS:
                value = helper.get_attribute_value(attribute)
                if not isinstance(value, onnx.TensorProto):
                    value = numpy_helper.from_array(np.asarray(value))
                constants[node.output[0]] = value
    return constants


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    values = (helper.get_attribute_value(a) for a in node.attribute if a.name == name)
    return next(values, default)
