"""The quantized graph as an Ethos-U takes it: pixels as they are, channels last in front.

    x (uint8) → Cast → Q(s, z) → DQ(s, z) → …   ⇒   x (uint8) → Cast → Q(1, -128) → DQ(1, -128) → …

So the device's int8 are the pixels less 128. Pixels of int8 are the device's as they are.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from mbv3c.graphs.load import model_input
from mbv3c.passes.names import FreeNames
from mbv3c.targets.ethos_u.lowering.channels_last import with_transpose_first

ZERO_POINTS = {TensorProto.UINT8: -128, TensorProto.INT8: 0}  # of pixels, by their type
_AT_THE_INPUT = ("Cast", "Transpose")


def device_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a quantized model as it is lowered; the model itself where nothing is to change."""
    first = with_transpose_first(model)
    kind = model_input(first).type.tensor_type.elem_type
    return _with_whole_steps(first, ZERO_POINTS[kind]) if kind in ZERO_POINTS else first


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
    steps = {
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


def _has(node: onnx.NodeProto, stored: dict[str, np.ndarray], zero_point: int) -> bool:
    scale, *zero = (stored.get(name) for name in node.input[1:])
    return (
        scale is not None
        and scale.size == 1
        and float(scale.reshape(())) == 1
        and len(zero) == 1
        and zero[0] is not None
        and int(zero[0].reshape(())) == zero_point
    )
