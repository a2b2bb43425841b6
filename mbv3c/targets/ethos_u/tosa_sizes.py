"""Give a TOSA file other channel counts, and read off it what each layer computes.

A file is a FlatBuffer: extents are changed where they are, and constants of another size are
appended, with the offsets to them bent. Weights are drawn by the names of their layers.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tosa.DType import DType
from tosa.Op import Op
from tosa.TosaGraph import TosaGraph

from mbv3c.graphs.channel_groups import drawn_weights, repeated

Shape = tuple[int, ...]

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


@dataclass(frozen=True)
class _Vector:
    """Extents in a file: the first one's place, how many there are, and how they are written."""

    start: int
    count: int
    form: str


@dataclass(frozen=True)
class _Constant:
    """A constant in a file.

    Attributes:
        array: its numbers.
        field: place of the offset to its data.
        start: place of its data.
        weights: the axis of outputs, and the name of the layer, if these are a layer's weights.
    """

    array: NDArray[Any]
    field: int
    start: int
    weights: tuple[int, str] | None


@dataclass(frozen=True)
class _Way:
    """Which shapes a tensor is computed from, and the names of the tensors on the way."""

    read: tuple[Shape, ...]
    made: Shape
    names: tuple[str, ...]


@dataclass(frozen=True)
class TosaFile:
    """A TOSA file, read once, to be given other channel counts many times.

    Attributes:
        tosa: its bytes.
        shapes: the extents of every tensor, constants included, by its name.
        ways: how each computed tensor is computed, by its name.
    """

    tosa: bytes
    shapes: Mapping[str, Shape]
    ways: Mapping[str, _Way]
    _vectors: tuple[_Vector, ...]
    _constants: tuple[_Constant, ...]

    def resized(self, sizes: Mapping[int, int]) -> bytes:
        """Return the file with every extent that is a key of `sizes` as its value.

        Weights of convolutions are drawn, so that the largest of every channel is 127, as
        quantized ones are. Other constants are repeated or cut; weights that are all equal, as in
        a mean, stay.
        """
        buffer, added = bytearray(self.tosa), bytearray()
        for constant in self._constants:
            data = _numbers(constant, sizes).tobytes()
            if len(data) == constant.array.nbytes:
                buffer[constant.start : constant.start + len(data)] = data
                continue
            end = len(buffer) + len(added)
            padding = -(end + 4) % _ALIGNMENT
            struct.pack_into("<I", buffer, constant.field, end + padding - constant.field)
            added.extend(bytes(padding) + struct.pack("<I", len(data)) + data)
        for vector in self._vectors:
            width = struct.calcsize(vector.form)
            for at in range(vector.start, vector.start + vector.count * width, width):
                (extent,) = struct.unpack_from(vector.form, buffer, at)
                if extent in sizes:
                    struct.pack_into(vector.form, buffer, at, sizes[extent])
        return bytes(buffer + added)

    def resized_shapes(self, sizes: Mapping[int, int]) -> dict[str, Shape]:
        """Return the extents of every tensor of a resized file."""
        return {name: _other(shape, sizes) for name, shape in self.shapes.items()}

    def layers(self, sizes: Mapping[int, int]) -> dict[str, TosaLayer]:
        """Return for every computed tensor of a resized file what computes it, by its name."""
        found = {}
        for name, way in self.ways.items():
            read = (_text(_other(shape, sizes)) for shape in way.read)
            found[name] = TosaLayer(
                f"{' '.join(read)} → {_text(_other(way.made, sizes))}", way.names
            )
        return found


def read_tosa(tosa: bytes) -> TosaFile:
    """Read a TOSA file."""
    shapes: dict[str, Shape] = {}
    ways: dict[str, _Way] = {}
    vectors: dict[int, _Vector] = {}  # by place: some are shared
    constants = []
    for block in _blocks(tosa):
        operators = [block.Operators(index) for index in range(block.OperatorsLength())]
        weights = {
            operator.Inputs(1).decode(): (
                _CONVOLUTIONS[operator.Op()],
                operator.Outputs(0).decode(),
            )
            for operator in operators
            if operator.Op() in _CONVOLUTIONS
        }
        for index in range(block.TensorsLength()):
            tensor = block.Tensors(index)
            name, table = tensor.Name().decode(), tensor._tab
            count = tensor.ShapeLength()
            shape = tuple(int(extent) for extent in tensor.ShapeAsNumpy()) if count else ()
            shapes[name] = shape
            if shape:
                start = table.Vector(table.Offset(_SHAPE))
                vectors[start] = _Vector(start, len(shape), "<i")
            if shape and tensor.DataLength():
                offset = table.Offset(_DATA)
                array = tensor.DataAsNumpy().view(_NUMPY[tensor.Type()]).reshape(shape)
                place = table.Pos + offset, table.Vector(offset)
                constants.append(_Constant(array, *place, weights.get(name)))
        for index in range(block.ShapesLength()):
            table = block.Shapes(index)._tab
            if offset := table.Offset(_SHAPE_DATA):  # bytes of int64
                start = table.Vector(offset)
                vectors[start] = _Vector(start, table.VectorLen(offset) // 8, "<q")
        ways |= _ways(operators, shapes)
    return TosaFile(tosa, shapes, ways, tuple(vectors.values()), tuple(constants))


def _ways(operators: Sequence[Any], shapes: Mapping[str, Shape]) -> dict[str, _Way]:
    kinds, inputs = {}, {}
    for operator in operators:
        if operator.Op() not in _CONSTANTS:
            name = operator.Outputs(0).decode()
            kinds[name] = operator.Op()
            count = operator.InputsLength()
            inputs[name] = [operator.Inputs(index).decode() for index in range(count)]
    found = {}
    for name in kinds:
        names = [name]
        while kinds[names[-1]] in _AFTER and inputs[names[-1]][0] in kinds:
            names.append(inputs[names[-1]][0])
        last = names[-1]
        read = inputs[last][:2] if kinds[last] in _CONVOLUTIONS else inputs[last]
        taken = [one for one in read if one in shapes]
        if kinds[last] not in _CONVOLUTIONS:
            taken = [one for one in taken if one in kinds]
        found[name] = _Way(tuple(shapes[one] for one in taken), shapes[name], tuple(names))
    return found


def _blocks(tosa: bytes) -> Iterator[Any]:
    graph = TosaGraph.GetRootAs(tosa, 0)
    for region in (graph.Regions(index) for index in range(graph.RegionsLength())):
        yield from (region.Blocks(index) for index in range(region.BlocksLength()))


def _numbers(constant: _Constant, sizes: Mapping[int, int]) -> NDArray[Any]:
    changed = repeated(constant.array, sizes)
    if constant.weights is None or constant.array.min() == constant.array.max():
        return changed
    axis, name = constant.weights
    drawn = drawn_weights(name, changed.shape)
    others = tuple(other for other in range(drawn.ndim) if other != axis)
    largest = np.abs(drawn).max(axis=others, keepdims=True)
    scaled: NDArray[Any] = np.rint(drawn * (127 / largest)).astype(changed.dtype)
    return scaled


def _other(shape: Shape, sizes: Mapping[int, int]) -> Shape:
    return tuple(sizes.get(extent, extent) for extent in shape)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
