"""What a small model would grow to: tensors of terabytes, loops without an end.

    ConstantOfShape([1048576, 1048576])      Loop(2⁶², true) {…}      Range(0, 2⁴⁰, 1)

A few bytes ask for it, and shape inference, constant folding or the first run would do it. What
constants say themselves is refused here; what has to be computed first is bounded where it runs.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference
from onnx.external_data_helper import uses_external_data

from mbv3c.door.files import Refused
from mbv3c.door.models import bytes_of, graphs_within

MOST_ELEMENTS = 1 << 29  # of one tensor: 2 GiB of fp32
_MOST_FOLDED = 1 << 30  # bytes that nodes on constants alone may make, all together
_MOST_TURNS = 1 << 20  # of a loop that nothing ends but its count
_MOST_DIMENSIONS = 32
_DEFAULT = ("", "ai.onnx")

# Which input of an operator says the shape of its output, or something for each of its axes.
_SIZES = {
    "Reshape": (1,),
    "Expand": (1,),
    "ConstantOfShape": (0,),
    "Tile": (1,),
    "Resize": (2, 3),
    "Upsample": (1,),
    "Slice": (1, 2, 3, 4),
    "Unsqueeze": (1,),
    "Squeeze": (1,),
    "Pad": (1,),
}
_WHOLE_SHAPES = ("Reshape", "Expand", "ConstantOfShape")

_Constants = Mapping[str, onnx.TensorProto]


def check_growth(model: onnx.ModelProto) -> None:
    """Refuse a model whose constants ask for more than a network for an edge device needs.

    Raises:
        Refused: a tensor, a loop or all that is constant grows too large; the message says which.
    """
    constants = {
        name: tensor for graph in graphs_within(model) for name, tensor in _constants_of(graph)
    }
    for graph in graphs_within(model):
        for node in graph.node:
            if node.domain in _DEFAULT:
                _check_node(node, constants)
    for value in model.graph.input:
        _check_elements(value, f"the input {value.name[:200]!r}")
    _check_inferred(model)


def _check_node(node: onnx.NodeProto, constants: _Constants) -> None:
    name = (node.name or node.output[0])[:200]
    for place in _SIZES.get(node.op_type, ()):
        stored = constants.get(node.input[place]) if place < len(node.input) else None
        if stored is None:
            continue
        if prod(stored.dims) > 2 * _MOST_DIMENSIONS:
            raise Refused(f"{node.op_type} {name!r} has {prod(stored.dims):,} dimensions")
        sizes = [size for size in _numbers(stored) if isinstance(size, int)]
        whole = node.op_type in _WHOLE_SHAPES
        if whole and prod(max(1, size) for size in sizes) > MOST_ELEMENTS:
            text = "x".join(map(str, sizes))
            raise Refused(f"{node.op_type} {name!r} makes a tensor of {text}, which is too large")
    if node.op_type == "Range":
        ends = [_number(constants.get(each)) for each in node.input]
        if len(ends) == 3 and None not in ends:
            first, end, step = ends
            if not step or (end - first) / step > MOST_ELEMENTS:
                raise Refused(f"Range {name!r} counts from {first} to {end} by {step}")
    if node.op_type == "Loop" and node.input:
        _check_loop(node, name, constants)


def _check_loop(node: onnx.NodeProto, name: str, constants: _Constants) -> None:
    times = _number(constants.get(node.input[0]))
    if node.input[0] and (times is None or times <= _MOST_TURNS):
        return
    for attribute in node.attribute:
        if attribute.name == "body" and never_ends(attribute.g):
            turns = "without an end" if times is None else f"{times:,} times"
            raise Refused(f"Loop {name!r} turns {turns}, and its body never ends it")


def never_ends(body: onnx.GraphProto) -> bool:
    """Say whether a loop's body gives back its condition, or a constant that is true."""
    if len(body.input) < 2 or not body.output:
        return False
    given, result = body.input[1].name, body.output[0].name
    made_from = {
        node.output[0]: node.input[0]
        for node in body.node
        if node.op_type in ("Identity", "Cast") and node.input
    }
    passed = set[str]()
    while result in made_from and result != given and result not in passed:
        passed.add(result)
        result = made_from[result]
    constant = dict(_constants_of(body)).get(result)
    return result == given or (constant is not None and bool(all(_numbers(constant))))


def _constants_of(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in _DEFAULT:
            (attribute,) = node.attribute
            if attribute.name == "value":
                yield node.output[0], attribute.t
            elif attribute.name in ("value_int", "value_ints"):
                values = np.array([attribute.i, *attribute.ints][attribute.name[-1] == "s" :])
                yield node.output[0], numpy_helper.from_array(values)


def _number(tensor: onnx.TensorProto | None) -> Any:
    """Return the only number of a tensor; None where it is none."""
    numbers = _numbers(tensor) if tensor is not None and prod(tensor.dims) == 1 else []
    return numbers[0] if numbers else None


def _numbers(tensor: onnx.TensorProto) -> list[Any]:
    """Return the numbers of a tensor in one dimension; none of text, or of another file."""
    if tensor.data_type == onnx.TensorProto.STRING or uses_external_data(tensor):
        return []
    numbers: list[Any] = np.ravel(numpy_helper.to_array(tensor)).tolist()
    return numbers


def _check_inferred(model: onnx.ModelProto) -> None:
    """Look at the shapes that follow from the graph, of which a model with errors has none."""
    try:
        inferred = shape_inference.infer_shapes(model).graph
    except (
        shape_inference.InferenceError,
        onnx.checker.ValidationError,
        ValueError,
        RuntimeError,
    ):
        return  # the checker says what is wrong
    sizes: dict[str, int] = {}
    for value in (*inferred.value_info, *inferred.output):
        sizes[value.name] = _check_elements(value, f"the tensor {value.name[:200]!r}")
    constant = {tensor.name for tensor in model.graph.initializer}
    folded = 0
    for node in model.graph.node:
        if node.op_type == "Constant" or not constant.issuperset(filter(None, node.input)):
            continue
        if any(attribute.HasField("g") for attribute in node.attribute):
            continue
        constant.update(node.output)
        folded += sum(sizes.get(name, 0) for name in node.output)
    if folded > _MOST_FOLDED:
        raise Refused(
            f"what its nodes make of constants alone takes {folded >> 20:,} MiB, and "
            f"{_MOST_FOLDED >> 20:,} are the most"
        )


def _check_elements(value: onnx.ValueInfoProto, what: str) -> int:
    """Return the bytes of a tensor; 0 where they are not known."""
    kind = value.type.tensor_type
    sizes = [dim.dim_value for dim in kind.shape.dim if dim.HasField("dim_value")]
    if len(kind.shape.dim) > _MOST_DIMENSIONS:
        raise Refused(f"{what} has {len(kind.shape.dim)} dimensions")
    if prod(max(size, 1) for size in sizes) > MOST_ELEMENTS:
        text = "x".join(map(str, sizes))
        raise Refused(f"{what} has {text} elements, which is more than fits in memory")
    if len(sizes) < len(kind.shape.dim) or min(sizes, default=0) < 0:
        return 0
    return bytes_of(onnx.TensorProto(dims=sizes, data_type=kind.elem_type))
