"""Bring the Transpose behind an input of N, H, W, C to the front, where the NPU needs none.

    x → Q → DQ → Add(1) → Q → DQ → Transpose → …   ⇒   x → Transpose → Q → DQ → Add(1) → …

The device has its images as N, H, W, C. So the first Transpose is only how the model says it.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper
from tvm import relax

from mbv3c.graphs.load import model_input
from mbv3c.passes.names import FreeNames
from mbv3c.targets.ethos_u.lowering.composite import operator, shape_of
from mbv3c.targets.ethos_u.lowering.layout import on_device

_FROM_CHANNELS_LAST = ((0, 3, 1, 2), (0, 2, 1))
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_POINTWISE = frozenset(
    {
        *(*_PAIR, "Add", "Sub", "Mul", "Div", "Relu", "Clip"),
        *("HardSwish", "HardSigmoid", "Sigmoid", "Identity", "Cast"),
    }
)


def with_transpose_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that transposes its input first, if it does so later; else the model."""
    if not any(_perm(node) in _FROM_CHANNELS_LAST for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    numbers, by_channel = _numbers(graph), _by_channel(graph)
    readers: dict[str, list[onnx.NodeProto]] = {output.name: [] for output in graph.output}
    outputs = set(readers)
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    image = tensor = model_input(copy).name
    before: list[onnx.NodeProto] = []
    channels: list[str] = []  # operands with a number for each channel
    while len(readers.get(tensor, [])) == 1 and tensor not in outputs:
        (node,) = readers[tensor]
        if node.op_type == "Transpose":
            moves = _perm(node) in _FROM_CHANNELS_LAST and node.output[0] not in outputs
            if not before or not moves:
                return model
            _lay_out(graph, [by_channel[name] for name in channels], len(_perm(node)) - 1)
            return _moved(copy, before, node, image)
        operands = [name for name in node.input if name not in (tensor, "")]
        several = [name for name in operands if name not in numbers]
        if node.op_type not in _POINTWISE or not all(name in by_channel for name in several):
            return model
        channels += several
        before.append(node)
        tensor = node.output[0]
    return model


def is_from_channels_last(value: relax.Expr) -> bool:
    """Say whether a call brings N, H, W, C, or N, L, C, into the order of N, C, H, W.

    Of a cube both look alike, so it is none.
    """
    if operator(value) != "relax.permute_dims":
        return False
    before, after = shape_of(value.args[0]), shape_of(value)
    axes = tuple(int(axis) for axis in value.attrs.axes or ())
    return axes in _FROM_CHANNELS_LAST and on_device(before) != on_device(after)


def _perm(transpose: onnx.NodeProto) -> tuple[int, ...]:
    return next((tuple(a.ints) for a in transpose.attribute if a.name == "perm"), ())


def _numbers(graph: onnx.GraphProto) -> dict[str, float]:
    """Return the constants of one number, also those behind DequantizeLinear."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    numbers = {name: float(array.reshape(())) for name, array in stored.items() if array.size == 1}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and all(name in numbers for name in node.input):
            integer, scale, *zero = (numbers[name] for name in node.input)
            numbers[node.output[0]] = scale * (integer - sum(zero))
    return numbers


def _by_channel(graph: onnx.GraphProto) -> dict[str, str]:
    """Return what holds a number for each channel, the last axis, in one place of the graph.

    The names are those of the constants, or of what DequantizeLinear makes of them, with the names
    of the constants.
    """
    uses = Counter(name for node in graph.node for name in node.input)
    long = {
        tensor.name: tensor.name
        for tensor in graph.initializer
        if tensor.dims and np.prod(tensor.dims) == tensor.dims[-1] and uses[tensor.name] == 1
    }
    numbers = _numbers(graph)
    for node in graph.node:
        if node.op_type != _PAIR[1] or uses[node.output[0]] != 1:
            continue
        stored, *steps = node.input
        if stored in long and all(name in numbers for name in steps):
            long[node.output[0]] = stored
    return long


def _lay_out(graph: onnx.GraphProto, names: list[str], axes: int) -> None:
    """Give constants with a number for each channel so many axes, of which it is the first."""
    for tensor in graph.initializer:
        if tensor.name in names:
            shape = [int(np.prod(tensor.dims)), *(1 for _ in range(axes - 1))]
            del tensor.dims[:]
            tensor.dims.extend(shape)


def _moved(
    model: onnx.ModelProto, before: list[onnx.NodeProto], transpose: onnx.NodeProto, image: str
) -> onnx.ModelProto:
    graph = model.graph
    last, result = transpose.input[0], transpose.output[0]
    moved = FreeNames(graph).take(f"{image}.moved")
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == result:
                node.input[index] = last
    before[0].input[list(before[0].input).index(image)] = moved
    transpose.input[0], transpose.output[0] = image, moved
    nodes = [transpose, *(node for node in graph.node if node != transpose)]
    # Shapes are inferred anew where they are needed.
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    _drop_repeated(graph, last)
    return model


def _drop_repeated(graph: onnx.GraphProto, dequantized: str) -> None:
    """Drop a pair of the same steps right behind another pair."""
    numbers = _numbers(graph)
    makers = {node.output[0]: node for node in graph.node}
    pairs = [
        node for node in graph.node if node.op_type == _PAIR[0] and node.input[0] == dequantized
    ]
    for quantize in pairs:
        behind = [node for node in graph.node if quantize.output[0] in node.input]
        first = makers.get(dequantized)
        same = first is not None and first.op_type == _PAIR[1] and _same(first, quantize, numbers)
        if not same or any(node.op_type != _PAIR[1] for node in behind):
            continue
        instead = {node.output[0]: dequantized for node in behind}
        if set(instead) & {output.name for output in graph.output}:
            continue
        kept = [node for node in graph.node if node not in (quantize, *behind)]
        for node in kept:
            for index, name in enumerate(node.input):
                node.input[index] = instead.get(name, name)
        del graph.node[:]
        graph.node.extend(kept)


def _same(first: onnx.NodeProto, second: onnx.NodeProto, numbers: Mapping[str, float]) -> bool:
    steps = [[numbers.get(name) for name in node.input[1:]] for node in (first, second)]
    return steps[0] == steps[1] and None not in steps[0]
