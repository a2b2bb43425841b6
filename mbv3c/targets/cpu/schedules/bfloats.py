"""Pointwise convolution of fp32 with products in bfloat16, by `bfmmla`: 2x4 times 4x2 is 2x2.

    y[m, n] = activation(Σ_k bf16(x[m, k]) · bf16(w[n, k]) + bias[n]) (+ residual[m, n])

x, bias, residual and y are fp32, and sums are; only the factors are rounded, to the nearest even
("BFMMLA (vector)" and "BFCVTN" in Arm's Architecture Reference Manual, DDI 0487, C7.2). An
operand is four values of K of two rows, or of two columns. `bfcvtn` and `bfcvtn2` make one of two
rows of x: in the loop over K or, where a block of rows meets several panels of columns, once, on
the stack. Those of the weights lie in memory as they are multiplied: [panel][K / 4][columns][4].
A single row takes the place of both. Four sums of a register are those of two rows and two
columns, and so lie the biases:

    row 0: a b    row 1: c d    →    a b c d
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import Pointwise
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Accumulators, Buffer, Expr, Panels
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.operands import (
    PAIR,
    Operands,
    for_each_step,
    stored,
)

DEPTH = 4  # values of K in an operand
_VALUES = DEPTH * PAIR  # of an operand
_SUMS = PAIR * PAIR
_MAX_ROWS = 16
_MAX_VECTORS = 8
_MAX_STACK = 32 * 1024  # bytes of operands
_TWOS = 2  # two steps of K in a turn of the loop, so often
_BITS = "int16"  # holds bfloat16, for which TVM has no type of LLVM's

# TVM's code generator knows no bfloat16, so vectors of it pass as vectors of integers.
_INTRINSICS = """\
declare <4 x float> @llvm.aarch64.neon.bfmmla(<4 x float>, <8 x bfloat>, <8 x bfloat>)
define linkonce_odr hidden <4 x float> @mbv3c.bfmmla(<4 x float> %sum, <8 x i16> %x, <8 x i16> %w)
    alwaysinline nounwind memory(none) {
  %a = bitcast <8 x i16> %x to <8 x bfloat>
  %b = bitcast <8 x i16> %w to <8 x bfloat>
  %r = call <4 x float> @llvm.aarch64.neon.bfmmla(
    <4 x float> %sum, <8 x bfloat> %a, <8 x bfloat> %b)
  ret <4 x float> %r
}
define linkonce_odr hidden <8 x i16> @mbv3c.bfloats(<8 x float> %x)
    alwaysinline nounwind memory(none) {
  %y = fptrunc <8 x float> %x to <8 x bfloat>
  %r = bitcast <8 x bfloat> %y to <8 x i16>
  ret <8 x i16> %r
}
"""


@dataclass(frozen=True)
class BfloatPointwise(Pointwise):
    """The shape of a pointwise convolution whose factors are rounded to bfloat16."""


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        rows: rows of x in a tile: an even number, or 1.
        vectors: vectors of four columns in a panel; the panels are made as even as this allows.
        rows_outer: whether the tiles of a row block follow each other, not those of a panel.
    """

    rows: int
    vectors: int
    rows_outer: bool


def suits(inputs: int, outputs: int) -> bool:
    """Say whether a product has four values of K and an even number of columns."""
    return inputs >= DEPTH and outputs % PAIR == 0


def legal(shape: BfloatPointwise, processor: Processor) -> list[Tile]:
    """Return the tiles whose accumulators and operands fit the registers."""
    widest = len(emit.vectors(shape.outputs, _SUMS))
    most = min(shape.rows, _MAX_ROWS)
    steps = len(integer.starts(shape.inputs, DEPTH))
    return [
        Tile(rows, vectors, rows_outer)
        for rows in ([1] if most == 1 else range(PAIR, most + 1, PAIR))
        for vectors in range(1, min(widest, _MAX_VECTORS) + 1)
        if _pairs(rows) * (PAIR * vectors + 1) + 2 <= processor.registers
        for rows_outer in (False, True)
        if not rows_outer or _pairs(rows) * steps * _VALUES * 2 <= _MAX_STACK
    ]


