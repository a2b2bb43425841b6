"""Which nodes at the front of a network read a camera's frame, and take it as it lies.

The Transpose is missing where the colours lie in planes, N, C, H, W.

frame (uint8, N, H, W, C) → Cast → Transpose → Add(s)      one kernel, to planes of floats
frame (uint8, N, H, W, C) → Cast → Transpose → Conv(1x1)   one kernel, to groups of four int8
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.lowering.plan import Kernel, Value
from mbv3c.lowering.quantization import Quantization
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.memory import INT8
from mbv3c.lowering.select.nodes import attribute_of, bias_of, convolution_of, per_channel
from mbv3c.targets.cpu.integer_layers import IntegerLayer
from mbv3c.targets.cpu.schedules import frame
from mbv3c.targets.cpu.schedules.frame import Frame, Line
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP

if TYPE_CHECKING:
    from mbv3c.targets.cpu.kernels import CpuSelection
    from mbv3c.targets.cpu.select_integers import IntegerSelection

_TO_FIRST = [0, 3, 1, 2]
_PIXELS = Quantization(1.0, -128)  # the steps of pixels less 128
_LEVELS = 256


def frame_rule(node: onnx.NodeProto, selection: "CpuSelection") -> bool:
    """Take a frame that becomes an image of floats, with the number that each colour is moved."""
    graph = selection.graph
    found = _frame(node, graph)
    if found is None or any(one.output[0] in graph.steps for one in found[1]):
        return False
    shape, covered = found
    last = covered[-1].output[0]
    shift = np.zeros(shape.channels, np.float32)
    user = graph.only_user(last)
    if user is not None and user.op_type == "Add" and user.output[0] not in graph.steps:
        stored = [graph.stored[name] for name in user.input if name in graph.stored]
        numbers = per_channel(stored[0], shape.channels) if len(stored) == 1 else None
        if numbers is not None and graph.shape(user.output[0]) == graph.shape(last):
            covered.append(user)
            shift = np.ascontiguousarray(np.broadcast_to(numbers, shift.shape), np.float32)
    kernel = Kernel(frame.generate_floats(shape, selection.dtype), (shift,))
    source = selection.memory.value(node.input[0], "uint8", channels_last=False)
    selection.emit("frame", covered, kernel, (source,), channels_last=False)
    return True


def take_integer_frame(
    node: onnx.NodeProto,
    selection: "IntegerSelection",
    layer_of: Callable[[onnx.NodeProto, Graph], IntegerLayer | None],
    is_dense: Callable[[onnx.NodeProto, "IntegerSelection"], bool],
) -> bool:
    """Take a frame that becomes int8 for the convolutions that read it.

    Args:
        node: the Cast of the frame.
        selection: what is planned.
        layer_of: returns the integers of a convolution.
        is_dense: says whether the dense kernel of integers covers a node.
    """
    graph, memory = selection.graph, selection.memory
    whole = _frame(node, graph)
    if whole is None or any(graph.steps.get(one.output[0]) != _PIXELS for one in whole[1]):
        return False
    shape, covered = whole
    lines: Sequence[Line] = [Line(1, _PIXELS.zero_point, 0)] * shape.channels
    user = graph.only_user(covered[-1].output[0])
    found = None if user is None else _shifted(user, graph, layer_of)
    if user is not None and found is not None:
        covered.append(user)
        lines = found
    y = covered[-1].output[0]
    users = graph.users(y)
    dense = bool(users) and all(is_dense(one, selection) for one in users)
    grouped = dense and y not in graph.outputs
    source = memory.value(node.input[0], "uint8", channels_last=False)
    kernel = Kernel(frame.generate_integers(shape, lines, GROUP if grouped else shape.channels))
    if not grouped:
        selection.emit("frame", covered, kernel, (source,))
        return True
    batch, _, *sides = graph.shape(y)
    memory.plan.values[y] = Value((batch, *sides, GROUP), INT8)
    memory.append("frame", covered, kernel, (source, y), (y,))
    memory.plan.hold(y, y, channels_last=True)
    selection.images.add(y)
    return True


def _frame(node: onnx.NodeProto, graph: Graph) -> tuple[Frame, list[onnx.NodeProto]] | None:
    """Return the frame of a few colours that a Cast reads, and the Cast with its Transpose.

    Colours that lie in planes need none. None for all other nodes.
    """
    if node.op_type != "Cast" or not graph.is_value(node.input[0]):
        return None
    if graph.dtype(node.input[0]) != "uint8" or not graph.is_float(node.output[0]):
        return None
    if not graph.is_image(node.output[0]):
        return None
    moved = graph.only_user(node.output[0])
    shape = graph.shape(node.input[0])
    if moved is not None and list(attribute_of(moved, "perm", [])) == _TO_FIRST:
        found = Frame(shape[0], prod(shape[1:3]), shape[3]), [node, moved]
    else:
        found = Frame(shape[0], prod(shape[2:]), shape[1], planes=True), [node]
    return found if found[0].channels <= GROUP else None


def _shifted(
    node: onnx.NodeProto,
    graph: Graph,
    layer_of: Callable[[onnx.NodeProto, Graph], IntegerLayer | None],
) -> Sequence[Line] | None:
    """Return what a 1x1 depthwise convolution makes of pixels; None for all other nodes."""
    conv, layer = convolution_of(node, graph), layer_of(node, graph)
    if conv is None or layer is None or not conv.is_depthwise:
        return None
    if conv.axes != tuple(Axis(axis.size, 1, 1, axis.dilation, 0, 0) for axis in conv.axes):
        return None
    ending = layer.ending
    whole = (ending.output.low, ending.output.high) == (-128, 127)
    if len(ending.covered) > 1 or ending.table or not whole:
        return None
    factors = np.broadcast_to(layer.scales.astype(np.float64) * layer.steps.scale, (conv.outputs,))
    biases = np.rint(bias_of(node, graph, conv.outputs) / factors).astype(np.int64)
    weights = layer.weights.reshape(-1).astype(np.int64)
    lines = []
    for weight, bias, factor in zip(weights, biases, factors, strict=True):
        scale = np.float32(factor / ending.scale)
        wanted = _rounded(np.arange(_LEVELS) * weight + bias, scale, ending.output.zero)
        line = frame.line_through(wanted, float(weight * scale))
        if line is None:
            return None
        lines.append(line)
    return lines


def _rounded(sums: NDArray[np.int64], scale: np.float32, zero: int) -> NDArray[np.int64]:
    """Return the int8 of sums, as the kernels of integers round them."""
    values: NDArray[np.int64] = np.rint(sums.astype(np.float32) * scale).astype(np.int64) + zero
    return np.clip(values, -128, 127)
