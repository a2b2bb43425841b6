"""Depthwise convolution of int8 by dot products: a row of a map in three loops.

    interleave: four values that a channel needs become neighbours, 16 channels at once
    multiply:   four channels at a time, so that all their weights stay in registers
    round:      16 channels again; the table stays in registers

Four neighbours are four rows of a column. A row that is left alone, as the fifth of five, takes
four of its columns instead; where their number is no multiple of four, the last four overlap the
ones before, with weights 0. What a loop makes for the next lies on the stack, a few KiB. One loop
for all needs more registers than NEON has: LLVM puts weights and half-done values on the stack.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets.cpu.processor import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP, Output

_BYTES = 4 * GROUP  # of an operand: four channels
_AT_ONCE = 4  # neighbouring places that share what they load

# Gives the values of all channels at a row and a column of the map.
Load = Callable[[int, Expr], Expr]


@dataclass(frozen=True)
class Plane:
    """Four values of every channel as neighbours, at every place along a row.

    Attributes:
        rows: of the kernel, one to four, or one for four columns of it.
        across: how far those columns are apart; 0 for rows.
        columns: of the kernel, at which windows take an operand.
    """

    rows: tuple[int, ...]
    across: int
    columns: tuple[int, ...]

    @property
    def values(self) -> list[tuple[int, int]]:
        """The rows, and how far the columns are from the place, of the values."""
        if self.across:
            return [(self.rows[0], at * self.across) for at in range(GROUP)]
        return [(row, 0) for row in self.rows]


def planes(down: Axis, right: Axis) -> list[Plane]:
    """Cut a kernel into operands of dot products."""
    alone = down.taps > GROUP and down.taps % GROUP == 1 and right.taps >= GROUP
    together = down.taps - alone
    cut = [
        Plane(tuple(range(first, min(together, first + GROUP))), 0, tuple(range(right.taps)))
        for first in range(0, together, GROUP)
    ]
    if alone:
        starts = tuple(min(at, right.taps - GROUP) for at in range(0, right.taps, GROUP))
        cut.append(Plane((down.taps - 1,), right.dilation, starts))
    return cut


def pack(down: Axis, right: Axis, weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return weights [C, 1, R, S] as [operands][C][4]."""
    packed = []
    done: set[tuple[int, int]] = set()
    for plane in planes(down, right):
        for column in plane.columns:
            four = np.zeros((len(weights), GROUP), np.int8)
            for at, (row, beyond) in enumerate(plane.values):
                tap = (row, column + beyond // right.dilation)
                if tap not in done:
                    four[:, at] = weights[:, 0, *tap]
                    done.add(tap)
            packed.append(four)
    return np.stack(packed)


def operands(down: Axis, right: Axis) -> int:
    """Return how many dot products a window takes."""
    return sum(len(plane.columns) for plane in planes(down, right))


class Rows:
    """Emits the rows of a panel of 8 or 16 channels.

    Attributes:
        down, right: the axes.
        lanes: channels of the panel.
        zero: the zero point of the input.
    """

    def __init__(self, down: Axis, right: Axis, lanes: int, zero: int, machine: Processor) -> None:
        self.down, self.right, self.lanes, self.zero = down, right, lanes, zero
        self._machine = machine
        self._vectors = lanes // GROUP
        self._planes = planes(down, right)
        span = right.span(right.outputs)
        self._places = [span - (GROUP - 1) * plane.across for plane in self._planes]
        self._columns = _scratch(sum(self._places) * self._vectors * _BYTES, "int8")
        self._sums = _scratch(right.outputs * lanes, "int32")

    def fill_outside(self) -> None:
        """Write what lies outside of the map at every row: the zero point."""
        for number, plane in enumerate(self._planes):
            same = tirx.reinterpret(
                "int8x16",
                emit.splat(integer.constant_four(self.zero, self._machine), 4, "int32"),
            )
            for place in range(self._places[number]):
                if not any(self._inside(place + beyond) for _, beyond in plane.values):
                    self._store(number, place, [same] * self._vectors)

    def interleave(self, load: Load) -> None:
        """Make all operands of a row."""
        for number, plane in enumerate(self._planes):
            places = range(self._places[number])
            whole = [
                place
                for place in places
                if all(self._inside(place + beyond) for _, beyond in plane.values)
            ]
            edge = [
                place
                for place in places
                if place not in whole
                and any(self._inside(place + beyond) for _, beyond in plane.values)
            ]
            step = _AT_ONCE if plane.across else 1
            turns = len(whole) // step
            if turns:
                with _loop(turns) as turn:
                    for at in range(step):
                        self._make(number, whole[0] + turn * step + at, load, inside=True)
            for place in whole[turns * step :]:
                self._make(number, place, load, inside=True)
            for place in edge:
                self._make(number, place, load, inside=False)

    def multiply(self, w: Buffer, bias: Buffer, first: Expr, count: int) -> None:
        """Add the products of all windows, `count` at a time, to the biases."""
        right = self.right
        with emit.loop(self._vectors) as v:
            whole = right.outputs // count
            with emit.loop(whole) as turn:
                self._add(w, bias, first, v, turn * count, count)
            if right.outputs % count:
                self._add(w, bias, first, v, whole * count, right.outputs % count)

    def round(
        self,
        scale: Buffer,
        first: Expr,
        output: Output,
        table: Buffer | None,
        store: Callable[[Expr, Expr], None],
    ) -> None:
        """Make int8 of the sums; `store` takes the place of an output and its channels."""
        cut = (GROUP,) * self._vectors
        with _loop(self.right.outputs) as i:
            sums = [
                emit.load(self._sums, i * self.lanes + at, lanes=GROUP) for at in emit.offsets(cut)
            ]
            floats = integer.scaled(sums, scale, first, cut)
            store(i, integer.narrow(floats, cut, output, table, self._machine))

    def _inside(self, place: int) -> bool:
        return 0 <= place - self.right.before < self.right.size

    def _make(self, number: int, place: Expr, load: Load, *, inside: bool) -> None:
        values = [
            load(row, place + beyond - self.right.before)
            if inside or self._inside(place + beyond)
            else emit.splat(self.zero, self.lanes, "int8")
            for row, beyond in self._planes[number].values
        ]
        self._store(number, place, integer.interleaved(values, self.lanes))

    def _store(self, number: int, place: Expr, fours: list[Expr]) -> None:
        for v, four in enumerate(fours):
            emit.store(self._columns, four, self._at(number, v, place), lanes=_BYTES)

    def _at(self, number: int, v: Expr, place: Expr) -> Expr:
        """Return where an operand lies: neighbouring places are adjacent."""
        before = sum(self._places[:number]) * self._vectors
        return (before + v * self._places[number] + place) * _BYTES

    def _add(self, w: Buffer, bias: Buffer, first: Expr, v: Expr, start: Expr, count: int) -> None:
        right = self.right
        acc = emit.biased_accumulators(count, (GROUP,), "int32", bias, first + GROUP * v)
        before = 0
        for number, plane in enumerate(self._planes):
            uses = sorted(
                (i * right.stride + column * right.dilation, i, before + at)
                for at, column in enumerate(plane.columns)
                for i in range(count)
            )
            for place, i, operand in uses:
                four = emit.load(
                    self._columns,
                    self._at(number, v, start * right.stride + place),
                    lanes=_BYTES,
                )
                weights = emit.load(w, operand, (first + GROUP * v) * GROUP, lanes=_BYTES)
                total = integer.intrinsic(
                    "int32", GROUP, "aarch64.neon.sdot", acc.get(i, 0), weights, four
                )
                acc.set(i, 0, total)
            before += len(plane.columns)
        for i in range(count):
            at = (start + i) * self.lanes + GROUP * v
            emit.store(self._sums, acc.get(i, 0), at, lanes=GROUP)


def _scratch(size: int, dtype: str) -> Buffer:
    """Declare memory on the stack."""
    return T.alloc_buffer(
        (size,), dtype, scope="local", annotations={"disable_lower_builtin": True}
    )


@contextmanager
def _loop(extent: int) -> Iterator[Expr]:
    """Loop so often, without LLVM knowing how often: it would unroll, and mix, short loops."""
    fenced = tirx.call_llvm_pure_intrin(
        "float32", "llvm.arithmetic.fence", tirx.const(float(extent), "float32")
    )
    first, turns = tirx.const(0, "int64"), tirx.Cast("int64", fenced)
    with T.serial(first, turns) as variable:
        yield variable
