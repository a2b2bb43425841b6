"""What a question about costs is known by: the network's form, whatever its weights hold.

Two networks have one digest if they differ in the numbers of their weights only, and one structure
if they differ in channel counts, too.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import onnx
from onnx import shape_inference

from mbv3c.graphs.count import Counts, count

# Operators whose stored operands of more than one number are weights. Those of others, such as the
# factors of a Resize, decide what is computed.
_WEIGHTED = frozenset(
    {
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"),
        *("Add", "Sub", "Mul", "Div", "PRelu"),
    }
)
_CHANNEL_AXES = 2  # of weights as ONNX has them: outputs and inputs
_IMAGE_RANK = 4


@dataclass(frozen=True)
class Question:
    """A network whose costs are asked for.

    Attributes:
        model: the network.
    """

    model: onnx.ModelProto

    @cached_property
    def light(self) -> onnx.ModelProto:
        """The network without the numbers of its weights, and without what says nothing of it."""
        return light(self.model)

    @cached_property
    def digest(self) -> str:
        """What all networks of this form have in common."""
        return _digest(self.light)

    @cached_property
    def structure(self) -> str:
        """What all networks that differ in channel counts only have in common."""
        model = onnx.ModelProto()
        model.CopyFrom(self.light)
        weights = set(weight_names(model))
        for tensor in model.graph.initializer:
            if tensor.name in weights:
                kept = tensor.dims[_CHANNEL_AXES:] if len(tensor.dims) == _IMAGE_RANK else ()
                rank = len(tensor.dims)
                del tensor.dims[:]
                tensor.dims.extend([rank, *kept])
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "group" and attribute.i > 1:
                    attribute.i = -1
        for output in model.graph.output:
            output.ClearField("type")
        return _digest(model)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor whose shape follows from the graph."""
        return _shapes(self.light)

    @cached_property
    def counts(self) -> Counts:
        """Parameters and multiply-adds."""
        return count(self.light)


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the numbers of weights and without metadata."""
    copy = onnx.ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    graph, source = copy.graph, model.graph
    graph.name = "network"
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.sparse_initializer.extend(source.sparse_initializer)
    weights = set(weight_names(model))
    for tensor in source.initializer:
        if tensor.name in weights:
            stub = graph.initializer.add(name=tensor.name, data_type=tensor.data_type)
            stub.dims.extend(tensor.dims)
        else:
            graph.initializer.append(tensor)
    return copy


def weight_names(model: onnx.ModelProto) -> Iterator[str]:
    """Yield the stored tensors of which only the shape matters."""
    users: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, set()).add(node.op_type)
    for tensor in model.graph.initializer:
        used = users.get(tensor.name, set())
        if used and used <= _WEIGHTED and prod(tensor.dims) > 1:
            yield tensor.name


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _digest(model: onnx.ModelProto) -> str:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:32]
