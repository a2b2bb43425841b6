"""Count parameters, multiply-adds and activation memory of an ONNX graph."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import onnx
from onnx import shape_inference

from mbv3c.errors import ModelError

WEIGHTED = {"Conv", "Gemm", "MatMul"}


@dataclass(frozen=True)
class Counts:
    """Size and work of a network.

    Attributes:
        params: weights, biases and BatchNormalization scale and shift. Running statistics and
            the constants of activations are not parameters.
        madds: multiply-adds of Conv, Gemm and MatMul for one inference of the whole batch.
    """

    params: int
    madds: int


def count(model: onnx.ModelProto) -> Counts:
    """Count parameters and multiply-adds, the way the paper and torchvision do."""
    shapes = tensor_shapes(model)
    parameters: set[str] = set()
    madds = 0
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            parameters.update(node.input[1:])
            madds += multiply_adds(node, shapes)
        elif node.op_type == "BatchNormalization":
            parameters.update(node.input[1:3])
    stored = {tensor.name for tensor in model.graph.initializer}
    return Counts(sum(prod(shapes[name]) for name in parameters & stored), madds)


def tensor_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor with a static shape, initialisers included."""
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def multiply_adds(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the multiply-adds of one Conv, Gemm or MatMul, given every tensor's shape."""
    output = prod(shapes[node.output[0]])
    weight = shapes[node.input[1]]
    if node.op_type == "Conv":
        return output * prod(weight[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return output * weight[1 if transposed else 0]
    return output * weight[-2 if len(weight) > 1 else 0]


@dataclass(frozen=True)
class NodeCost:
    """What one node of a graph costs.

    Attributes:
        name: name of the node, or of its first output that is not left out if it has none.
        operator: ONNX operator of the node.
        output_shape: shape of the node's first output that is not left out.
        params: parameters, counted as `count` does; a shared one counts where it is first used.
        madds: multiply-adds for the whole batch.
        activation_bytes: size of all outputs of the node.
    """

    name: str
    operator: str
    output_shape: tuple[int, ...]
    params: int
    madds: int
    activation_bytes: int


@dataclass(frozen=True)
class Inspection:
    """What a graph costs, computed from the graph and not measured.

    Attributes:
        layers: the nodes in graph order, Constant nodes excepted.
        totals: sums over all nodes.
        peak_activation_bytes: largest sum of the tensors that are alive at once. The nodes run one
            by one in graph order. A tensor is alive from the node that makes it to the last node
            that uses it; the graph's input from the first node on, its outputs to the last node.
            Weights and constants are left out. Every tensor has memory of its own: nothing is
            computed in place, and Reshape or Flatten copy. A compiler that fuses or reuses needs
            less, one that needs workspaces needs more.
    """

    layers: tuple[NodeCost, ...]
    totals: Counts
    peak_activation_bytes: int


def layers_with_weights(
    model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]
) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Yield the layers of known shapes with the multiply-adds of each, in order."""
    for node in model.graph.node:
        if node.op_type in WEIGHTED and {node.input[1], node.output[0]} <= shapes.keys():
            yield node, multiply_adds(node, shapes)


def inspect(model: onnx.ModelProto, simplified: onnx.ModelProto | None = None) -> Inspection:
    """Count parameters, multiply-adds and activation memory of every node.

    Shapes that shape inference does not find (after a Pad by computed amounts) are taken from
    `simplified`: this model with its constants folded and its tensors' names kept.

    Raises:
        ModelError: the shape of a tensor does not follow from the graph.
    """
    model = shape_inference.infer_shapes(model, data_prop=True)
    if simplified is not None:
        _complete(model.graph, simplified)
    sizes = _activation_sizes(model)
    totals = count(model)
    layers = tuple(_layers(model, sizes))
    return Inspection(layers, totals, _peak(model.graph, sizes))


def _complete(graph: onnx.GraphProto, simplified: onnx.ModelProto) -> None:
    """Take over what a simplified model knows of the graph's tensors."""
    computed = {name for node in graph.node for name in node.output}
    inferred = shape_inference.infer_shapes(simplified, data_prop=True).graph.value_info
    known = {value.name: value for value in inferred if value.name in computed}
    kept = [value for value in graph.value_info if value.name not in known]
    del graph.value_info[:]
    graph.value_info.extend([*kept, *known.values()])


def _layers(model: onnx.ModelProto, sizes: dict[str, int]) -> Iterator[NodeCost]:
    shapes = tensor_shapes(model)
    uncounted = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        made = list(filter(None, node.output))  # a recurrent layer may leave out its first output
        if node.op_type == "Constant" or not made:
            continue
        weighted = node.op_type in WEIGHTED
        candidates = node.input[1:] if weighted else ()
        if node.op_type == "BatchNormalization":
            candidates = node.input[1:3]
        parameters = uncounted.intersection(candidates)
        uncounted -= parameters
        yield NodeCost(
            node.name or made[0],
            node.op_type,
            shapes[made[0]],
            params=sum(prod(shapes[name]) for name in parameters),
            madds=multiply_adds(node, shapes) if weighted else 0,
            activation_bytes=sum(sizes[name] for name in made),
        )


def _peak(graph: onnx.GraphProto, sizes: dict[str, int]) -> int:
    end = len(graph.node) - 1
    first = {value.name: 0 for value in graph.input}
    last: dict[str, int] = {}
    for position, node in enumerate(graph.node):
        first.update((name, position) for name in node.output)
        last.update((name, position) for name in (*node.output, *tensors_read(node)))
    last.update((value.name, end) for value in graph.output)
    changes = [0] * (len(graph.node) + 1)
    for name, size in sizes.items():
        changes[first[name]] += size
        changes[last.get(name, first[name]) + 1] -= size
    alive = peak = 0
    for change in changes:
        alive += change
        peak = max(peak, alive)
    return peak


def tensors_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the tensors that a node reads, also in the graphs inside an If or a Loop.

    The names of tensors that these graphs make themselves are among them.
    """
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from tensors_read(inner)


def computed_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the element types of a graph's inputs and of everything computed, constants excepted.

    The type of a tensor that shape inference does not know is 0.
    """
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    stored = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in stored]
    names += [name for node in graph.node if node.op_type != "Constant" for name in node.output]
    return {name: types.get(name, 0) for name in names if name}


def _activation_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Return the bytes of the graph's inputs and of everything computed, constants excepted."""
    graph = model.graph
    shapes = tensor_shapes(model)
    types = computed_types(graph)
    unknown = [name for name, kind in types.items() if name not in shapes or not kind]
    if unknown:
        raise ModelError(
            f"the shape of {unknown[0]!r} does not follow from the graph; write a simpler one "
            "with `mbv3c optimize` and inspect that"
        )
    return {
        name: prod(shapes[name]) * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
        for name, kind in types.items()
    }
