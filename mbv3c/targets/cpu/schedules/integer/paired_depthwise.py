"""Depthwise convolution of int8 by pairs of int16 (`vpmaddwd`): two taps of a channel at once.

A pair is two rows of a column; it serves all windows that the column is part of. Of an odd number
of rows the last gives two of its columns instead; if their number is odd, too, the last two
overlap those before, with weights 0. Rows of 16 channels become int16 (`vpmovsxbw`) and are
interleaved (`vpunpcklwd`, `vpunpckhwd`), which takes them by fours:

    channels 0-3, 8-11 and 4-7, 12-15

Weights, biases and factors lie in this order, too, and `vpackssdw` undoes it. Eight channels are
interleaved as int8, and stay in order. Weights are int16 in the file: they are few, and a load of
them is part of the multiplication.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Accumulators, Buffer, Expr
from mbv3c.lowering.schedules.windows import Axis, OutputRun
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer import pairs
from mbv3c.targets.cpu.schedules.integer.arithmetic import VECTOR
from mbv3c.targets.cpu.schedules.integer.pairs import PAIR

SUMS = 8  # of a register of AVX2
_CROSSED = (*range(4), *range(8, 12), *range(4, 8), *range(12, 16))

# Gives the values of all channels at a row of a window and a column of the map.
Load = Callable[[int, Expr], Expr]


@dataclass(frozen=True)
class Couple:
    """Two taps of a channel that are multiplied at once.

    Attributes:
        rows: the row of each.
        across: distance between their columns in the map: 0 for two rows.
        column: column of the kernel of the first.
    """

    rows: tuple[int, int]
    across: int
    column: int


def couples(down: Axis, right: Axis) -> list[Couple]:
    """Cut a kernel into couples."""
    cut = [
        Couple((row, row + 1), 0, column)
        for row in range(0, down.taps - 1, PAIR)
        for column in range(right.taps)
    ]
    if down.taps % PAIR:
        last, step = down.taps - 1, right.dilation if right.taps > 1 else 0
        starts = integer.starts(right.taps, PAIR) if right.taps > 1 else [0]
        cut += [Couple((last, last), step, column) for column in starts]
    return cut


def pack(down: Axis, right: Axis, weights: NDArray[np.generic]) -> NDArray[np.int16]:
    """Return weights [C, 1, R, S] as [couples][C][2], channels as they are multiplied."""
    packed = []
    done: set[tuple[int, int]] = set()
    for couple in couples(down, right):
        two = np.zeros((len(weights), PAIR), np.int16)
        for at, row in enumerate(couple.rows):
            tap = (row, couple.column + (at if couple.across else 0))
            if tap not in done:
                two[:, at] = weights[:, 0, *tap]
                done.add(tap)
        packed.append(arranged(two).ravel())
    return np.stack(packed)


def arranged(rows: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return what there is of each channel in the order in which channels are multiplied."""
    whole = len(rows) // VECTOR * VECTOR
    crossed = rows[:whole].reshape(-1, VECTOR, *rows.shape[1:])[:, list(_CROSSED)]
    return np.concatenate([crossed.reshape(rows[:whole].shape), rows[whole:]])


def instructions(down: Axis, right: Axis, outputs: int, lanes: int) -> float:
    """Estimate the instructions of the products of a run."""
    vectors, found = lanes // SUMS, couples(down, right)
    kinds = len({couple.rows for couple in found})
    return right.span(outputs) * kinds * (2 + vectors) + 2 * outputs * vectors * len(found)


@dataclass(frozen=True)
class Window:
    """Emits the sums of a run of windows, of 8 or 16 channels.

    Attributes:
        down, right: the vertical and the horizontal axis.
        lanes: the channels.
        zero: zero point of the input, which taps outside the map read.
    """

    down: Axis
    right: Axis
    lanes: int
    zero: int

    @property
    def parts(self) -> tuple[int, ...]:
        return (SUMS,) * (self.lanes // SUMS)

    def add(self, acc: Accumulators, run: OutputRun, w: Buffer, first: Expr, load: Load) -> None:
        """Add all products; `first` is the first channel."""
        found = couples(self.down, self.right)
        for rows in dict.fromkeys(couple.rows for couple in found):
            across = next(couple.across for couple in found if couple.rows == rows)
            for at in range(self.right.span(run.count)):
                uses = [
                    (i, number)
                    for number, couple in enumerate(found)
                    for i in range(run.count)
                    if couple.rows == rows
                    and i * self.right.stride + couple.column * self.right.dilation == at
                ]
                if not uses:
                    continue
                values = self._values(run, rows, across, at, load)
                for v, operand in enumerate(self._interleaved(*values)):
                    for i, number in uses:
                        place = (first + SUMS * v) * PAIR
                        weights = emit.load(w, number, place, lanes=PAIR * SUMS)
                        acc.set(i, v, pairs.add(acc.get(i, v), operand, weights, SUMS))

    def _values(
        self, run: OutputRun, rows: tuple[int, int], across: int, at: int, load: Load
    ) -> list[Expr]:
        """Return the two values of all channels, at a place along the row."""
        column = self.right.source(run.start, 0) + at
        values = []
        for row, beyond in zip(rows, (0, across), strict=True):
            known = run.known_start
            place = 0 if known is None else self.right.source(known, 0) + at + beyond
            if 0 <= place < self.right.size:
                values.append(load(row, column + beyond))
            else:
                values.append(emit.splat(self.zero, self.lanes, "int8"))
        return values

    def _interleaved(self, a: Expr, b: Expr) -> list[Expr]:
        """Return operands of SUMS channels each."""
        if self.lanes == SUMS:
            bytes_ = [emit.held(each, SUMS, "int8") for each in (a, b)]
            order = [at + SUMS * side for at in range(SUMS) for side in range(PAIR)]
            together = emit.held(tirx.Shuffle(bytes_, order), VECTOR, "int8")
            return [emit.held(emit.cast(together, VECTOR, "int16"), VECTOR, "int16")]
        wide = [emit.held(emit.cast(each, VECTOR, "int16"), VECTOR, "int16") for each in (a, b)]
        operands = []
        for half in (_CROSSED[:SUMS], _CROSSED[SUMS:]):
            order = [at + VECTOR * side for at in half for side in range(PAIR)]
            operands.append(emit.held(tirx.Shuffle(wide, order), VECTOR, "int16"))
        return operands
