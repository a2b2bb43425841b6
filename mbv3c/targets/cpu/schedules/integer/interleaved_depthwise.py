"""Depthwise convolution of int8 by dot products: a row of a map in three loops.

    interleave: four values that a channel needs become neighbours, 16 channels at once
    multiply:   four channels at a time, so that all their weights stay in registers
    round:      16 channels again; the table stays in registers

Four neighbours are four rows of a column. A single row that remains, as the fifth of five, gives
four of its columns instead; if their number is no multiple of four, the last four overlap those
before, with weights 0. What a loop makes for the next lies on the stack, a few KiB. A single loop
would need more registers than NEON has: LLVM would put weights and intermediate values on the
stack.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization

_BYTES = 4 * GROUP  # bytes of an operand: four channels
_AT_ONCE = 4  # neighbouring places that share their loads

# Gives the values of all channels at a row and a column of the map.
Load = Callable[[int, Expr], Expr]


@dataclass(frozen=True)
class Quad:
    """Which four values of a channel become neighbours, at every place along a row.

    Attributes:
        rows: one to four rows of the kernel, or the single row that gives four columns.
        across: distance between the four columns; 0 for rows.
        columns: columns of the kernel at which windows take an operand.
    """

    rows: tuple[int, ...]
    across: int
    columns: tuple[int, ...]

    @property
    def values(self) -> list[tuple[int, int]]:
        """The row of each value, and its distance from the place along the row."""
        if self.across:
            return [(self.rows[0], at * self.across) for at in range(GROUP)]
        return [(row, 0) for row in self.rows]


def quads(down: Axis, right: Axis) -> list[Quad]:
    """Cut a kernel into operands of dot products."""
    single_row = down.taps > GROUP and down.taps % GROUP == 1 and right.taps >= GROUP
    rows = down.taps - single_row
    cut = [
        Quad(tuple(range(first, min(rows, first + GROUP))), 0, tuple(range(right.taps)))
        for first in range(0, rows, GROUP)
    ]
    if single_row:
        starts = tuple(min(at, right.taps - GROUP) for at in range(0, right.taps, GROUP))
        cut.append(Quad((down.taps - 1,), right.dilation, starts))
    return cut


def pack(down: Axis, right: Axis, weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return weights [C, 1, R, S] as [operands][C][4]."""
    packed = []
    done: set[tuple[int, int]] = set()
    for quad in quads(down, right):
        for column in quad.columns:
            four = np.zeros((len(weights), GROUP), np.int8)
            for at, (row, beyond) in enumerate(quad.values):
                tap = (row, column + beyond // right.dilation)
                if tap not in done:
                    four[:, at] = weights[:, 0, *tap]
                    done.add(tap)
            packed.append(four)
    return np.stack(packed)


def operands(down: Axis, right: Axis) -> int:
    """Return how many dot products a window takes."""
    return sum(len(quad.columns) for quad in quads(down, right))


class RowEmitter:
    """Emits the rows of a panel of 8 or 16 channels.

    Attributes:
        down, right: the vertical and the horizontal axis.
        lanes: channels of the panel.
        zero: zero point of the input.
    """

    def __init__(
        self, down: Axis, right: Axis, lanes: int, zero: int, processor: Processor
    ) -> None:
        self.down, self.right, self.lanes, self.zero = down, right, lanes, zero
        self._processor = processor
        self._vectors = lanes // GROUP
        self._quads = quads(down, right)
        span = right.span(right.outputs)
        self._places = [span - (GROUP - 1) * quad.across for quad in self._quads]
        self._columns = emit.scratch(sum(self._places) * self._vectors * _BYTES, "int8")
        self._sums = emit.scratch(right.outputs * lanes, "int32")

    def fill_outside(self) -> None:
        """Write the zero point to the operands that lie outside the map at every row."""
        for number, quad in enumerate(self._quads):
            outside = integer.outside_operand(self.zero, self._processor)
            for place in range(self._places[number]):
                if not any(self._inside(place + beyond) for _, beyond in quad.values):
                    self._store(number, place, [outside] * self._vectors)

    def interleave(self, load: Load) -> None:
        """Make all operands of a row."""
        for number, quad in enumerate(self._quads):
            places = range(self._places[number])
            inner = [
                place
                for place in places
                if all(self._inside(place + beyond) for _, beyond in quad.values)
            ]
            edge = [
                place
                for place in places
                if place not in inner
                and any(self._inside(place + beyond) for _, beyond in quad.values)
            ]
            step = _AT_ONCE if quad.across else 1
            turns = len(inner) // step
            if turns:
                with emit.opaque_loop(turns) as turn:
                    for at in range(step):
                        self._make(number, inner[0] + turn * step + at, load, inside=True)
            for place in inner[turns * step :]:
                self._make(number, place, load, inside=True)
            for place in edge:
                self._make(number, place, load, inside=False)

    def multiply(self, w: Buffer, bias: Buffer, first: Expr, count: int) -> None:
        """Add the products of all windows, `count` at a time, to the biases."""
        right = self.right
        with emit.loop(self._vectors) as v:
            turns = right.outputs // count
            with emit.loop(turns) as turn:
                self._add(w, bias, first, v, turn * count, count)
            if right.outputs % count:
                self._add(w, bias, first, v, turns * count, right.outputs % count)

    def round(
        self,
        scale: Buffer,
        first: Expr,
        output: Requantization,
        table: Buffer | None,
        store: Callable[[Expr, Expr], None],
    ) -> None:
        """Round the sums to int8; `store` takes the place of an output and its channels."""
        parts = (GROUP,) * self._vectors
        with emit.opaque_loop(self.right.outputs) as i:
            sums = [
                emit.load(self._sums, i * self.lanes + at, lanes=GROUP)
                for at in emit.offsets(parts)
            ]
            floats = integer.scaled(sums, scale, first, parts)
            store(i, integer.narrow(floats, parts, output, table, self._processor))

    def _inside(self, place: int) -> bool:
        return 0 <= place - self.right.before < self.right.size

    def _make(self, number: int, place: Expr, load: Load, *, inside: bool) -> None:
        values = [
            load(row, place + beyond - self.right.before)
            if inside or self._inside(place + beyond)
            else emit.splat(self.zero, self.lanes, "int8")
            for row, beyond in self._quads[number].values
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
        for number, quad in enumerate(self._quads):
            uses = sorted(
                (i * right.stride + column * right.dilation, i, before + at)
                for at, column in enumerate(quad.columns)
                for i in range(count)
            )
            for place, i, operand in uses:
                four = emit.load(
                    self._columns, self._at(number, v, start * right.stride + place), lanes=_BYTES
                )
                weights = emit.load(w, operand, (first + GROUP * v) * GROUP, lanes=_BYTES)
                total = emit.intrinsic(
                    "int32", GROUP, "aarch64.neon.sdot", acc.get(i, 0), weights, four
                )
                acc.set(i, 0, total)
            before += len(quad.columns)
        for i in range(count):
            at = (start + i) * self.lanes + GROUP * v
            emit.store(self._sums, acc.get(i, 0), at, lanes=GROUP)
