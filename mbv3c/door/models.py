"""ONNX models: what a file says of itself is checked before anything is done with it.

The checks take time and memory with the size of the file, whatever stands in it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_model,
    uses_external_data,
)

from mbv3c.door.files import Refused, plain_file
from mbv3c.door.wire import LONGEST_NAME, check_wire

# Protobuf's limit, less what inferred shapes and changed names may add.
MOST_MODEL = 2**31 - 2**24  # bytes
MOST_NODES = 40_000  # rewriting takes about 2 ms for each, and 15 KiB
_MOST_CALLS = 1000  # of functions in each other
_MOST_WRITTEN = 100_000  # of a model that has been rewritten
_FAR_TOO_MANY = 10**12
_MOST_DIMENSIONS = 32
_GIB = 2**30

Nodes = Iterable[onnx.NodeProto]
Attributes = Iterable[onnx.AttributeProto]
Dims = Sequence[int]
Called = tuple[str, str, str]  # a function's domain, name and overload

_FIELDS_OF = {
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
}


def read_written(path: Path) -> onnx.ModelProto:
    """Read a model that mbv3c is said to have written, in one file.

    It may have more nodes and longer names than the one that was given.

    Raises:
        OSError: the file cannot be read.
        Refused: as `parse_model` and `check_model` say, or it has no nodes.
    """
    model = parse_model(path, 2 * LONGEST_NAME)
    check_model(model, _MOST_WRITTEN)
    if not model.graph.node or any(map(uses_external_data, _tensors(model))):
        raise Refused("it is no model that mbv3c has written")
    return model


def parse_model(path: Path, longest: int = LONGEST_NAME) -> onnx.ModelProto:
    """Read the file of a model, without the files of its weights.

    Raises:
        OSError: the file cannot be read.
        Refused: it is larger than ONNX's tools take, or none of ONNX.
    """
    with plain_file(path, MOST_MODEL) as file:
        if not file.seek(0, 2):
            return onnx.ModelProto()
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            check_wire(data, longest)
            try:
                model: onnx.ModelProto = onnx.ModelProto.FromString(data[:])
            except DecodeError as error:
                raise Refused(str(error)) from error
    return model


def check_model(model: onnx.ModelProto, most_nodes: int = MOST_NODES) -> None:
    """Make sure that a model is one that code can walk over.

    Raises:
        Refused: it names no opset, its functions expand to too much, call themselves, or are
            called with more than they take or give, a tensor holds something else than its shape
            and type say, or a node computes nothing or misses what it holds.
    """
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    newest = onnx.defs.onnx_opset_version()
    if not opsets:
        raise Refused("it does not say which opset of ONNX it is in")
    if not 0 < min(opsets) <= max(opsets) <= newest:
        raise Refused(f"it is in opset {max(opsets)}, and ONNX has 1 to {newest}")
    _check_expansion(model, most_nodes)
    _check_calls(model)
    for graph in graphs_within(model):
        for tensor in graph.initializer:
            _check_tensor(tensor)
        for sparse in graph.sparse_initializer:
            _check_sparse(sparse)
        _check_nodes(graph.node)
    for function in model.functions:
        _check_nodes(function.node)
        _check_attributes(function.name, function.attribute_proto)


def graphs_within(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph of a model and every graph that a node holds, also in functions."""
    waiting = [model.graph]
    for function in model.functions:
        waiting += _inner(function.node)
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += _inner(graph.node)


def _inner(nodes: Nodes) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _check_nodes(nodes: Nodes) -> None:
    for node in nodes:
        if not node.output:
            raise Refused(f"the node {node.name[:200]!r} ({node.op_type[:200]}) gives nothing")
        constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx")
        if constant and (len(node.attribute) != 1 or node.input):
            raise Refused(f"the Constant {node.output[0][:200]!r} has not one value")
        if node.attribute:
            _check_attributes(node.name or node.output[0], node.attribute)
        if node.op_type in ("If", "Loop") and node.domain in ("", "ai.onnx"):
            _check_control_flow(node)


def _check_control_flow(node: onnx.NodeProto) -> None:
    """Make sure that the graphs of an If or a Loop take and give what the node does."""
    graphs = {one.name: one.g for one in node.attribute if one.HasField("g")}
    gives = len(node.output)
    if node.op_type == "If":
        branches = [graphs.get(name) for name in ("then_branch", "else_branch")]
        fits = bool(node.input) and all(one and len(one.output) == gives for one in branches)
    else:
        body, takes = graphs.get("body"), max(2, len(node.input))
        fits = body is not None and len(body.input) == takes
        fits = fits and body is not None and len(body.output) == 1 + gives >= takes - 1
    if not fits:
        what = f"the {node.op_type} {node.name or node.output[0]!r}"[:300]
        raise Refused(f"{what} has no graphs that take and give what it does")