def default(shape: BfloatPointwise, processor: Processor) -> Tile:
    """Choose the tile that needs the fewest instructions."""
    return min(
        legal(shape, processor),
        key=lambda tile: (_cost(shape, tile, processor), -tile.rows, tile.rows_outer),
    )


def pack(
    shape: BfloatPointwise, tile: Tile, processor: Processor, weights: NDArray[np.float32]
) -> NDArray[np.int16]:
    """Return weights [N, K] as bits of bfloat16, panel by panel: [K / 4][columns][4].

    What the last step shares with the one before is 0 there.
    """
    with np.errstate(over="ignore"):
        bits = weights.astype(bfloat16).view(np.int16)
    places = integer.starts(shape.inputs, DEPTH)
    taken = np.stack([bits[:, at : at + DEPTH] for at in places])
    taken[-1, :, : DEPTH * len(places) - shape.inputs] = 0
    return emit.pack(taken, _panels(shape, tile), axis=1)


def generate(shape: BfloatPointwise, tile: Tile, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [M, K], packed weights, bias [2 N], (residual), y."""

    def body() -> None:
        m, k, n = shape.rows, shape.inputs, shape.outputs
        x = emit.argument("x", (m, k), shape.dtype)
        w = emit.argument("w", (len(integer.starts(k, DEPTH)) * DEPTH * n,), _BITS)
        bias = emit.argument("bias", (PAIR * n,), shape.dtype)
        residual = emit.argument("residual", (m, n), shape.dtype) if shape.residual else None
        y = emit.argument("y", (m, n), shape.dtype)
        runs = _panels(shape, tile)
        several = tile.rows_outer and sum(run.count for run in runs) > 1
        product = _Product(shape, tile.rows, (x, w, bias, residual, y), several)

        def emit_tile(row: Expr, run: Panels, column: Expr) -> None:
            product.tile(row, column, run.widths)

        with emit.llvm(_INTRINSICS):
            emit.for_each_tile(
                m,
                tile.rows,
                runs,
                rows_outer=tile.rows_outer,
                parallel=processor.worthwhile(shape.madds),
                body=emit_tile,
                around=product.block if several else None,
            )

    return emit.build_kernel("bfloat_pointwise", body)


@dataclass
class _Product:
    """A product of matrices, cut into tiles.

    Attributes:
        shape: the shape.
        rows: rows of a tile.
        buffers: x [M, K], packed weights, bias in the order of sums, residual or None, y.
        several: whether a block of rows meets several panels, for which operands are stored.
    """

    shape: BfloatPointwise
    rows: int
    buffers: tuple[Buffer, ...]
    several: bool
    _stored: Operands | None = field(default=None, init=False)

    @contextmanager
    def block(self, row: Expr) -> Iterator[None]:
        """Emit what stands before all tiles of a block of rows: operands are made once."""
        made, pairs = self._operands(row), _pairs(self.rows)
        self._stored = stored(made, self.shape.inputs, DEPTH, pairs, _BITS)
        yield

    def tile(self, row: Expr, column: Expr, widths: tuple[int, ...]) -> None:
        """Emit a tile: `rows` from `row` on, and columns of `widths` from `column` on."""
        _, _, bias, residual, y = self.buffers
        sums = (_SUMS,) * (sum(widths) // PAIR)
        biases = emit.separate(PAIR * column, 1)
        acc = emit.biased_accumulators(_pairs(self.rows), sums, self.shape.dtype, bias, biases)
        self._add(acc, self._stored or self._operands(row), column)
        for pair in range(acc.rows):
            for first, lanes in zip(emit.offsets(widths), widths, strict=True):
                parts = [acc.get(pair, (first + c) // PAIR) for c in range(0, lanes, PAIR)]
                for r in range(min(PAIR, self.rows)):
                    order = [
                        _SUMS * part + PAIR * r + c for part in range(len(parts)) for c in (0, 1)
                    ]
                    value = emit.held(tirx.Shuffle(parts, order), lanes, self.shape.dtype)
                    value = self.shape.activation.apply(value, lanes, self.shape.dtype)
                    place = (row + pair * PAIR + r, column + first)
                    if residual is not None:
                        value = value + emit.load(residual, *place, lanes=lanes)
                    emit.store(y, value, *place, lanes=lanes)

    def _operands(self, row: Expr) -> Operands:
        """Make the operands of a block of rows where they are multiplied."""
        x, places = self.buffers[0], integer.starts(self.shape.inputs, DEPTH)

        def operands(step: Expr, count: int) -> list[list[Expr]]:
            first = places[step] if isinstance(step, int) else step * DEPTH
            made: list[list[Expr]] = [[] for _ in range(count)]
            for i in range(0, self.rows, PAIR):
                for k in range(count):
                    rows = [
                        emit.load(x, row + i + j, first + k * DEPTH, lanes=DEPTH)
                        for j in range(min(PAIR, self.rows))
                    ]
                    both = tirx.Shuffle(rows * (PAIR // len(rows)), list(range(_VALUES)))
                    operand = emit.extern(_BITS, _VALUES, "mbv3c.bfloats", both)
                    made[k].append(emit.held(operand, _VALUES, _BITS))
            return made

        return operands

    def _add(self, acc: Accumulators, operands: Operands, column: Expr) -> None:
        """Add all products of a tile."""
        w, pairs = self.buffers[1], len(acc.widths)
        base = column * len(integer.starts(self.shape.inputs, DEPTH)) * DEPTH

        def add(step: Expr, count: int) -> None:
            for k, rows in enumerate(operands(step, count)):
                line = (step + k) * pairs
                # Column by column: registers hold one operand of weights beside those of x.
                for at in range(pairs):
                    weights = emit.load(w, base + (line + at) * _VALUES, lanes=_VALUES)
                    for i, values in enumerate(rows):
                        total = emit.extern(
                            "float32", _SUMS, "mbv3c.bfmmla", acc.get(i, at), values, weights
                        )
                        acc.set(i, at, total)

        loop = emit.loop if self._stored is None else emit.opaque_loop
        for_each_step(self.shape.inputs, DEPTH, add, turns=_TWOS, loop=loop)


def _panels(shape: BfloatPointwise, tile: Tile) -> list[Panels]:
    return emit.panels(shape.outputs, _SUMS, tile.vectors)


def _pairs(rows: int) -> int:
    return -(-rows // PAIR)


def _cost(shape: BfloatPointwise, tile: Tile, processor: Processor) -> float:
    """Estimate the instructions of the busiest core, times the number of cores."""
    runs, pairs = _panels(shape, tile), _pairs(tile.rows)
    cores = processor.cores if processor.worthwhile(shape.madds) else 1
    blocks, steps = -(-shape.rows // tile.rows), len(integer.starts(shape.inputs, DEPTH))
    stored = tile.rows_outer and sum(run.count for run in runs) > 1
    making = min(tile.rows, PAIR) * pairs * 1.5 + pairs * (tile.rows == 1)
    if tile.rows_outer:
        blocks = _shared(blocks, cores)
    total = 0.0
    for run in runs:
        columns = sum(run.widths) / PAIR
        from_x = pairs / 2 if stored else making
        waits = max(0.0, processor.fma_chains / 2 - pairs * columns)
        step = columns * (pairs + 0.5) + from_x + 4 / (2 * _TWOS) + waits
        each = 5 if shape.activation.gated else 4
        around = tile.rows * len(run.widths) * (each + shape.residual) + pairs * columns + 6
        count = run.count if tile.rows_outer else _shared(run.count, cores)
        total += blocks * count * (steps * step + around)
    return total + (blocks * steps * (making + pairs / 2 + 1) if stored else 0.0)


def _shared(count: int, cores: int) -> int:
    """Return a number of pieces, rounded up to what keeps all cores busy."""
    return -(-count // cores) * cores
