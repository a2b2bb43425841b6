"""Give a model another batch size: what `--batch` does to a user's own model.

Most operators work with any batch. Those that hold the batch as a number are changed:

    Reshape(x, [1, -1])           ⇒   Reshape(x, [0, -1])           0: as many as x has
    Resize(x, sizes=[1, C, H, W]) ⇒   Resize(x, sizes=[N, C, H, W])

Both changes are sound if the operator keeps every image in a row of its own: the batch comes
first, and input and output have equally many elements per image. If anything else loses the batch,
that is an error that names the node.
"""

from collections.abc import Sequence
from itertools import count
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, shape_inference

from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.skeleton import constant_tensors

# A batch that no other dimension has (it is prime), to see in inferred shapes where the batch is.
_PROBE = 9973
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

Array = NDArray[np.int64]
Shape = tuple[int, ...]

# Which input of an operator says the shape of its output.
_SHAPE_INPUTS = {"Reshape": 1, "Resize": 3}
_PROBED = ".new_batch"


def set_batch(
    model: onnx.ModelProto,
    value: onnx.ValueInfoProto,
    batch: int,
    input_shape: Sequence[int] | None,
) -> Sequence[int] | None:
    """Prepare a model, in place, for another batch, and return the shape to give its input.

    `value` is the model's input. `input_shape` is returned as it came if the model has this batch
    already, or if other dimensions are dynamic and `input_shape` does not fix them.

    Raises:
        UsageError: there can be no such batch.
        ModelError: a node has another batch built in; the message names the node.
    """
    dims = value.type.tensor_type.shape.dim
    if batch < 1:
        raise UsageError(f"--batch {batch}: a batch holds at least one image")
    if not dims:
        raise UsageError(f"--batch {batch}: input {value.name!r} has no dimensions")
    if input_shape is not None and input_shape[0] != batch:
        shown = ",".join(map(str, input_shape))
        raise UsageError(f"--batch {batch} contradicts --input-shape {shown}; give one of them")
    old = dims[0].dim_value or None
    if old == batch:
        return input_shape
    shape = [batch, *(input_shape or [dim.dim_value for dim in dims])[1:]]
    if len(shape) != len(dims) or not all(shape):
        dims[0].dim_value = batch
        return input_shape
    for dim, size in zip(dims, [_PROBE, *shape[1:]], strict=True):
        dim.dim_value = size
    forget_shapes(model.graph)
    _rewrite(model, old, batch)
    _check_outputs(model, batch)
    for tensor in model.graph.initializer:
        if _PROBED in tensor.name:
            sizes = numpy_helper.to_array(tensor).copy()
            sizes[sizes == _PROBE] = batch
            tensor.CopyFrom(numpy_helper.from_array(sizes, tensor.name))
    dims[0].dim_value = batch
    return shape


def forget_shapes(graph: onnx.GraphProto) -> None:
    """Remove, in place, the shapes that were inferred from another shape of the input."""
    del graph.value_info[:]
    for output in graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()


def _rewrite(model: onnx.ModelProto, old: int | None, batch: int) -> None:
    """Take the batch out of Reshapes, and put the probe into the sizes of Resizes."""
    constants = {
        name: numpy_helper.to_array(tensor)
        for name, tensor in constant_tensors(model.graph).items()
        if tensor.data_type == TensorProto.INT64
    }
    shapes, _ = _infer(model)
    for node in model.graph.node:
        position = _SHAPE_INPUTS.get(node.op_type, len(node.input))
        target = constants.get(node.input[position]) if position < len(node.input) else None
        if target is None or target.size == 0:
            continue
        source = shapes.get(node.input[0])
        if node.op_type == "Resize":
            new = _resized(node, source, target, old)
        else:
            new = _reshaped(source, target, old)
        if new is None:
            was = "a dynamic batch" if old is None else f"batch {old}"
            raise ModelError(
                f"--batch {batch} is not possible: node {_name(node)} ({node.op_type}) has the "
                f"shape {target.tolist()} built in, in a model with {was}, and which number of it "
                f"is the batch is not clear; export the model with batch {batch}"
            )
        if new is not target:
            node.input[position] = _stored(model.graph, node, position, new)
            # With allowzero a 0 would be no copy of the input's size.
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
            shapes, _ = _infer(model)


def _reshaped(source: Shape | None, target: Array, old: int | None) -> Array | None:
    """Return the shape operand of a Reshape for any batch, or None if there is none."""
    if -1 in target[:1] or (source is None and target[0] == 0):
        return target
    if source is None or any(size == 0 and i >= len(source) for i, size in enumerate(target)):
        return None
    sizes = [source[i] if size == 0 else int(size) for i, size in enumerate(target)]
    if not _has_batch(source) or target[0] == 0:
        # Either no batch comes here, or it is taken along.
        return target if -1 in sizes or prod(sizes) == prod(source) else None
    per_image, rest = prod(source[1:]), prod(size for size in sizes[1:] if size != -1)
    fits = per_image % rest == 0 if -1 in sizes else per_image == rest
    return np.array([0, *target[1:]], np.int64) if fits and target[0] == old else None


def _resized(
    node: onnx.NodeProto, source: Shape | None, target: Array, old: int | None
) -> Array | None:
    """Return the sizes operand of a Resize for the probe, or None if there is none."""
    if any(attribute.name == "axes" for attribute in node.attribute):
        return target
    if source is None or not _has_batch(source) or target[0] != old:
        return None
    return np.array([_PROBE, *target[1:]], np.int64)


def _check_outputs(model: onnx.ModelProto, batch: int) -> None:
    """Check that the batch arrives at the outputs, or name the node that loses it."""
    shapes, types = _infer(model)
    outputs = [output.name for output in model.graph.output]
    if all(_has_batch(shapes[name]) for name in outputs if name in shapes):
        return
    for node in model.graph.node:
        results = [name for name in node.output if name in shapes and types[name] in _FLOATS]
        arrives = any(_has_batch(shapes[name]) for name in node.input if name in shapes)
        if arrives and results and not any(_has_batch(shapes[name]) for name in results):
            raise ModelError(
                f"--batch {batch} is not possible: node {_name(node)} ({node.op_type}) does not "
                "keep the images apart"
            )
    raise ModelError(f"--batch {batch} is not possible: {outputs[0]!r} is not one row per image")


def _has_batch(shape: Shape) -> bool:
    return bool(shape) and shape[0] == _PROBE


def _infer(model: onnx.ModelProto) -> tuple[dict[str, Shape], dict[str, int]]:
    """Return the shapes that are fully known, and all element types."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes, types = {}, {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        dims = tuple(dim.dim_value for dim in tensor.shape.dim)
        if tensor.HasField("shape") and all(dims):
            shapes[value.name] = dims
    return shapes, types


def _stored(graph: onnx.GraphProto, node: onnx.NodeProto, position: int, array: Array) -> str:
    """Store another shape for a node and return the name it got."""
    taken = {tensor.name for tensor in graph.initializer}
    taken |= {name for other in graph.node for name in other.output}
    ending = _PROBED if node.op_type == "Resize" else ".any_batch"
    names = (f"{node.input[position]}{'.' * i}{ending}" for i in count())
    name = next(name for name in names if name not in taken)
    graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def _name(node: onnx.NodeProto) -> str:
    return repr(node.name or f"→ {node.output[0]}")