def _check_attributes(owner: str, attributes: Attributes) -> None:
    for attribute in attributes:
        wanted = _FIELDS_OF.get(attribute.type)
        if wanted is not None and not (attribute.HasField(wanted) or attribute.ref_attr_name):
            raise Refused(
                f"the attribute {attribute.name[:200]!r} of {owner[:200]!r} says that it holds a "
                f"{AttributeProto.AttributeType.Name(attribute.type).lower()}, and holds none"
            )
        if attribute.HasField("t"):
            _check_tensor(attribute.t)
        if attribute.HasField("sparse_tensor"):
            _check_sparse(attribute.sparse_tensor)
        for tensor in attribute.tensors:
            _check_tensor(tensor)
        for sparse in attribute.sparse_tensors:
            _check_sparse(sparse)


def _check_expansion(model: onnx.ModelProto, most: int) -> None:
    """Count the nodes that come of a model when all calls of its functions are written out."""
    bodies = {(f.domain, f.name, f.overload): f.node for f in model.functions}
    counts: dict[Called, int] = {}
    depths: dict[Called, int] = {}
    # A function is counted when those that it calls have been.
    waiting = [(key, False) for key in bodies]
    open_calls: set[Called] = set()
    while waiting:
        key, called_are_known = waiting.pop()
        if key in counts:
            continue
        if called_are_known:
            open_calls.discard(key)
            counts[key] = _count(bodies[key], counts)
            below = (depths.get(called, 0) for called in _calls(bodies[key]))
            depths[key] = 1 + max(below, default=0)
            if depths[key] > _MOST_CALLS:
                raise Refused(f"its functions call each other more than {_MOST_CALLS} deep")
            continue
        open_calls.add(key)
        waiting.append((key, True))
        for called in _calls(bodies[key]):
            if called in open_calls:
                raise Refused(f"its function {called[1][:200]!r} calls itself")
            if called in bodies:
                waiting.append((called, False))
    total = _count(model.graph.node, counts)
    if total > most:
        raise Refused(
            f"it has {total:,} nodes, with those of its functions at every call, and "
            f"{most:,} are the most that mbv3c takes: networks for edge devices have some "
            "hundreds"
        )


