"""Layers of integers in a quantized graph: their weights, and how their sums become int8."""

from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.lowering.plan import Array
from mbv3c.lowering.quantization import Quantization
from mbv3c.lowering.schedules.emit import Activation
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.nodes import activation_of, outputs_last
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer.arithmetic import computes_gates, is_neon, table_of
from mbv3c.targets.cpu.schedules.integer.gates import Gate, gate_for
from mbv3c.targets.cpu.schedules.integer.requantization import (
    Gated,
    Requantization,
    in_fixed_point,
    within,
)


@dataclass(frozen=True)
class LayerEnding:
    """How the sums of a kernel become int8.

    Attributes:
        covered: the node that makes the sums, and what follows it.
        scale: value of one step of the rounded sums.
        output: zero point and bounds of the rounded sums.
        table: the activation that follows in 8 bits, as a table; empty without one.
        gate: what computes all entries of the table; None without one, or where nothing does.
    """

    covered: tuple[onnx.NodeProto, ...]
    scale: float
    output: Requantization
    table: tuple[Array, ...] = ()
    gate: Gate | None = None

    def on(self, processor: Processor) -> "LayerEnding":
        """Return how a processor does this: it looks activations up, or computes them."""
        if self.gate is None or not computes_gates(processor):
            return self
        given = self.output
        output = Gated(given.zero, given.low, given.high, small=given.small, gate=self.gate)
        return replace(self, output=output, table=(), gate=None)


@dataclass(frozen=True)
class IntegerLayer:
    """A convolution or product of integers.

    Attributes:
        steps: the rounding of its input.
        weights: as in ONNX, but with the outputs first.
        scales: values of one step of the weights: a single value, or one per output.
        ending: the rounding of its sums.
    """

    steps: Quantization
    weights: NDArray[np.int8] | NDArray[np.int16]
    scales: NDArray[np.float32]
    ending: LayerEnding


def ending_of(node: onnx.NodeProto, graph: Graph) -> LayerEnding | None:
    """Return how the sums of a node become int8."""
    covered, name = [node], node.output[0]
    clamp = Activation()
    if name not in graph.steps:
        user = graph.only_user(name)
        following = activation_of(user, graph) if user is not None else None
        if user is None or following is None or not _is_clamp(following):
            return None
        covered, name, clamp = [node, user], user.output[0], following
        if name not in graph.steps:
            return None
    steps = graph.steps[name]
    low, high = (
        extreme if bound is None else int(steps.quantize(np.float32(bound)))
        for bound, extreme in ((clamp.low, -128), (clamp.high, 127))
    )
    user = graph.only_user(name)
    activation = activation_of(user, graph) if user is not None else None
    if user is None or activation is None or user.output[0] not in graph.steps:
        return LayerEnding(
            tuple(covered), steps.scale, Requantization(steps.zero_point, low, high)
        )
    table = activation_table(activation, steps, graph.steps[user.output[0]])
    output = Requantization(steps.zero_point, low, high, lookup=True)
    gate = _gate_of(activation, output, steps, graph.steps[user.output[0]], table)
    return LayerEnding((*covered, user), steps.scale, output, (table,), gate)


def integer_layer(node: onnx.NodeProto, graph: Graph) -> IntegerLayer | None:
    """Return a convolution or product of integers by stored integers, which becomes integers."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[0] not in graph.steps:
        return None
    weights, last = graph.integers.get(node.input[1]), outputs_last(node)
    if weights is None or weights.axis not in (1 if last else 0, None):
        return None  # the scales are not those of outputs
    ending = ending_of(node, graph)
    if ending is None:
        return None
    integers = weights.integers.T if last else weights.integers
    return IntegerLayer(graph.steps[node.input[0]], integers, weights.scales, ending)


def activation_table(
    activation: Activation, read: Quantization, written: Quantization
) -> NDArray[np.int8]:
    """Return the int8 that an activation writes for each int8 that it reads."""

    def function(integers: NDArray[np.int8]) -> NDArray[np.int8]:
        x = read.dequantize(integers)
        y = x * np.float32(activation.scale) + np.float32(activation.shift)
        if activation.low is not None or activation.high is not None:
            y = np.clip(y, activation.low, activation.high)
        return written.quantize(x * y if activation.gated else y)

    return table_of(function)


def _gate_of(
    activation: Activation,
    output: Requantization,
    read: Quantization,
    written: Quantization,
    table: NDArray[np.int8],
) -> Gate | None:
    """Return what computes the entries of a table that rounded sums reach."""
    reached = np.arange(output.low, output.high + 1)
    entries = table[reached & 255]
    sums = reached - read.zero_point
    return gate_for(activation, read.scale, written.scale, written.zero_point, sums, entries)


def _is_clamp(activation: Activation) -> bool:
    return activation.scale == 1.0 and activation.shift == 0.0 and not activation.gated


def rounded(
    layer: IntegerLayer, bias: Array, scale: NDArray[np.float32], processor: Processor
) -> tuple[Requantization, Array]:
    """Return how sums become int8, and by which factors.

    Args:
        layer: the layer, whose weights bound its sums.
        bias: the bias of each output, which takes back what the zero point of the inputs adds.
        scale: the factor of each output.
        processor: what rounds.
    """
    weights = layer.weights.reshape(len(layer.weights), -1).astype(np.int64)
    above, below = (part.sum(1) for part in (weights.clip(0, None), weights.clip(None, 0)))
    highest = bias + 127 * above - 128 * below
    lowest = bias - 128 * above + 127 * below
    reach = np.maximum(np.abs(highest), np.abs(lowest)).astype(np.float64)
    output = within(layer.ending.output, float((reach * np.abs(scale)).max(initial=0)))
    return in_fixed_point(output, reach, scale) if is_neon(processor) else (output, scale)
