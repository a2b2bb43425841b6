"""Scale and zero point of the inputs and outputs in vela's TFLite file.

TensorFlow Lite Micro hands them to an application. vela does not know them: TOSA has none.
"""

import struct
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import flatbuffers
import numpy as np
from ethosu.vela.tflite import QuantizationParameters, Tensor
from ethosu.vela.tflite.Model import Model

from mbv3c.errors import ToolError
from mbv3c.targets.ethos_u.lowering.region import Boundary

_TENSORS = 4  # the place of `tensors` in the table of a subgraph, in TensorFlow Lite's schema
_ALIGNMENT = 16  # bytes; weights keep theirs, since what is new comes behind them
_OFFSET = struct.Struct("<I")


def with_quantization(
    tflite: bytes, inputs: Sequence[Boundary], outputs: Sequence[Boundary]
) -> bytes:
    """Return a TFLite file whose inputs and outputs say what their integers stand for.

    Offsets in a flatbuffer point forwards only: a tensor that says more is written behind the
    file, as a flatbuffer by itself, and the list of tensors is made to point there. All else
    stays as it is, in its place.

    Args:
        tflite: the file, with one subgraph.
        inputs: the inputs of the command stream, in the order of the file.
        outputs: its outputs, in the order of the file.

    Raises:
        ToolError: the file has other inputs and outputs.
    """
    data = bytearray(tflite)
    graph = Model.GetRootAsModel(tflite, 0).Subgraphs(0)
    for place, end in _ends(graph, inputs, outputs):
        tensor = graph.Tensors(place)
        if prod(tensor.ShapeAsNumpy().tolist()) != prod(end.device_shape):
            raise ToolError(
                f"vela's TFLite file has {tensor.Name().decode()} of "
                f"{tensor.ShapeAsNumpy().tolist()} where {end.name} has {end.device_shape}"
            )
        data += bytes(-len(data) % _ALIGNMENT)
        start, new = len(data), _described(tensor, end)
        (root,) = _OFFSET.unpack_from(new)
        entry = graph._tab.Vector(graph._tab.Offset(_TENSORS)) + place * _OFFSET.size
        _OFFSET.pack_into(data, entry, start + root - entry)
        data += new
    return bytes(data)


def _ends(
    graph: Any, inputs: Sequence[Boundary], outputs: Sequence[Boundary]
) -> Iterator[tuple[int, Boundary]]:
    places = list(graph.InputsAsNumpy()), list(graph.OutputsAsNumpy())
    counts = tuple(map(len, places))
    if counts != (len(inputs), len(outputs)):
        raise ToolError(
            f"vela's TFLite file has {counts[0]} inputs and {counts[1]} outputs; the network has "
            f"{len(inputs)} and {len(outputs)}"
        )
    for own, ends in zip(places, (inputs, outputs), strict=True):
        yield from zip(map(int, own), ends, strict=True)


def _described(tensor: Any, end: Boundary) -> bytes:
    """Return a tensor as a flatbuffer by itself, with the scale and zero point of an end."""
    builder = flatbuffers.Builder(256)
    name = builder.CreateString(tensor.Name())
    # Vela may have a map as a row of pixels: the same numbers in the same order.
    shape = builder.CreateNumpyVector(np.asarray(end.device_shape, np.int32))
    builder.StartVector(4, 1, 4)
    builder.PrependFloat32(float(end.quantization.scale))
    scales = builder.EndVector()
    builder.StartVector(8, 1, 8)
    builder.PrependInt64(int(end.quantization.zero_point))
    zero_points = builder.EndVector()
    QuantizationParameters.QuantizationParametersStart(builder)
    QuantizationParameters.QuantizationParametersAddScale(builder, scales)
    QuantizationParameters.QuantizationParametersAddZeroPoint(builder, zero_points)
    quantization = QuantizationParameters.QuantizationParametersEnd(builder)
    Tensor.TensorStart(builder)
    Tensor.TensorAddShape(builder, shape)
    Tensor.TensorAddType(builder, tensor.Type())
    Tensor.TensorAddBuffer(builder, tensor.Buffer())
    Tensor.TensorAddName(builder, name)
    Tensor.TensorAddQuantization(builder, quantization)
    Tensor.TensorAddIsVariable(builder, tensor.IsVariable())
    builder.Finish(Tensor.TensorEnd(builder))
    return bytes(builder.Output())
