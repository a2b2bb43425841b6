"""Read a graph of QuantizeLinear/DequantizeLinear pairs: what is an integer, and in which steps.

    x → Q → DQ → y   ⇒   y, held as integers

A pair disappears: the node that made x makes y, and y's step and zero point are kept beside the
graph. Stored weights and biases become fp32 constants; their integers are kept, too. So the graph
has only the operators of the fp32 network, and what no integer kernel covers can be computed in
fp32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from mbv3c.lowering.plan import Array
from mbv3c.lowering.quantization import Quantization

PAIR = "Identity"  # stands for a pair whose tensor is needed in fp32, too
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_INTEGERS = (np.int8, np.uint8)
# Sums of two int8: weights of 8 bits less their zero point, but for a difference of 255.
_WIDE = (-256, 254)


@dataclass(frozen=True)
class Weights:
    """Stored weights of 8 bits, less their zero point.

    Attributes:
        integers: the integers, in the shape of the weights; int16 if int8 does not hold them.
        scales: the value of a step: one scale for all, or one for each index along `axis`.
        axis: the axis along which scales differ; None for one scale.
    """

    integers: NDArray[np.int8] | NDArray[np.int16]
    scales: NDArray[np.float32]
    axis: int | None


@dataclass(frozen=True)
class QuantizedGraph:
    """A graph without its pairs, and what they said.

    Attributes:
        model: the graph, with constants in fp32.
        activations: step and zero point of quantized tensors, by name.
        weights: the integers of constants, by name.
        integer_inputs, integer_outputs: images among the inputs and outputs that enter or leave as
            the integers of their steps, with the channels last.
    """

    model: onnx.ModelProto
    activations: dict[str, Quantization] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)
    integer_inputs: frozenset[str] = frozenset()
    integer_outputs: frozenset[str] = frozenset()


def has_pairs(model: onnx.ModelProto) -> bool:
    """Say whether a model is quantized."""
    return any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def read_pairs(model: onnx.ModelProto, *, wide: bool = True) -> QuantizedGraph:
    """Take the pairs of int8 and uint8 out of a graph; all other pairs stay.

    Weights that need nine bits around their zero point become fp32 if they may not be `wide`.
    """
    inferred = shape_inference.infer_shapes(model)
    graph = inferred.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights, constants = _stored_weights(graph, stored, wide=wide)
    activations, renamed, dropped = _activations(graph, stored)
    nodes = []
    for node in graph.node:
        if node.op_type in _PAIR and node.output[0] in (dropped | constants.keys()):
            continue
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        kept.input[:] = [renamed.get(name, name) for name in node.input]
        kept.output[:] = [renamed.get(name, name) for name in node.output]
        nodes.append(kept)
    _replace_nodes(graph, nodes, constants)
    return QuantizedGraph(inferred, activations, weights)


def with_stored_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose stored integers are the fp32 values that they stand for.

        integers (stored) → DequantizeLinear → w   ⇒   w (stored)

    Pairs of activations stay.
    """
    valued = onnx.ModelProto()
    valued.CopyFrom(model)
    graph = valued.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    _, constants = _stored_weights(graph, stored, wide=False)
    nodes = [node for node in graph.node if node.output[0] not in constants]
    _replace_nodes(graph, nodes, constants)
    return valued


def _stored_weights(
    graph: onnx.GraphProto, stored: Mapping[str, Array], *, wide: bool
) -> tuple[dict[str, Weights], dict[str, Array]]:
    """Return the integers of stored weights, and the values of all stored integers."""
    weights: dict[str, Weights] = {}
    constants: dict[str, Array] = {}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or any(name not in stored for name in node.input):
            continue
        integers, scale = (stored[name] for name in node.input[:2])
        zero = stored[node.input[2]] if len(node.input) > 2 else np.zeros((), integers.dtype)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if scale.dtype != np.float32 or scale.ndim > 1 or attributes.get("block_size", 0):
            continue
        axis = attributes.get("axis", 1) % max(1, integers.ndim) if scale.size > 1 else None
        shifted = integers.astype(np.float32) - _spread(zero, axis, integers.ndim)
        values = shifted * _spread(scale, axis, integers.ndim)
        constants[node.output[0]] = values.astype(np.float32)
        held = _held(integers, shifted, wide=wide)
        if held is not None:
            weights[node.output[0]] = Weights(held, scale.reshape(-1), axis)
    return weights, constants


