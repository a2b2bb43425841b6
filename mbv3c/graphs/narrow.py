"""Round the weights of dense layers to what is stored: bf16, or int8 with a scale per output.

    Gemm(x, w)   ⇒   Gemm(x, w as bf16 holds it, in fp32)

A dense layer has one row of sums for every image: a classifier's Gemm, or a 1x1 convolution of a
1x1 image, as both layers of squeeze-and-excitation are. Nothing else there uses a weight twice, so
that reading the weights takes longer than computing with them.

The arithmetic stays fp32, and so do the numbers in the graph: they are those that the narrow type
holds. What onnxruntime makes of the graph is what the kernels must make.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from mbv3c.errors import ModelError

Stored = Literal["", "bf16", "int8"]  # "" stands for the type of all other weights
AS_BF16: Stored = "bf16"
AS_INT8: Stored = "int8"
STORED: tuple[Stored, ...] = (AS_BF16, AS_INT8)

_MOST = 127  # int8 without -128: as far below 0 as above
_LEAST_SCALE = np.float32(2.0**-100)  # which kernels divide by 2^24; smaller weights are 0
_LAYERS = ("Conv", "Gemm", "MatMul")
_IMAGE_RANK, _MATRIX_RANK = 4, 2


def to_bf16(weights: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper 16 bits of fp32, rounded to the nearest, ties to even; of equal shape."""
    return weights.astype(ml_dtypes.bfloat16).view(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return what the upper 16 bits of fp32 stand for."""
    widened: NDArray[np.float32] = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    return widened


def to_int8(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return weights [N, K] as integers of -127 to 127, and the scale [N] of every output.

    An integer times its output's scale is the weight, but for half of a scale at most.
    """
    largest = np.abs(weights).max(axis=1, initial=0.0)
    scales = np.where(largest > 0, largest / np.float32(_MOST), np.float32(1)).astype(np.float32)
    scales = np.maximum(scales, _LEAST_SCALE)
    integers = np.rint(weights.astype(np.float64) / scales[:, None])
    return np.clip(integers, -_MOST, _MOST).astype(np.int8), scales


def as_stored(weights: NDArray[np.float32], stored: str) -> NDArray[np.float32]:
    """Return what weights [N, K] become, in fp32; `stored` is one of `STORED`."""
    if stored == AS_BF16:
        return from_bf16(to_bf16(weights))
    integers, scales = to_int8(weights)
    return integers.astype(np.float32) * scales[:, None]


@dataclass(frozen=True)
class DenseLayer:
    """A dense layer.

    Attributes:
        node: the Conv, Gemm or MatMul.
        outputs_last: whether its weights are [K, N]; else they are [N, K] or [N, K, 1, 1].
    """

    node: onnx.NodeProto
    outputs_last: bool


def dense_layers(model: onnx.ModelProto) -> list[DenseLayer]:
    """Return the dense layers of a rewritten graph with fixed shapes whose weights are stored."""
    graph = shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    stored = {
        tensor.name: tuple(tensor.dims)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    fed = [value.name for value in graph.input if value.name not in stored]
    images = next((shapes[name][0] for name in fed if shapes.get(name)), 0)
    found = []
    for node in model.graph.node:
        weights = stored.get(node.input[1], ()) if node.op_type in _LAYERS else ()
        made, read = shapes.get(node.output[0], ()), shapes.get(node.input[0], ())
        layer = _layer(node, weights)
        if layer is None or not made or not read:
            continue
        outputs = weights[1] if layer.outputs_last else weights[0]
        if prod(made) == images * outputs and prod(read) == images * (prod(weights) // outputs):
            found.append(layer)
    return found


def _layer(node: onnx.NodeProto, weights: tuple[int, ...]) -> DenseLayer | None:
    """Return a node as a layer, if its weights are those of one without windows or groups."""
    if not all(weights):
        return None
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "Conv":
        plain = len(weights) == _IMAGE_RANK and weights[2:] == (1, 1)
        return DenseLayer(node, False) if plain and given.get("group", 1) == 1 else None
    if len(weights) != _MATRIX_RANK:
        return None
    return DenseLayer(node, node.op_type == "MatMul" or not given.get("transB", 0))


def narrowed(model: onnx.ModelProto, stored: str) -> onnx.ModelProto:
    """Return a rewritten graph whose dense layers have weights as `stored`, of `STORED`, holds.

    Weights that other nodes use, too, are stored twice.

    Raises:
        ModelError: no layer is dense, or `stored` cannot hold a weight.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    layers = dense_layers(made)
    if not layers:
        raise ModelError(
            "--dense-weights finds no dense layer, a classifier or a squeeze-and-excitation "
            "branch whose weights are stored in the model: leave it out"
        )
    tensors = {tensor.name: tensor for tensor in made.graph.initializer}
    taken = {*tensors, *(name for node in made.graph.node for name in (*node.input, *node.output))}
    for layer in layers:
        name = layer.node.input[1]
        array = numpy_helper.to_array(tensors[name])
        rows = array.T if layer.outputs_last else array.reshape(len(array), -1)
        with np.errstate(over="ignore"):
            kept = as_stored(rows, stored)
        if not np.isfinite(kept).all():
            raise ModelError(
                f"{layer.node.name or layer.node.output[0]!r} has weights beyond what {stored} "
                "holds; leave --dense-weights out"
            )
        kept = np.ascontiguousarray(kept.T if layer.outputs_last else kept).reshape(array.shape)
        own = f"{name}.{stored}"
        while own in taken:
            own += "'"
        taken.add(own)
        made.graph.initializer.append(numpy_helper.from_array(kept, own))
        layer.node.input[1] = own
    used = {name for node in made.graph.node for name in node.input}
    used |= {value.name for value in made.graph.output}
    left = [tensor for tensor in made.graph.initializer if tensor.name in used]
    del made.graph.initializer[:]
    made.graph.initializer.extend(left)
    return made
