"""Cut a quantized network into what an NPU and what a CPU computes, one after the other.

    x → CPU: quantize → NPU → CPU: what the NPU lacks → NPU → CPU: dequantize → y

In front of each region of the NPU stands what the CPU must have computed by then, and behind the
last one the rest. Between the two go integers of int8, laid out as on the device.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from mbv3c.errors import ModelError
from mbv3c.lowering.quantization import Quantization
from mbv3c.manifest import TensorRecord
from mbv3c.targets.ethos_u.lowering.layout import on_device
from mbv3c.targets.ethos_u.lowering.region import Region

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Edge:
    """A tensor that one part makes and another reads, or that enters or leaves the network.

    Attributes:
        tensor: its name in the quantized model.
        shape: its shape there.
        dtype: numpy's name of its type there.
        steps: what its integers stand for, if it is int8 and laid out as on the device; else None.
        parameters: the names of scale and zero point, if it is.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    steps: Quantization | None = None
    parameters: tuple[str, ...] = ()

    @property
    def place_shape(self) -> tuple[int, ...]:
        """The shape in memory: N, H, W, C of integers."""
        return self.shape if self.steps is None else on_device(self.shape)

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def record(self) -> TensorRecord:
        """Return how it lies between two parts."""
        return TensorRecord(self.tensor, self.place_shape, self.dtype)


