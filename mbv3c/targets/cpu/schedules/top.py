"""The best numbers of rows and their places: TopK of any number.

x [R, S, C] to values and places [R, K, C], each of the R · C rows by itself:

    heap    the first K numbers, the worst of them at the root
    for the others: what is better than the root takes its place, and sinks
    at last the root goes behind what is left of the heap, again and again: the best is in front

The heap lies in the outputs, so that nothing else is needed. Most numbers are compared with the
root alone; at worst S · log K are. A number comes before another if it is better, or equal and
further to the front, as in onnxruntime. Source: ONNX operator TopK-11.
"""

from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.targets.cpu.cores import Processor

_PLACE = "int64"


@dataclass(frozen=True)
class Top:
    """The shape of a TopK.

    Attributes:
        rows: product of the extents in front of the axis.
        size: numbers along the axis.
        columns: product of the extents behind the axis.
        count: how many are taken.
        largest: whether the largest are the best.
        dtype: element type.
    """

    rows: int
    size: int
    columns: int
    count: int
    largest: bool
    dtype: str


@dataclass(frozen=True)
class _Heap:
    """A heap in a column of the outputs."""

    values: Buffer
    places: Buffer
    row: Expr
    column: Expr
    largest: bool

    def value(self, at: Expr) -> Expr:
        return self.values[self.row, at, self.column]

    def place(self, at: Expr) -> Expr:
        return self.places[self.row, at, self.column]

    def put(self, at: Expr, value: Expr, place: Expr) -> None:
        T.buffer_store(self.values, value, [self.row, at, self.column])
        T.buffer_store(self.places, place, [self.row, at, self.column])

    def is_better(self, value: Expr, than: Expr) -> Expr:
        return value > than if self.largest else value < than

    def comes_before(self, value: Expr, place: Expr, at: Expr) -> Expr:
        """Return whether a number comes before one of the heap's."""
        tied = tirx.all(value == self.value(at), place < self.place(at))
        return tirx.any(self.is_better(value, self.value(at)), tied)

    def sink(self, start: Expr, end: Expr, value: Expr, place: Expr) -> None:
        """Put a number at `start`, or below it where all that is above comes before it."""
        hole, child = _variable(_PLACE), _variable(_PLACE)
        _set(hole, start)
        _set(child, start * 2 + 1)
        with T.While(child[0] < end):
            left, right = child[0], T.min(child[0] + 1, end - 1)
            with emit.when([self.comes_before(self.value(left), self.place(left), right)]):
                _set(child, right)
            with T.If(self.comes_before(value, place, child[0])):
                with T.Then():
                    self.put(hole[0], self.value(child[0]), self.place(child[0]))
                    _set(hole, child[0])
                    _set(child, child[0] * 2 + 1)
                with T.Else():
                    _set(child, end)
        self.put(hole[0], value, place)


def generate(shape: Top, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x, the values and the places."""
    return emit.build_kernel("top", partial(_write, shape, processor))


def _write(shape: Top, processor: Processor) -> None:
    count, size = shape.count, shape.size
    taken = (shape.rows, count, shape.columns)
    x = emit.argument("x", (shape.rows, size, shape.columns), shape.dtype)
    values = emit.argument("values", taken, shape.dtype)
    places = emit.argument("places", taken, _PLACE)
    turns = shape.rows * shape.columns * size
    zero, end = tirx.const(0, _PLACE), tirx.const(count, _PLACE)
    with (
        emit.loop(shape.rows, parallel=processor.worthwhile(turns)) as row,
        emit.loop(shape.columns) as column,
    ):
        heap = _Heap(values, places, row, column, shape.largest)
        with emit.loop(count) as at:
            heap.put(at, x[row, at, column], zero + at)
        value, place = _variable(shape.dtype), _variable(_PLACE)
        with emit.loop(count // 2) as back:
            start = zero + (count // 2 - 1) - back
            _set(value, heap.value(start))
            _set(place, heap.place(start))
            heap.sink(start, end, value[0], place[0])
        with emit.loop(size - count) as behind:
            other = x[row, behind + count, column]
            with emit.when([heap.is_better(other, heap.value(0))]):
                _set(value, other)
                heap.sink(zero, end, value[0], end + behind)
        with emit.loop(count - 1) as back:
            last = end - 1 - back
            _set(value, heap.value(last))
            _set(place, heap.place(last))
            heap.put(last, heap.value(0), heap.place(0))
            heap.sink(zero, last, value[0], place[0])


def _variable(dtype: str) -> Buffer:
    return T.alloc_buffer((1,), dtype, scope="local", annotations={"disable_lower_builtin": True})


def _set(variable: Buffer, value: Expr) -> None:
    T.buffer_store(variable, value, [0])
