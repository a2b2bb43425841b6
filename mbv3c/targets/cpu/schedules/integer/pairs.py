"""Products of int8 on x86 without dot products of int8: two at once, as int16 (`vpmaddwd`).

    w: 8 columns x 2 values of K, int8   vpmovsxbw     16 int16
    x: 2 values of K of a row, int16     vpbroadcastd  the two, 8 times
    acc += w · x                         vpmaddwd, vpaddd

Weights are int8 in the file and become int16 in a register, once for all rows of a tile. Rows of x
become int16 on the stack, once for a block of rows, so that a pair is broadcast by a load alone. A
tile of 6 rows and 16 columns takes 12 sums, 2 vectors of weights, a pair and a product: all 16
registers of AVX2, and 32 instructions for 192 products. AVX-512 has vectors twice as wide, and 32
registers.

The other way is `vpmaddubsw`, which multiplies uint8 by int8 and adds two products in int16. With
|x| and weights that take the sign of x (`vpabsb`, `vpsignb`) nothing saturates: weights from -127
to 127 and |x| up to 128 give at most 2 · 128 · 127 = 32512. But int16 has no room for a second
sum: four products of a column take `vpsignb`, `vpmaddubsw`, `vpmaddwd` with ones and `vpaddd`,
which are as many instructions, and as many multiplications, as here. It spares the widening of
weights, one instruction in 16; it takes a register for ones and a second operand for every row, so
tiles have at most 5 rows; and it excludes weights of -128, which models of other tools have.

Products in a cycle of both loops, and of the fp32 loop of equal tiles, by llvm-mca 14 (which
chooses ports greedily), and billions in a second, measured on a busy Zen 3:

              Haswell  Skylake  Zen 2  Zen 3  measured
    this         15.9     17.4   15.9   18.5      79.0
    vpmaddubsw   15.9     21.2   15.9   24.0      76.0
    fp32         15.8     15.8   15.8    8.0      51.4

Both are bound by multiplications on Haswell and Zen 2, which have one port for them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Accumulators, Buffer, Expr
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer

PAIR = 2  # products that an instruction adds
MOST_BYTES = 48 * 1024  # of a block of rows on the stack
_TURNS = 2  # pairs of a turn of the loop
_MADD = {4: "x86.sse2.pmadd.wd", 8: "x86.avx2.pmadd.wd", 16: "x86.avx512.pmaddw.d.512"}


def add(acc: Expr, operand: Expr, weights: Expr, lanes: int) -> Expr:
    """Add the products of 2·lanes int16, two by two, to `lanes` sums."""
    return acc + emit.intrinsic("int32", lanes, _MADD[lanes], operand, weights)


@dataclass
class Product:
    """A product of a tile of rows with a panel of columns.

    Attributes:
        rows: rows of a tile.
        buffers: x [M, K] and packed weights, int8 or, of nine bits, int16.
        processor: the processor.
    """

    rows: int
    buffers: tuple[Buffer, Buffer]
    processor: Processor
    _stored: Buffer = field(default=None, init=False)

    @property
    def inputs(self) -> int:
        return int(self.buffers[0].shape[1])

    @contextmanager
    def block(self, row: Expr) -> Iterator[None]:
        """Emit what stands around all tiles of a block of rows: the rows become int16."""
        self._stored = emit.scratch(self.rows * self.inputs, "int16")
        self._widen(self._stored, row, 0, self.inputs)
        yield

    def add(self, acc: Accumulators, row: Expr, column: Expr) -> None:
        """Add all products of a tile, whose rows may be those of a block."""
        if self._stored is not None:
            self._multiply(self._stored, acc, column, 0, self.inputs)
            return
        longest = MOST_BYTES // (2 * self.rows) // self._lanes * self._lanes
        memory = emit.scratch(self.rows * min(longest, self.inputs), "int16")

        def part(first: Expr, count: int) -> None:
            self._widen(memory, row, first, count)
            self._multiply(memory, acc, column, first, count)

        whole = self.inputs // longest
        if whole:
            with emit.loop(whole) as turn:
                part(turn * longest, longest)
        if self.inputs % longest:
            part(whole * longest, self.inputs % longest)

    @property
    def _lanes(self) -> int:
        """Values of K that become int16 at once."""
        return self.processor.vector_bytes // 2

    def _widen(self, memory: Buffer, row: Expr, first: Expr, count: int) -> None:
        """Store `count` values of K of each row as int16."""
        x = self.buffers[0]
        for run in emit.panels(count, self._lanes, 1):
            with emit.loop(run.count) as turn:
                at = run.first + turn * run.columns
                for i in range(self.rows):
                    loaded = emit.load(x, row + i, first + at, lanes=run.columns)
                    wide = emit.cast(loaded, run.columns, "int16")
                    emit.store(memory, wide, i * count + at, lanes=run.columns)

    def _multiply(
        self, memory: Buffer, acc: Accumulators, column: Expr, first: Expr, count: int
    ) -> None:
        """Add the products of `count` values of K from `first` on, which is even."""
        w, width, offsets = self.buffers[1], sum(acc.widths), emit.offsets(acc.widths)
        starts = integer.starts(count, PAIR)
        depth = PAIR * len(integer.starts(self.inputs, PAIR))
        base = column * depth + first * width

        def pair(at: Expr, number: Expr) -> None:
            weights = []
            for lanes, offset in zip(acc.widths, offsets, strict=True):
                place = base + PAIR * (number * width + offset)
                wide = emit.cast(emit.load(w, place, lanes=PAIR * lanes), PAIR * lanes, "int16")
                weights.append(emit.held(wide, PAIR * lanes, "int16"))
            for i in range(acc.rows):
                two = emit.load(memory, i * count + at, lanes=PAIR)
                for v, lanes in enumerate(acc.widths):
                    operand = integer.repeated(two, lanes)
                    acc.set(i, v, add(acc.get(i, v), operand, weights[v], lanes))

        whole = count // PAIR
        turns = whole // _TURNS
        if turns:
            with emit.loop(turns) as turn:
                for at in range(_TURNS):
                    pair((turn * _TURNS + at) * PAIR, turn * _TURNS + at)
        for number in range(turns * _TURNS, len(starts)):
            pair(starts[number], number)


def instructions(rows: int, inputs: int, vectors: int) -> float:
    """Estimate the instructions of the products of a tile, `vectors` registers wide."""
    step = 2 * rows * vectors + vectors + rows + 3 / _TURNS
    return step * len(integer.starts(inputs, PAIR))


def widening(rows: int, inputs: int, processor: Processor) -> float:
    """Estimate the instructions that make int16 of a block of rows."""
    return (2 * rows + 3) * inputs / (processor.vector_bytes / 2)
