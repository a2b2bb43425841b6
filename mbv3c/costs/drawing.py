"""Draw the weights of a network whose costs are asked for: they need not be trained."""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbv3c.graphs.channel_groups import drawn_weights

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_STATISTICS = {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0}  # of BatchNormalization, by input


def drawn(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with weights that are drawn by the names of the tensors.

    So networks of one form get equal weights, whatever they were trained on. Statistics of
    BatchNormalization are those of numbers that were normalised before.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    made = dict(_roles(copy.graph))
    for tensor in copy.graph.initializer:
        if tensor.name in made:
            value, dtype = made[tensor.name], helper.tensor_dtype_to_np_dtype(tensor.data_type)
            array = _random(tensor) if value is None else np.full(tuple(tensor.dims), value)
            tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype), tensor.name))
    return copy


def _roles(graph: onnx.GraphProto) -> Iterator[tuple[str, float | None]]:
    """Yield the tensors that get other numbers: all of a value, or None to be drawn."""
    floats = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }
    for node in graph.node:
        if node.op_type in _PRODUCTS and len(node.input) > 1 and node.input[1] in floats:
            yield node.input[1], None
        elif node.op_type == "BatchNormalization":
            for at, value in _STATISTICS.items():
                if node.input[at] in floats:
                    yield node.input[at], value


def _random(tensor: onnx.TensorProto) -> NDArray[Any]:
    shape = tuple(tensor.dims)
    scaled: NDArray[Any] = np.sqrt(2 / max(1, prod(shape[1:]))) * drawn_weights(tensor.name, shape)
    return scaled
