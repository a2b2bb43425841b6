"""Which numbers a model takes as pixels, read off its first operators.

    x → Mul(1/127.5) → Add(−1) → Conv …            pixels from 0 to 255 (Keras' Rescaling)
    x → Div(255) → Sub(mean) → Div(std) → Conv …   pixels from 0 to 255
    x → Sub(mean) → Div(std) → Conv …              pixels from 0 to 1, if the mean is one of those
    x → Conv …                                     numbers that were normalised before

A model that normalises its input must not be given normalised numbers: it would normalise them
once more, and every picture would look alike to it.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mbv3c.graphs.constants import constants_of
from mbv3c.graphs.load import model_inputs

_Numbers = NDArray[np.float64]

_PASSING_ON = (
    "Cast",
    "DequantizeLinear",
    "Dropout",
    "Identity",
    "QuantizeLinear",
    "Transpose",
)
# Normalised pixels have a standard deviation of about 1. Those from 0 to 255 are divided by 50 to
# 130 for that, those from 0 to 1 by 0.2 to 0.5.
_LARGE = 16.0
_MOST_CHANNELS = 4


FRAME = "mbv3c.frame"  # metadata of a model that takes frames of a camera, as docs/frames.md says

_BYTES = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)


def takes_pixels(model: onnx.ModelProto) -> bool:
    """Say whether an input of a model holds bytes: the pixels of a frame."""
    return any(value.type.tensor_type.elem_type in _BYTES for value in model_inputs(model))


def pixel_top(model: onnx.ModelProto, value: onnx.ValueInfoProto | None = None) -> float | None:
    """Return the value of a white pixel, 255 or 1; None if the model takes normalised numbers.

    `value` says which input is meant, by default the first one. Pixels of an input of int8 are
    128 less.
    """
    value = model_inputs(model)[0] if value is None else value
    if value.type.tensor_type.elem_type in _BYTES:
        return 255.0
    scale, shift = _line(model, value.name)
    if scale is None or not scale.all() or (np.all(scale == 1) and not shift.any()):
        return None
    spread, middle = np.median(1 / np.abs(scale)), np.median(np.abs(shift / scale))
    return 255.0 if max(spread, middle) > _LARGE else 1.0


def _line(model: onnx.ModelProto, start: str) -> tuple[_Numbers | None, _Numbers]:
    """Return the input's first steps as scale · x + shift; scale is None if there are none."""
    constants = constants_of(model.graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    scale, shift, found = np.ones(1), np.zeros(1), False
    for node, x in _first_nodes(start, readers):
        if node.op_type in _PASSING_ON:
            continue
        number = _other(node, x, constants)
        if number is None:
            break
        if number.size > 1 and scale.size > 1 and number.size != scale.size:
            break  # along another axis
        before = node.input[0] == x
        if node.op_type == "Mul":
            scale, shift = scale * number, shift * number
        elif node.op_type == "Div" and before and number.all():
            scale, shift = scale / number, shift / number
        elif node.op_type == "Add":
            shift = shift + number
        elif node.op_type == "Sub":
            scale, shift = (scale, shift - number) if before else (-scale, number - shift)
        else:
            break
        found = True
    return (scale if found else None), shift


def _first_nodes(
    x: str, readers: Mapping[str, list[onnx.NodeProto]]
) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Follow a tensor as long as one node reads it and makes one output; with what is read."""
    while len(readers.get(x, ())) == 1:
        (node,) = readers[x]
        yield node, x
        x = node.output[0]


def _other(
    node: onnx.NodeProto, x: str, constants: Mapping[str, onnx.TensorProto]
) -> _Numbers | None:
    """Return the constant beside x, flat: one number, or one per channel."""
    others = [name for name in node.input if name != x]
    if len(node.input) != 2 or len(others) != 1 or others[0] not in constants:
        return None
    numbers = numpy_helper.to_array(constants[others[0]]).astype(np.float64)
    if numbers.size > _MOST_CHANNELS or numbers.size != max(numbers.shape, default=1):
        return np.array([numbers.mean()])  # a mean image, or numbers along a side of it
    return numbers.reshape(-1)
