"""The quantized graph as an Ethos-U takes it: pixels as they are, channels last in front.

    x (uint8) → Cast → Q(s, z) → DQ(s, z) → …   ⇒   x (uint8) → Cast → Q(1, -128) → DQ(1, -128) → …

So the device's int8 are the pixels less 128. Pixels of int8 are the device's as they are.

    Reshape → Q → DQ → Transpose → Q → DQ → Reshape   ⇒   Reshape → Transpose → Reshape

    Flatten of a map → Q → DQ → Gemm   ⇒   Flatten → Gemm

    x → MaxPool → Q(s, z) → DQ   ⇒   x → Q(s, z) → DQ → MaxPool → Q(s, z) → DQ

Between pairs of the same steps this is exact, and so is the last, as rounding keeps the order. The
three move elements of a map together, and Gemm becomes a convolution as large as the map, whose
weights are laid out as the device has pixels. Every node gets a name of its own.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mbv3c.graphs.count import tensor_shapes
from mbv3c.graphs.load import model_input
from mbv3c.passes.names import FreeNames, name_nodes
from mbv3c.passes.spell_topk import spell_ranks
from mbv3c.targets.ethos_u.lowering.channels_last import with_transpose_first
from mbv3c.targets.ethos_u.lowering.layout import RANKS
from mbv3c.targets.ethos_u.lowering.moves import keeps_order

ZERO_POINTS: dict[int, int] = {
    TensorProto.UINT8: -128,
    TensorProto.INT8: 0,
}  # of pixels, by their type
_AT_THE_INPUT = ("Cast", "Transpose")
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_FLAT = 2  # rank of N, C


def device_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a quantized model as it is lowered; the model itself where nothing is to change."""
    spelled, _ = spell_ranks(model)
    first = _with_quantized_pool(_with_joined_moves(with_transpose_first(spelled)))
    kind = model_input(first).type.tensor_type.elem_type
    if kind in ZERO_POINTS:
        first = _with_whole_steps(first, ZERO_POINTS[kind])
    return _with_names(first)


def _with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every node a name of its own: by it a call of TVM's is known for what it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy if name_nodes(copy.graph) else model


def _with_quantized_pool(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantize in front of a MaxPool that reads the model's input, as behind it."""
    image = model_input(model).name
    pools = {
        node.output[0]: node
        for node in model.graph.node
        if node.op_type == "MaxPool" and node.input[0] == image and len(node.output) == 1
    }
    steps = {
        node.input[0]: node.input[1:]
        for node in model.graph.node
        if node.op_type == _PAIR[0] and node.input[0] in pools
    }
    if not steps:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    free = FreeNames(copy.graph)
    nodes = []
    for node in copy.graph.node:
        if node.output[0] in steps:
            integers, back = (free.take(f"{image}.{kind}") for kind in _PAIR)
            more = steps[node.output[0]]
            nodes.append(helper.make_node(_PAIR[0], [image, *more], [integers], integers))
            nodes.append(helper.make_node(_PAIR[1], [integers, *more], [back], back))
            node.input[0] = back
        nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _with_joined_moves(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def source(name: str) -> str | None:
        """Return the tensor before a pair that only its reader reads, of the same steps."""
        back = makers.get(name)
        pair = makers.get(back.input[0]) if back is not None else None
        if back is None or pair is None or (pair.op_type, back.op_type) != _PAIR:
            return None
        steps = [[stored.get(each) for each in node.input[1:]] for node in (pair, back)]
        if any(each is None for each in steps[0] + steps[1]) or len(steps[0]) != len(steps[1]):
            return None
        if not all(np.array_equal(*both) for both in zip(*steps, strict=True)):
            return None
        alone = all(uses[each] == 1 for each in (name, back.input[0], pair.input[0]))
        return str(pair.input[0]) if alone else None

    joined: dict[str, str] = {}
    for last in graph.node:
        if last.op_type in ("Gemm", "MatMul"):
            flat = source(last.input[0])
            flatten = makers.get(flat or "")
            if flat is not None and flatten is not None and _flattens_a_map(flatten, model):
                joined[last.input[0]] = flat
            continue
        middle_out = source(last.input[0]) if last.op_type == "Reshape" else None
        middle = makers.get(middle_out or "")
        if middle_out is None or middle is None or middle.op_type != "Transpose":
            continue
        first_out = source(middle.input[0])
        first = makers.get(first_out or "")
        if first_out is not None and first is not None and first.op_type == "Reshape":
            joined |= {last.input[0]: middle_out, middle.input[0]: first_out}
    return _with_inputs(model, joined) if joined else model


def _flattens_a_map(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Say whether a node makes a vector of a map whose elements lie otherwise on the device."""
    if node.op_type not in ("Flatten", "Reshape"):
        return False
    shapes = tensor_shapes(model)
    before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if len(before) not in RANKS or before[0] != 1 or len(after) != _FLAT:
        return False
    return not keeps_order(before, after)


def _with_inputs(model: onnx.ModelProto, instead: dict[str, str]) -> onnx.ModelProto:
    """Return a copy whose nodes read other tensors, without the pairs that nothing reads then."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    makers = {name: node for node in copy.graph.node for name in node.output}
    dropped = {name for back in instead for name in (back, makers[back].input[0])}
    kept = [node for node in copy.graph.node if node.output[0] not in dropped]
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = instead.get(name, name)
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def is_cast_first(model: onnx.ModelProto) -> bool:
    """Say whether a model of whole pixels makes fp32 of them before all else."""
    image = model_input(model).name
    behind = {image}
    casts = 0
    for node in model.graph.node:
        if not behind & set(node.input):
            continue
        if node.op_type == "Cast":
            casts += 1
        elif node.op_type == "Transpose":
            behind.update(node.output)
        else:
            return False
    return casts > 0


def _with_whole_steps(model: onnx.ModelProto, zero_point: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    pairs = list(_pairs_of_pixels(graph, model_input(copy).name))
    free = FreeNames(graph)
    steps: dict[str, NDArray[Any]] = {
        "scale": np.array(1, np.float32),
        "zero_point": np.array(zero_point, np.int8),
    }
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if all(_has(node, stored, zero_point) for node in pairs):
        return model
    names = []
    for name, value in steps.items():
        names.append(free.take(f"{model_input(copy).name}.{name}"))
        graph.initializer.append(numpy_helper.from_array(value, names[-1]))
    for node in pairs:
        del node.input[1:]
        node.input.extend(names)
    return copy


def _pairs_of_pixels(graph: onnx.GraphProto, image: str) -> Iterator[onnx.NodeProto]:
    """Yield the pairs that quantize the pixels themselves."""
    pixels, quantized = {image}, set()
    for node in graph.node:
        if node.op_type in _AT_THE_INPUT and node.input[0] in pixels:
            pixels.update(node.output)
        elif node.op_type == "QuantizeLinear" and node.input[0] in pixels:
            quantized.update(node.output)
            yield node
        elif node.op_type == "DequantizeLinear" and node.input[0] in quantized:
            yield node


def _has(node: onnx.NodeProto, stored: dict[str, NDArray[Any]], zero_point: int) -> bool:
    scale, *zero = (stored.get(name) for name in node.input[1:])
    return (
        scale is not None
        and scale.size == 1
        and float(scale.reshape(())) == 1
        and len(zero) == 1
        and zero[0] is not None
        and int(zero[0].reshape(())) == zero_point
    )
