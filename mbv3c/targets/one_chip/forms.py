"""A part of the CPU as a model: one for onnxruntime, and one of which kernels are made.

onnxruntime's reads and writes int8 as it lies between two parts:

    t.device (int8, N, H, W, C) → Transpose → t → rest → u → Transpose → u.device

The other has floats there, with pairs that say their steps, and is then told that they are int8:

    x (N, C, H, W) → QuantizeLinear → t → rest → u → DequantizeLinear → y
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from mbv3c.errors import ModelError
from mbv3c.lowering.qdq import PAIR, QuantizedGraph, read_pairs
from mbv3c.passes.names import FreeNames
from mbv3c.targets.ethos_u.lowering.layout import AXES, on_device
from mbv3c.targets.one_chip.parts import Edge, Network, Part

_TO_DEVICE = (0, 2, 3, 1)
_IMAGE = 4  # axes
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def reference_model(network: Network, part: Part) -> onnx.ModelProto:
    """Return a part of the CPU for onnxruntime; its ends have the names of the tensors.

    An end of integers is N, H, W, C, and the name has `.device` behind it.

    Raises:
        ModelError: the part is no valid model by itself.
    """
    made = _Writer(network, part)
    for name in part.reads:
        edge = network.edges[name]
        if edge.steps is None:
            made.input(name, edge, edge.shape)
            continue
        given = made.input(f"{name}.device", edge, edge.place_shape)
        if len(edge.shape) == _IMAGE:
            made.node("Transpose", [given], name, perm=AXES)
        else:
            moved = made.node("Transpose", [given], f"{name}.moved", perm=AXES)
            made.reshape(moved, name, edge.shape)
    made.rest()
    for name in part.makes:
        edge = network.edges[name]
        if edge.steps is None:
            made.output(name, edge, edge.shape)
            continue
        image = name
        if len(edge.shape) != _IMAGE:
            image = made.reshape(name, f"{name}.image", _image_shape(edge))
        result = made.node("Transpose", [image], f"{name}.device", perm=_TO_DEVICE)
        made.output(result, edge, edge.place_shape)
    model = made.model()
    onnx.checker.check_model(model)
    return model


def quantized_graph(network: Network, part: Part) -> QuantizedGraph:
    """Return a part of the CPU as kernels are made of it.

    Raises:
        ModelError: an end has no steps of its own.
    """
    made = _Writer(network, part)
    starts, ends = [], []
    for name in part.reads:
        edge = network.edges[name]
        if edge.steps is None:
            made.input(name, edge, edge.shape)
            continue
        given = made.input(f"{name}.x", edge, _image_shape(edge), TensorProto.FLOAT)
        starts.append(given)
        if len(edge.shape) != _IMAGE:
            given = made.reshape(made.pair(given, f"{name}.image", edge), None, edge.shape)
        made.node(_QUANTIZE, [given, *edge.parameters], name)
    made.rest()
    for name in part.makes:
        edge = network.edges[name]
        if edge.steps is None:
            made.output(name, edge, edge.shape)
            continue
        result = made.node(_DEQUANTIZE, [name, *edge.parameters], f"{name}.y")
        if len(edge.shape) != _IMAGE:
            image = made.reshape(result, f"{name}.image", _image_shape(edge))
            result = made.pair(image, f"{name}.end", edge)
        ends.append(made.output(result, edge, _image_shape(edge), TensorProto.FLOAT))
    return _with_integer_ends(read_pairs(made.model(), wide=False), starts, ends)


def _with_integer_ends(
    read: QuantizedGraph, starts: Sequence[str], ends: Sequence[str]
) -> QuantizedGraph:
    """Let the tensor behind the pair of each start be the input itself."""
    graph = read.model.graph
    pairs = {node.input[0]: node for node in graph.node if node.op_type == PAIR}
    named = {}
    for name in (*starts, *ends):
        known = name in ends or name in pairs
        tensor = name if name in ends else pairs[name].output[0] if known else ""
        if tensor not in read.activations:
            raise ModelError(
                f"{name.rpartition('.')[0]!r} is read by something that takes no pair of "
                "QuantizeLinear and DequantizeLinear; take it out of the network, or leave "
                "--artifact c out"
            )
        named[name] = tensor
    gone = [pairs[name] for name in starts]
    nodes = [node for node in graph.node if node not in gone]
    known_types = [value for value in graph.value_info if value.name not in named.values()]
    for value in graph.input:
        value.name = named.get(value.name, value.name)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.value_info.extend(known_types)
    return QuantizedGraph(
        read.model,
        read.activations,
        read.weights,
        frozenset(named[name] for name in starts),
        frozenset(ends),
    )


def _image_shape(edge: Edge) -> tuple[int, int, int, int]:
    """Return the shape of a tensor as an image N, C, H, W."""
    batch, height, width, channels = on_device(edge.shape)
    return batch, channels, height, width


class _Writer:
    """A model around the nodes of a part."""

    def __init__(self, network: Network, part: Part) -> None:
        self._network, self._part = network, part
        self._free = FreeNames(network.model.graph)
        self._nodes: list[onnx.NodeProto] = []
        self._stored: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, edge: Edge, shape: Sequence[int], kind: int | None = None) -> str:
        name = name if name == edge.tensor else self._free.take(name)
        self._inputs.append(helper.make_tensor_value_info(name, kind or _kind(edge), shape))
        return name

    def output(self, name: str, edge: Edge, shape: Sequence[int], kind: int | None = None) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, kind or _kind(edge), shape))
        return name

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node; its result has a name of the quantized model, or one like `output`."""
        name = output if output in self._part.reads else self._free.take(output)
        self._nodes.append(helper.make_node(op_type, inputs, [name], f"→ {name}", **attributes))
        return name

    def reshape(self, source: str, output: str | None, shape: Sequence[int]) -> str:
        name = self._free.take(f"{source}.shape")
        self._stored.append(helper.make_tensor(name, TensorProto.INT64, [len(shape)], shape))
        return self.node("Reshape", [source, name], output or f"{source}.reshaped")

    def pair(self, source: str, output: str, edge: Edge) -> str:
        integers = self.node(_QUANTIZE, [source, *edge.parameters], f"{output}.integers")
        return self.node(_DEQUANTIZE, [integers, *edge.parameters], output)

    def rest(self) -> None:
        """Add the nodes of the part."""
        self._nodes.extend(self._part.nodes)

    def model(self) -> onnx.ModelProto:
        given = self._network.model
        read = {name for node in self._nodes for name in node.input}
        stored = [tensor for tensor in given.graph.initializer if tensor.name in read]
        graph = helper.make_graph(
            self._nodes,
            f"{given.graph.name} on the CPU",
            self._inputs,
            self._outputs,
            [*stored, *self._stored],
        )
        return helper.make_model(
            graph, opset_imports=given.opset_import, ir_version=given.ir_version
        )


def _kind(edge: Edge) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(edge.dtype)))
