"""Refuse a recurrent layer in the middle of a network before it is unrolled and quantized.

Unrolled it is hundreds of operators, and it takes a minute to find where they belong.
"""

from collections.abc import Iterator
from math import prod

import onnx
from onnx import shape_inference

from mbv3c.graphs.count import layers_with_weights, tensor_shapes
from mbv3c.targets.ethos_u.lowering.cutting import LEAST_SHARE
from mbv3c.targets.ethos_u.lowering.reasons import reason_of
from mbv3c.targets.ethos_u.lowering.region import Operator, Stay
from mbv3c.targets.ethos_u.placement import refusal

_RECURRENT = ("LSTM", "GRU", "RNN")
_ON_THE_NPU = ("Conv", "Gemm")  # with stored weights, wherever they are


def check_loops(model: onnx.ModelProto) -> None:
    """Refuse a network in fp32 of which an NPU would have to wait for a recurrent layer.

    One behind the most of the multiply-adds is left to the CPU, with all that follows.

    Raises:
        PlacementError: the NPU would wait; the layers are named.
    """
    graph = model.graph
    kinds = {node.op_type for node in graph.node}
    if not kinds & set(_RECURRENT) or "QuantizeLinear" in kinds:
        return
    stored = {tensor.name for tensor in graph.initializer}
    stored.update(node.output[0] for node in graph.node if node.op_type == "Constant")
    loops, behind = list[onnx.NodeProto](), set[str]()
    waits = False
    for node in graph.node:
        if node.op_type in _RECURRENT:
            loops.append(node)
        elif not behind & set(node.input):
            continue
        elif node.op_type in _ON_THE_NPU and node.input[1] in stored:
            waits = True
        behind.update(name for name in node.output if name)
    if not waits:
        return
    try:
        shapes = tensor_shapes(model)
    except shape_inference.InferenceError:  # known only when the network is rewritten
        return
    if _share_in_front(model, behind, shapes) < LEAST_SHARE:
        raise refusal([_left(node, shapes) for node in loops], waits=True)


def _share_in_front(
    model: onnx.ModelProto, behind: set[str], shapes: dict[str, tuple[int, ...]]
) -> float:
    """Return what layers in front of all recurrent ones have of the multiply-adds."""
    loops = (node for node in model.graph.node if node.op_type in _RECURRENT)
    every = sum(count for node in loops for count in _products(node, shapes))
    front = 0
    for node, count in layers_with_weights(model, shapes):
        every += count
        front += 0 if node.output[0] in behind else count
    return front / every if every else 0.0


def _products(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> Iterator[int]:
    """Yield the multiply-adds with the weights of inputs and of states of a recurrent layer."""
    steps = prod(shapes.get(node.input[0], ())[:2])  # of all images, whichever axis is first
    for name in node.input[1:3]:
        yield steps * prod(shapes.get(name, (0,)))


def _left(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> Operator:
    reason = reason_of(node.op_type, quantized=False)
    name = node.name or f"{node.op_type}_{node.output[0]}"
    read, made = (prod(shapes.get(name, (0,))) for name in (node.input[0], node.output[0]))
    stay = Stay(reason.why, reason.change, read, made, 1, 1, is_awaited=True)
    return Operator(name, (name,), node.op_type, on_npu=False, stay=stay)
