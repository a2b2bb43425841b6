"""Products of int8 by `smmla`: two rows of x times two columns are four sums of eight products.

An operand is eight values of K of two rows, or of two columns. Those of the weights lie in memory
as they are multiplied. Two rows of x become operands by `zip1` and `zip2`, in the loop over K; or,
where a block of rows meets several panels of columns, once, on the stack. Four sums of a register
are those of two rows and two columns:

    row 0: a b    row 1: c d    →    a b c d

They are scaled and rounded in this order, with factors in this order, too. Rows are taken apart
when they are int8: `uzp1` and `uzp2` of pairs of columns.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Accumulators, Buffer, Expr, Panels
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer.arithmetic import VECTOR
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization
from mbv3c.targets.cpu.schedules.operands import PAIR, Operands, for_each_step, stored

DEPTH = 8  # values of K in an operand
LANES = 8  # columns whose sums of two rows are rounded to 16 int8 at once
_SUMS = PAIR * PAIR
_SMMLA = "aarch64.neon.smmla"
_TWOS = 2  # two steps of K in a turn of the loop, so often
_ROUNDING = 20  # instructions that round 16 sums to int8, estimated
_LOOK_UP = 7  # instructions that look up 16 int8, estimated
_TABLE = 24  # instructions that make room for the table in a tile, and load it, estimated
_AT_ONCE = 4  # vectors that are looked up in a turn of a loop


@dataclass
class Product:
    """A product of matrices, cut into tiles.

    Attributes:
        rows: rows of a tile, an even number.
        terms: int8 whose sum a weight is.
        output: how sums become int8.
        processor: the processor.
        buffers: x [M, K], packed weights, bias and scale in the order of sums, table or None, y.
        several: whether rows meet several panels of columns.
    """

    rows: int
    terms: int
    output: Requantization
    processor: Processor
    buffers: tuple[Buffer, ...]
    several: bool
    _stored: Operands | None = field(default=None, init=False)
    _unread: Buffer = field(default=None, init=False)

    @property
    def inputs(self) -> int:
        return int(self.buffers[0].shape[1])

    @contextmanager
    def block(self, row: Expr) -> Iterator[None]:
        """Emit what stands around all tiles of a block of rows.

        Operands are made once if there are several panels. What is looked up in a table is so when
        all tiles are done: the table takes half of the registers, which sums need.
        """
        table, y = self.buffers[-2:]
        outputs = int(y.shape[1])
        if self.several:
            made, pairs = self._operands(row), self.rows // PAIR
            self._stored = stored(made, self.inputs, DEPTH, pairs, "int8")
        if table is None:
            yield
            return
        self._unread = emit.scratch(self.rows * outputs, "int8")
        yield
        for run in emit.panels(self.rows * outputs, VECTOR, _AT_ONCE):
            with emit.loop(run.count) as turn:
                for at, lanes in zip(emit.offsets(run.widths), run.widths, strict=True):
                    place = run.first + turn * run.columns + at
                    value = emit.held(emit.load(self._unread, place, lanes=lanes), lanes, "int8")
                    result = integer.look_up(table, value, lanes, self.processor)
                    emit.store(y, result, row, place, lanes=lanes)

    def tile(self, row: Expr, column: Expr, widths: tuple[int, ...], kept: int) -> None:
        """Emit a tile.

        Args:
            row: its first row, that of stored operands if there are any.
            column: its first column.
            widths: its columns, in vectors.
            kept: how many of its columns are outputs.
        """
        bias, sums = self.buffers[2], (_SUMS,) * (sum(widths) // PAIR)
        first, scaled = (emit.separate(PAIR * column, number) for number in (1, 2))
        acc = emit.biased_accumulators(self.rows // PAIR, sums, "int32", bias, first)
        self._add(acc, self._stored or self._operands(row), column)
        y = self.buffers[-1]
        for i, at, value, width in self._rounded(acc, scaled):
            there: tuple[Any, ...] = (y, value, row + i, column + at)
            if self._unread is not None:
                there = (self._unread, value, i * int(y.shape[1]) + column + at)
            integer.store_first(*there, width=width, count=kept - at)

    def _operands(self, row: Expr) -> Operands:
        """Make the operands of a block of rows where they are multiplied."""
        x, starts = self.buffers[0], integer.starts(self.inputs, DEPTH)

        def operands(step: Expr, count: int) -> list[list[Expr]]:
            first = starts[step] if isinstance(step, int) else step * DEPTH
            lanes = count * DEPTH
            made: list[list[Expr]] = [[] for _ in range(count)]
            for i in range(0, self.rows, PAIR):
                rows = [
                    emit.held(emit.load(x, row + i + j, first, lanes=lanes), lanes, "int8")
                    for j in range(PAIR)
                ]
                for k in range(count):
                    places = range(DEPTH * k, DEPTH * (k + 1))
                    order = [at + lanes * j for j in range(PAIR) for at in places]
                    made[k].append(emit.held(tirx.Shuffle(rows, order), VECTOR, "int8"))
            return made

        return operands

    def _add(self, acc: Accumulators, operands: Operands, column: Expr) -> None:
        """Add all products of a tile."""
        w, pairs = self.buffers[1], len(acc.widths)
        base = column * len(integer.starts(self.inputs, DEPTH)) * DEPTH * self.terms

        def add(step: Expr, count: int) -> None:
            for k, rows in enumerate(operands(step, count)):
                for term in range(self.terms):
                    line = ((step + k) * self.terms + term) * pairs
                    # Column by column: registers hold one operand of weights beside those of x.
                    for at in range(pairs):
                        weights = emit.load(w, base + (line + at) * VECTOR, lanes=VECTOR)
                        for i, values in enumerate(rows):
                            total = emit.intrinsic(
                                "int32", _SUMS, _SMMLA, acc.get(i, at), values, weights
                            )
                            acc.set(i, at, total)

        loop = emit.loop if self._stored is None else emit.opaque_loop
        for_each_step(self.inputs, DEPTH, add, turns=_TWOS, loop=loop)

    def _rounded(self, acc: Accumulators, first: Expr) -> Iterator[tuple[int, int, Expr, int]]:
        """Round a tile, whose factors are from `first` on.

        Yields:
            Row and column in the tile, the results from there on, and their number.
        """
        _, _, _, scale, table, _ = self.buffers
        vectors = emit.vectors(_SUMS * len(acc.widths), VECTOR)
        held: dict[tuple[int, int], Expr] = {}
        for pair in range(acc.rows):
            for at, lanes in zip(emit.offsets(vectors), vectors, strict=True):
                parts = (_SUMS,) * (lanes // _SUMS)
                sums = [acc.get(pair, at // _SUMS + part) for part in range(len(parts))]
                values = integer.scaled(sums, scale, first + at, parts)
                result = integer.narrow(values, parts, self.output, None, self.processor)
                held[pair, at] = emit.held(result, lanes, "int8")
        if table is not None and self._unread is None:
            for (pair, at), value in held.items():
                lanes = int(value.ty.dtype.lanes)
                found = integer.look_up(table, value, lanes, self.processor)
                held[pair, at] = emit.held(found, lanes, "int8")
        for pair in range(acc.rows):
            for group in _in_twos(vectors):
                neighbours = [held[pair, at] for at in group]
                lanes = sum(int(value.ty.dtype.lanes) for value in neighbours)
                for row in range(PAIR):
                    order = [
                        at + PAIR * row + each
                        for at in range(0, lanes, _SUMS)
                        for each in range(PAIR)
                    ]
                    value = tirx.Shuffle(neighbours, order)
                    yield pair * PAIR + row, group[0] // PAIR, value, len(order)


def _in_twos(widths: Sequence[int]) -> list[list[int]]:
    """Return where vectors start, two of one width together."""
    groups: list[list[int]] = []
    for at, width in zip(emit.offsets(widths), widths, strict=True):
        if groups and groups[-1] == [at - width]:
            groups[-1].append(at)
        else:
            groups.append([at])
    return groups


@dataclass(frozen=True)
class Estimate:
    """What a product takes, in instructions.

    Attributes:
        rows: rows of a tile.
        inputs: K.
        terms: int8 whose sum a weight is.
        output: how sums become int8.
    """

    rows: int
    inputs: int
    terms: int
    output: Requantization

    def product(self, blocks: int, runs: Sequence[Panels], cores: int, together: int) -> float:
        """Return what the busiest core has to do, times the number of cores.

        Args:
            blocks: blocks of rows.
            runs: the panels.
            cores: how many cores share the blocks, or the panels.
            together: columns of a row block whose tiles follow each other; 0: those of a panel do.
        """
        stored = together > 0 and sum(run.count for run in runs) > 1
        if together:
            blocks = _shared(blocks, cores)
        total = 0.0
        for run in runs:
            count = run.count if together else _shared(run.count, cores)
            total += blocks * count * self._tile(run.widths, stored, apart=together > 0)
        around = self._steps * (1.25 * self.rows + 2) if stored else 0.0
        if together and self.output.lookup:
            around += self.rows * together / VECTOR * (_LOOK_UP + 2) + 10
        return total + blocks * around

    def _tile(self, widths: Sequence[int], stored: bool, *, apart: bool) -> float:
        """Return what a tile takes; `apart`: without the table."""
        pairs, columns = self.rows / PAIR, sum(widths) / PAIR
        from_x = pairs / 2 if stored else 2 * pairs
        step = self.terms * columns * (pairs + 0.5) + from_x + 4 / (2 * _TWOS)
        vectors = emit.vectors(int(_SUMS * columns), VECTOR)
        in_rows = 2 * PAIR * len(_in_twos(vectors))  # rows are taken apart, and stored
        rounding = sum(_ROUNDING * lanes / VECTOR for lanes in vectors) + in_rows
        if self.output.lookup and not apart:
            rounding += _LOOK_UP * len(vectors) + _TABLE / pairs
        return self._steps * step + pairs * (columns + rounding) + columns + 6

    @property
    def _steps(self) -> int:
        return len(integer.starts(self.inputs, DEPTH))


def _shared(count: int, cores: int) -> int:
    """Return a number of pieces, rounded up to what keeps all cores busy."""
    return -(-count // cores) * cores
