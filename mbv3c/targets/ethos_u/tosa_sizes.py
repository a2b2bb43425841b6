"""Give a TOSA file other channel counts, and read off it what each layer computes.

A file is a FlatBuffer: extents are changed where they are, and constants of another size are
appended, with the offsets to them bent. Weights are drawn by the names of their layers.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tosa.DType import DType
from tosa.Op import Op
from tosa.TosaGraph import TosaGraph

from mbv3c.graphs.channel_groups import drawn_weights, repeated

_SHAPE, _DATA, _SHAPE_DATA = 6, 10, 8  # fields of TosaTensor and TosaShape, in their tables
_ALIGNMENT = 16
_NUMPY = {DType.INT8: np.int8, DType.INT16: np.int16, DType.INT32: np.int32}
_CONVOLUTIONS = {Op.CONV2D: 0, Op.DEPTHWISE_CONV2D: 2}  # with the axis of outputs in weights
_AFTER = frozenset({Op.RESCALE, Op.TABLE, Op.CLAMP})  # what vela fuses into the operator before
_CONSTANTS = frozenset({Op.CONST, Op.CONST_SHAPE})


@dataclass(frozen=True)
class TosaLayer:
    """What a tensor of a TOSA file is computed by.

    Attributes:
        sizes: the extents that are read, and that of the result.
        names: names of the tensors on the way, from the result back.
    """

    sizes: str
    names: tuple[str, ...]


def resized(tosa: bytes, sizes: Mapping[int, int]) -> bytes:
    """Return a TOSA file in which every extent that is a key of `sizes` is its value.

    Weights of convolutions are drawn, so that the largest of every channel is 127, as quantized
    ones are. Other constants are repeated or cut; weights that are all equal, as in a mean, stay.
    """
    buffer, added = bytearray(tosa), bytearray()
    done: set[int] = set()
    for block in _blocks(tosa):
        weights = _weights(block)
        for index in range(block.TensorsLength()):
            tensor = block.Tensors(index)
            shape, name = _shape(tensor), tensor.Name().decode()
            if not shape:
                continue
            if tensor.DataLength():
                array = tensor.DataAsNumpy().view(_NUMPY[tensor.Type()]).reshape(shape)
                data = _constant(array, sizes, weights.get(name)).tobytes()
                _put(buffer, added, tensor, data)
            elif not {*shape} & sizes.keys():
                continue
            _replace(buffer, tensor._tab, _SHAPE, "<i", sizes, done)
        for index in range(block.ShapesLength()):
            _replace(buffer, block.Shapes(index)._tab, _SHAPE_DATA, "<q", sizes, done)
    return bytes(buffer + added)


def shapes_of(tosa: bytes) -> dict[str, tuple[int, ...]]:
    """Return the extents of every tensor of a TOSA file, constants included, by its name."""
    return {
        tensor.Name().decode(): _shape(tensor)
        for block in _blocks(tosa)
        for tensor in (block.Tensors(index) for index in range(block.TensorsLength()))
    }


def layers_of(tosa: bytes) -> dict[str, TosaLayer]:
    """Return for every computed tensor of a TOSA file, by its name, what computes it."""
    found, every = {}, shapes_of(tosa)
    for block in _blocks(tosa):
        shapes = {name: "x".join(map(str, shape)) for name, shape in every.items()}
        makers = {
            operator.Outputs(0).decode(): operator
            for operator in (block.Operators(index) for index in range(block.OperatorsLength()))
            if operator.Op() not in _CONSTANTS
        }
        for name in makers:
            names, at = [name], makers[name]
            while at.Op() in _AFTER and (before := at.Inputs(0).decode()) in makers:
                names.append(before)
                at = makers[before]
            inputs = [at.Inputs(index).decode() for index in range(at.InputsLength())]
            read = [shapes[one] for one in inputs if one in shapes and one not in makers]
            computed = [shapes[one] for one in inputs if one in makers]
            kernel = read[:1] if at.Op() in _CONVOLUTIONS else []
            if at.Op() in _CONVOLUTIONS and not computed:  # what it reads is the file's input
                computed, kernel = read[:1], read[1:2]
            sizes = f"{' '.join([*computed, *kernel])} → {shapes[name]}"
            found[name] = TosaLayer(sizes, tuple(names))
    return found


def _blocks(tosa: bytes) -> Iterator[Any]:
    graph = TosaGraph.GetRootAs(tosa, 0)
    for region in (graph.Regions(index) for index in range(graph.RegionsLength())):
        yield from (region.Blocks(index) for index in range(region.BlocksLength()))


def _shape(tensor: Any) -> tuple[int, ...]:
    if tensor.ShapeLength() == 0:
        return ()
    return tuple(int(extent) for extent in tensor.ShapeAsNumpy())


def _weights(block: Any) -> dict[str, tuple[int, str]]:
    """Return which constants are weights: the axis of their outputs, and the layer's name."""
    found = {}
    for operator in (block.Operators(index) for index in range(block.OperatorsLength())):
        if operator.Op() in _CONVOLUTIONS:
            axis = _CONVOLUTIONS[operator.Op()]
            found[operator.Inputs(1).decode()] = axis, operator.Outputs(0).decode()
    return found


def _constant(
    array: NDArray[Any], sizes: Mapping[int, int], weights: tuple[int, str] | None
) -> NDArray[Any]:
    changed = repeated(array, sizes)
    if weights is None or array.min() == array.max():
        return changed
    axis, name = weights
    drawn = drawn_weights(name, changed.shape)
    others = tuple(other for other in range(drawn.ndim) if other != axis)
    largest = np.abs(drawn).max(axis=others, keepdims=True)
    scaled: NDArray[Any] = np.rint(drawn * (127 / largest)).astype(array.dtype)
    return scaled


def _put(buffer: bytearray, added: bytearray, tensor: Any, data: bytes) -> None:
    """Put data in the place of a tensor's own; of another size, into what is added at the end."""
    table = tensor._tab
    offset = table.Offset(_DATA)
    if len(data) == tensor.DataLength():
        start = table.Vector(offset)
        buffer[start : start + len(data)] = data
        return
    end, field = len(buffer) + len(added), table.Pos + offset
    padding = -(end + 4) % _ALIGNMENT
    struct.pack_into("<I", buffer, field, end + padding - field)
    added.extend(bytes(padding) + struct.pack("<I", len(data)) + data)


def _replace(
    buffer: bytearray, table: Any, field: int, form: str, sizes: Mapping[int, int], done: set[int]
) -> None:
    """Replace the extents of a vector where they are; vectors may be shared."""
    offset = table.Offset(field)
    if not offset:
        return
    start, count = table.Vector(offset), table.VectorLen(offset)
    if start in done:
        return
    done.add(start)
    width = struct.calcsize(form)
    if form == "<q":  # the shapes of TOSA are bytes
        count //= width
    for at in range(start, start + count * width, width):
        (extent,) = struct.unpack_from(form, buffer, at)
        struct.pack_into(form, buffer, at, sizes.get(extent, extent))