def _held(
    integers: Array, shifted: Array, *, wide: bool
) -> NDArray[np.int8] | NDArray[np.int16] | None:
    """Return integers less their zero point; None if no kernel of integers multiplies them."""
    if integers.dtype not in _INTEGERS:
        return None
    low, high = shifted.min(initial=0), shifted.max(initial=0)
    if low >= np.iinfo(np.int8).min and high <= np.iinfo(np.int8).max:
        return shifted.astype(np.int8)
    return shifted.astype(np.int16) if wide and low >= _WIDE[0] and high <= _WIDE[1] else None


def _spread(values: Array, axis: int | None, rank: int) -> Array:
    if axis is None:
        return values.reshape(-1)[:1].astype(np.float32).reshape(())
    return values.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(rank)])


def _activations(
    graph: onnx.GraphProto, stored: Mapping[str, Array]
) -> tuple[dict[str, Quantization], dict[str, str], set[str]]:
    """Return how tensors are quantized, their new names, and the outputs of the nodes that go."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    inputs = {value.name for value in graph.input}
    quantizations: dict[str, Quantization] = {}
    renamed: dict[str, str] = {}
    dropped: set[str] = set()
    for node in graph.node:
        quantization = _quantization(node, stored) if node.op_type == "QuantizeLinear" else None
        readers = users.get(node.output[0], [])
        if quantization is None or not readers or node.output[0] in outputs:
            continue
        if any(
            reader.op_type != "DequantizeLinear" or _quantization(reader, stored) != quantization
            for reader in readers
        ):
            continue
        x, results = node.input[0], [reader.output[0] for reader in readers]
        shown = [name for name in results if name in outputs]
        if len(shown) > 1:
            continue
        y = shown[0] if shown else results[0]
        quantizations[y] = quantization
        renamed.update({name: y for name in results if name != y})
        dropped.update(results)
        kept = x in outputs or x in inputs or x in stored or x in quantizations
        if len(users[x]) == 1 and not kept:
            renamed[x] = y
            dropped.add(node.output[0])
        else:  # x is needed in fp32, too: one node stands for the pair
            node.op_type, node.input[:], node.output[:] = PAIR, [x], [y]
            del node.attribute[:]
    # A chain of pairs gives each tensor one final name.
    return quantizations, {name: _last(name, renamed) for name in renamed}, dropped


def _last(name: str, renamed: Mapping[str, str]) -> str:
    while name in renamed:
        name = renamed[name]
    return name


def _quantization(node: onnx.NodeProto, stored: Mapping[str, Array]) -> Quantization | None:
    """Return how a node quantizes; None if not to 8 bits, or in other steps for each channel."""
    if len(node.input) < 3 or any(name not in stored for name in node.input[1:3]):
        return None
    scale, zero = stored[node.input[1]], stored[node.input[2]]
    if scale.size != 1 or scale.dtype != np.float32 or zero.dtype not in _INTEGERS:
        return None
    shift = 128 if zero.dtype == np.uint8 else 0
    return Quantization(float(scale.reshape(())), int(zero.reshape(())) - shift)


def _replace_nodes(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], constants: Mapping[str, Array]
) -> None:
    """Give a graph other nodes and more constants, and drop the constants that nothing reads."""
    used = {name for node in nodes for name in node.input} | {y.name for y in graph.output}
    added = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    stored = [tensor for tensor in (*graph.initializer, *added) if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(stored)