@dataclass(frozen=True)
class Part:
    """What one of the two computes in one go.

    Attributes:
        reads, makes: tensors, by name; in the order of a region's inputs and outputs.
        nodes: of the CPU, the nodes of the quantized model; of the NPU none.
        region: what the NPU computes; None for a part of the CPU.
    """

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...] = ()
    region: Region | None = None

    @property
    def ends(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What it reads, and what it makes."""
        return self.reads, self.makes


@dataclass(frozen=True)
class Network:
    """A quantized network in parts.

    Attributes:
        model: the quantized model.
        parts: its parts, in the order in which they run.
        edges: the tensors between them and at the ends, by name.
    """

    model: onnx.ModelProto
    parts: tuple[Part, ...]
    edges: Mapping[str, Edge]

    @property
    def inputs(self) -> tuple[str, ...]:
        stored = {tensor.name for tensor in self.model.graph.initializer}
        names = (value.name for value in self.model.graph.input)
        return tuple(name for name in names if name not in stored)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.model.graph.output)

    @property
    def regions(self) -> tuple[Region, ...]:
        return tuple(part.region for part in self.parts if part.region is not None)


def cut(model: onnx.ModelProto, regions: Sequence[Region]) -> Network:
    """Cut a network.

    Args:
        model: the quantized model, whose nodes have names.
        regions: what the NPU computes of it, in order.

    Raises:
        ModelError: a tensor between two parts is no int8 with one step, or has no fixed shape.
    """
    graph = _Graph(model)
    made: dict[str, int] = {}  # the number of the part, by tensor
    bodies: list[tuple[onnx.NodeProto, ...]] = []
    ends: list[Region | None] = []
    by_npu = {graph.quantized[end.made_by] for region in regions for end in region.outputs}
    wanted = [{graph.quantized[name] for name in region.reads} - by_npu for region in regions]
    for number, targets in enumerate([*wanted, set(graph.outputs)]):
        nodes = graph.behind(targets, by_npu | made.keys())
        if nodes or number == len(regions):
            made.update(dict.fromkeys(graph.computed(nodes), len(bodies)))
            bodies.append(nodes)
            ends.append(None)
        if number < len(regions):
            bodies.append(())
            ends.append(regions[number])
    parts = [
        _npu_part(graph, end) if end is not None else graph.reading(nodes, by_npu | made.keys())
        for nodes, end in zip(bodies, ends, strict=True)
    ]
    wanted_after = {name for part in parts for name in part.reads} | set(graph.outputs)
    whole = [
        part
        if part.region is not None
        else Part(part.reads, graph.leaving(part, number, made, wanted_after), part.nodes)
        for number, part in enumerate(parts)
    ]
    kept = tuple(part for part in whole if part.makes)
    names = dict.fromkeys(name for part in kept for name in (*part.reads, *part.makes))
    missing = [
        name for name in graph.outputs if not any(name in part.makes for part in bare(kept))
    ]
    if missing:
        raise ModelError(
            f"the output {missing[0]!r} is constant, an input, or int8 as the NPU has it; such an "
            "output is not for --artifact c: take it out of the network"
        )
    return Network(model, kept, {name: graph.edge(name) for name in names})


def bare(parts: Sequence[Part]) -> Iterator[Part]:
    """Yield the parts of the CPU."""
    return (part for part in parts if part.region is None)


def _npu_part(graph: "_Graph", region: Region) -> Part:
    return Part(
        tuple(graph.quantized[name] for name in region.reads),
        tuple(graph.quantized[end.made_by] for end in region.outputs),
        region=region,
    )


class _Graph:
    """What is asked of a quantized model as it is cut."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = shape_inference.infer_shapes(model).graph
        self._nodes = list(graph.node)
        self._makers = {name: node for node in graph.node for name in node.output}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._types = {
            value.name: value.type.tensor_type
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self._inputs = {value.name for value in graph.input} - self._stored.keys()
        self.outputs = [value.name for value in graph.output]
        self.quantized = {node.name: node.output[0] for node in graph.node if _is(node, _QUANTIZE)}
        varying = set(self._inputs)
        for node in graph.node:
            if varying & set(node.input):
                varying.update(node.output)
        self._varying = varying

    def behind(
        self, targets: Collection[str], known: Collection[str]
    ) -> tuple[onnx.NodeProto, ...]:
        """Return the nodes that make some tensors of what is known by then, in order."""
        needed, nodes = set(targets) - set(known), []
        for node in reversed(self._nodes):
            if needed & (set(node.output) - set(known)):
                nodes.append(node)
                needed.update(set(node.input) - set(known))
        return tuple(reversed(nodes))

    def computed(self, nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
        """Yield what some nodes make that no other part makes, too.

        What is constant, and the values of integers, every part makes for itself.
        """
        for node in nodes:
            if not _is(node, _DEQUANTIZE):
                yield from (name for name in node.output if name in self._varying)

    def reading(self, nodes: Sequence[onnx.NodeProto], known: Collection[str]) -> Part:
        """Return a part of the CPU with what it reads of other parts."""
        inside = {name for node in nodes for name in node.output}
        given = {*known, *self._inputs}
        reads = dict.fromkeys(name for node in nodes for name in node.input)
        own = tuple(name for name in reads if name in given and name not in inside)
        return Part(own, (), tuple(nodes))

    def leaving(
        self, part: Part, number: int, made: Mapping[str, int], wanted: Collection[str]
    ) -> tuple[str, ...]:
        """Return what others read of what a part makes, and the network's outputs in it."""
        outputs = [name for node in part.nodes for name in node.output]
        return tuple(
            name
            for name in outputs
            if (made.get(name) == number and name in wanted) or name in self.outputs
        )

    def edge(self, name: str) -> Edge:
        """Describe a tensor.

        Raises:
            ModelError: it has no fixed shape, or steps that differ from channel to channel.
        """
        declared = self._types.get(name)
        dims = declared.shape.dim if declared is not None else ()
        if declared is None or not all(dim.HasField("dim_value") for dim in dims):
            raise ModelError(f"the shape of {name!r} is not known; fix it with --input-shape")
        shape = tuple(dim.dim_value for dim in dims)
        dtype = helper.tensor_dtype_to_np_dtype(declared.elem_type).name
        maker = self._makers.get(name)
        if maker is None or not _is(maker, _QUANTIZE):
            return Edge(name, shape, dtype)
        scale, zero = (numpy_helper.to_array(self._stored[each]) for each in maker.input[1:3])
        if scale.size != 1 or declared.elem_type != TensorProto.INT8:
            raise ModelError(
                f"{name!r} goes from one part of the network to another and is no int8 with one "
                "step; quantize its activations to int8 with one scale"
            )
        steps = Quantization(float(scale.reshape(())), int(zero.reshape(())))
        return Edge(name, shape, dtype, steps, tuple(maker.input[1:3]))


def _is(node: onnx.NodeProto, op_type: str) -> bool:
    return bool(node.op_type == op_type)