def _check_calls(model: onnx.ModelProto) -> None:
    """Make sure that no function is called with more inputs or outputs than it has."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in _every(nodes):
            called = functions.get(_called(node))
            if called is None:
                continue
            asked, known = ((len(one.input), len(one.output)) for one in (node, called))
            if asked[0] > known[0] or asked[1] > known[1]:
                raise Refused(
                    f"the function {called.name[:200]!r} has {known[0]} inputs and {known[1]} "
                    f"outputs, and is called with {asked[0]} and {asked[1]}"
                )


def _every(nodes: Nodes) -> Iterator[onnx.NodeProto]:
    waiting = [nodes]
    while waiting:
        for node in waiting.pop():
            yield node
            waiting += [graph.node for graph in _inner([node])]


def _called(node: onnx.NodeProto) -> Called:
    return node.domain, node.op_type, node.overload


def _calls(nodes: Nodes) -> set[Called]:
    return {_called(node) for node in _every(nodes)}


def _count(nodes: Nodes, counts: Mapping[Called, int]) -> int:
    """Count nodes with those of the functions that they call, up to a number beyond all limits."""
    return min(_FAR_TOO_MANY, sum(1 + counts.get(_called(node), 0) for node in _every(nodes)))


def _check_sparse(sparse: onnx.SparseTensorProto) -> None:
    _check_tensor(sparse.values)
    _check_tensor(sparse.indices)
    size = _elements(sparse.dims, sparse.values.name)
    if size * 8 > MOST_MODEL:
        raise Refused(f"the sparse tensor {sparse.values.name[:200]!r} fills {size:,} elements")
    if uses_external_data(sparse.values) or uses_external_data(sparse.indices):
        raise Refused(f"the sparse tensor {sparse.values.name[:200]!r} lies in another file")
    places = numpy_helper.to_array(sparse.indices)
    ends = np.array(size if places.ndim < 2 else sparse.dims, np.int64)
    count = places.shape[0] if places.ndim else -1
    shaped = places.ndim == 1 or places.shape[1:] == (len(sparse.dims),)
    if (
        places.dtype != np.int64
        or not shaped
        or [count] != list(sparse.values.dims)
        or not ((places >= 0) & (places < ends)).all()
    ):
        raise Refused(f"the sparse tensor {sparse.values.name[:200]!r} has values without a place")


def _check_tensor(tensor: onnx.TensorProto) -> None:
    """Make sure that a tensor holds what its shape and type say."""
    name = tensor.name[:200]
    size = _elements(tensor.dims, name)
    if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
        raise Refused(f"the tensor {name!r} is of an unknown type ({tensor.data_type})")
    if tensor.HasField("segment"):
        raise Refused(f"the tensor {name!r} is a part of one, which no tool reads")
    if uses_external_data(tensor):
        return
    if tensor.data_type == TensorProto.STRING:
        holds, unit = len(tensor.string_data), "texts"
        wanted = size
    elif tensor.HasField("raw_data"):
        holds, wanted, unit = len(tensor.raw_data), bytes_of(tensor), "bytes"
    else:
        holds, unit = len(getattr(tensor, _storage(tensor.data_type))), "numbers"
        wanted = _stored_numbers(tensor.data_type, size)
    if holds != wanted:
        raise Refused(
            f"the tensor {name!r} of shape {list(tensor.dims)} takes {wanted:,} {unit}, and "
            f"{holds:,} are there"
        )


def _elements(dims: Dims, name: str) -> int:
    if len(dims) > _MOST_DIMENSIONS or min(dims, default=0) < 0:
        raise Refused(f"the shape of the tensor {name[:200]!r} is none: {list(dims[:40])}")
    return prod(dims)


_BITS: dict[int, int] = {
    kind: int(bits)
    for names, bits in (
        (("FLOAT4E2M1", "INT4", "UINT4"), 4),
        (("INT2", "UINT2"), 2),
    )
    for kind in (getattr(TensorProto, name, None) for name in names)
    if kind is not None
}


def bytes_of(tensor: onnx.TensorProto) -> int:
    """Return the bytes that a tensor's shape and type ask for; 0 for text."""
    size: int = prod(tensor.dims)
    kind = tensor.data_type
    if kind in _BITS:
        return -(-size * _BITS[kind] // 8)
    try:
        return size * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, TypeError):  # no type of numbers
        return 0


def _storage(kind: int) -> str:
    field: str = helper.tensor_dtype_to_field(kind)
    return field


def _stored_numbers(kind: int, size: int) -> int:
    if kind in _BITS:
        return -(-size * _BITS[kind] // 8)
    return 2 * size if kind in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else size


def load_outside(model: onnx.ModelProto, path: Path) -> None:
    """Read the weights that lie in other files than the model's, in its folder or below.

    Raises:
        Refused: a file is missing, no plain file, elsewhere, or cut short.
    """
    outside = [tensor for tensor in _tensors(model) if uses_external_data(tensor)]
    if not outside:
        return
    size = path.stat().st_size + sum(map(bytes_of, outside))
    if size > MOST_MODEL:
        raise Refused(
            f"with the files of its weights, it holds {size / _GIB:.1f} GiB, and ONNX's tools "
            "take 2 GiB at most"
        )
    missing = dict.fromkeys(
        f"{path.parent / place} ({trouble})"
        for tensor in outside
        for place, trouble in _trouble(tensor, path.parent)
    )
    if missing:
        raise Refused(
            f"its weights lie in files beside it: {', '.join([*missing][:5])}; put them there"
        )
    try:
        load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise Refused(f"the files of its weights cannot be read: {error}") from error


def _trouble(tensor: onnx.TensorProto, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the file of a tensor, if anything."""
    try:
        info = ExternalDataInfo(tensor)
        offset, length = info.offset or 0, info.length
    except (ValueError, TypeError):
        yield "?", "it is not said where in the file they are"
        return
    place = str(info.location)
    pure = PurePosixPath(place)
    if not place or "\0" in place or pure.is_absolute() or ".." in pure.parts:
        yield place[:200], "which is not below the model's folder"
        return
    file = folder / place
    if not file.is_file():
        yield place, "no plain file" if file.exists() else "missing"
    elif folder.resolve() not in file.resolve().parents:
        yield place, "a link out of the model's folder"
    elif offset < 0 or (length or 0) < 0 or _end(tensor, offset, length) > file.stat().st_size:
        yield place, "cut short"


def _end(tensor: onnx.TensorProto, offset: int, length: int | None) -> int:
    return offset + (bytes_of(tensor) if length is None else length)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    bodies = [function.node for function in model.functions]
    for graph in graphs_within(model):
        yield from graph.initializer
        bodies.append(graph.node)
    for nodes in bodies:
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
