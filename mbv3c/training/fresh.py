"""Fresh weights to begin training with, and a fresh last layer for other classes."""

import json
import zlib
from math import prod, sqrt

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mbv3c.errors import UsageError
from mbv3c.graphs.outputs import CLASS_NAMES, metadata_of, with_metadata
from mbv3c.training.classifier import classes_in
from mbv3c.training.trainable import Kind, Trainable, with_weights

_CONSTANT: dict[Kind, float] = {"bias": 0, "mean": 0, "scale": 1, "variance": 1}
_PASSED = ("Softmax", "Identity", "Flatten", "Squeeze", "Reshape")
_HEADS = {"Gemm": 0, "Conv": 0, "MatMul": 1}  # operator: the axis of the classes in its weights


def is_made_up(model: onnx.ModelProto) -> bool:
    """Say whether a model's weights are those that `build` makes up for parity."""
    return "mbv3c.seed" in metadata_of(model)


def fresh_weights(made: Trainable, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return weights to begin training with.

    Kernels and matrices are normally distributed with the variance 2 / fan-in (He et al.,
    arXiv:1502.01852), and what is behind them begins as if it were not there.

    Args:
        made: the model.
        seed: seed of the numbers, which depend on the tensors' names, too.
    """
    transposed = {
        node.input[1]
        for node in made.graph.node
        if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    }
    weights = {}
    for tensor in made.model.graph.initializer:
        kind = made.kinds.get(tensor.name)
        if kind in _CONSTANT:
            weights[tensor.name] = np.full(tuple(tensor.dims), _CONSTANT[kind], np.float32)
        elif kind in ("kernel", "matrix"):
            shape = tuple(tensor.dims)
            first = kind == "matrix" and tensor.name not in transposed
            fan_in = prod(shape[:-1] if first else shape[1:])
            rng = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
            spread = np.float32(sqrt(2 / fan_in))
            weights[tensor.name] = rng.standard_normal(shape, np.float32) * spread
    return weights


def with_new_head(model: onnx.ModelProto, classes: int, seed: int = 0) -> onnx.ModelProto:
    """Return a classifier whose last layer is another one, for other classes.

    Args:
        model: a classifier, with other weights in all other layers.
        classes: number of classes.
        seed: seed of the layer's weights.

    Raises:
        UsageError: the model does not end with a layer that can be replaced.
    """
    old = classes_in(model).count
    changed = with_metadata(model, dict.fromkeys(CLASS_NAMES, ""))
    graph = changed.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    weight, bias, axis = _last_layer(graph, set(stored), old)
    shape = list(stored[weight].dims)
    shape[axis] = classes
    rng = np.random.default_rng([seed, zlib.crc32(weight.encode())])
    fan_in = prod(shape) // classes
    value = rng.standard_normal(shape, np.float32) * np.float32(sqrt(1 / fan_in))
    stored[weight].CopyFrom(numpy_helper.from_array(value, weight))
    if bias:
        stored[bias].CopyFrom(numpy_helper.from_array(np.zeros(classes, np.float32), bias))
    _say_shape(graph.output[0], old, classes)
    del graph.value_info[:]
    entries = metadata_of(changed)
    if "mbv3c.classes" in entries:
        changed = with_metadata(changed, {"mbv3c.classes": json.dumps(classes)})
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _last_layer(graph: onnx.GraphProto, stored: set[str], classes: int) -> tuple[str, str, int]:
    """Return the names of the last layer's weights and bias (or ""), and the axis of classes."""
    makers = {output: node for node in graph.node for output in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _PASSED:
        node = makers.get(node.input[0])
    bias = ""
    if node is not None and node.op_type == "Add":
        added = [name for name in node.input if name in stored]
        maker = next((makers[name] for name in node.input if name in makers), None)
        if len(added) == 1 and maker is not None and maker.op_type == "MatMul":
            bias, node = added[0], maker
    weight = node.input[1] if node is not None and len(node.input) > 1 else ""
    if node is None or node.op_type not in _HEADS or weight not in stored:
        what = f"{node.op_type} {node.name}" if node is not None else "its input"
        raise UsageError(
            f"--new-head is for models that end with a linear layer or a convolution with stored "
            f"weights; this one ends with {what}"
        )
    if len(node.input) > 2:
        bias = node.input[2]
    axis = _HEADS[node.op_type]
    if node.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in node.attribute):
        axis = 1
    readers = sum(name in (weight, bias) for other in graph.node for name in other.input)
    sizes = next(tensor.dims for tensor in graph.initializer if tensor.name == weight)
    if readers > 1 + bool(bias) or sizes[axis] != classes or (bias and bias not in stored):
        raise UsageError(f"--new-head cannot replace {node.name}: its weights are used elsewhere")
    return weight, bias, axis


def _say_shape(output: onnx.ValueInfoProto, old: int, new: int) -> None:
    for dim in list(output.type.tensor_type.shape.dim)[1:]:
        if dim.dim_value == old:
            dim.dim_value = new
            return


def begun(made: Trainable, *, fresh: bool, seed: int) -> Trainable:
    """Return a model with fresh weights, or as it is."""
    if not fresh:
        return made
    weights = fresh_weights(made, seed)
    model = with_weights(made.model, weights)
    rewritten = onnx.ModelProto(graph=made.graph)
    graph = with_weights(rewritten, weights).graph
    return Trainable(model, graph, made.kinds, made.scores, made.normalized)
