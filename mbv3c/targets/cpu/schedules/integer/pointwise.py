"""Pointwise convolution of int8: a matrix product in int32, rounded to int8.

    y[m, n] = look up(round((Σ_k x[m, k] · w[n, k] + bias[n]) · scale[n]) + zero)

The loops are those of the fp32 product. If the processor adds four products at once, weights are
packed as [panel][K / 4][terms][columns][4]; a weight of nine bits is the sum of two terms. The
last four of K begin early enough to be complete; weights that the four before already have are 0
there. AVX2 adds two products of int16: there it is [panel][K / 2][columns][2]. Where `matrices`
multiplies several rows by `smmla`, it is [panel][K / 8][terms][columns][8]. On other processors
weights are [panel][K][columns], as int16.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Accumulators, Buffer, Expr, Panels
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer import matrices, pairs
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP, VECTOR
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization
from mbv3c.targets.cpu.schedules.operands import PAIR, in_pairs

_MAX_ROWS = 12
_MAX_VECTORS = 3
_MAX_STACK = pairs.MOST_BYTES  # of operands and results of a row block
_CHUNK = 16  # bytes of a row that are loaded at once
_ROUNDING = 21  # instructions that round 16 sums to int8, estimated
_LOOK_UP = 8  # instructions that look up 16 int8, estimated


@dataclass(frozen=True)
class IntegerPointwise:
    """The shape of a pointwise convolution or of a fully connected layer of int8."""

    rows: int
    inputs: int
    outputs: int
    output: Requantization
    dtype: ClassVar = "int8"
    terms: ClassVar = 1  # int8 whose sum a weight is

    @property
    def madds(self) -> int:
        return self.rows * self.inputs * self.outputs

    @property
    def columns(self) -> int:
        """The outputs, rounded up to a multiple of four."""
        return -(-self.outputs // GROUP) * GROUP

    @property
    def typical(self) -> "IntegerPointwise":
        """The shape that stands for all that differ only in zero points, when measuring."""
        return replace(self, output=self.output.typical)


@dataclass(frozen=True)
class WidePointwise(IntegerPointwise):
    """One with weights of nine bits."""

    terms: ClassVar = 2


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        rows: rows of x in a tile.
        vectors: vectors of 16 outputs in a panel, of 8 with products of matrices; the panels are
            made as even as this allows.
        rows_outer: whether the tiles of a row block follow each other, not those of a panel.
    """

    rows: int
    vectors: int
    rows_outer: bool


def covers(shape: IntegerPointwise) -> bool:
    """Say whether the kernel can compute this shape."""
    return shape.inputs >= GROUP


def legal(shape: IntegerPointwise, processor: Processor) -> list[Tile]:
    """Return the tiles whose accumulators and operands fit the registers."""
    lanes = _lanes(shape, processor)
    step = PAIR if _by_matrices(shape, processor) else 1  # rows of an operand
    in_pairs, stored = integer.has_pairs(processor), 0  # bytes of a row on the stack
    if in_pairs or step > 1:
        stored = shape.inputs + (shape.inputs if in_pairs else shape.columns)

    def fits(rows: int, run: Panels) -> bool:
        registers = len(integer.parts_of(run.widths, processor))
        operands = registers if in_pairs else rows // step
        return rows * registers + operands + 2 <= processor.registers

    return [
        Tile(rows, vectors, rows_outer)
        for rows in range(step, min(shape.rows, _MAX_ROWS) + 1, step)
        for vectors in range(1, min(len(emit.vectors(shape.columns, lanes)), _MAX_VECTORS) + 1)
        if all(fits(rows, run) for run in emit.panels(shape.columns, lanes, vectors))
        for rows_outer in (False, True)
        if not rows_outer or rows * stored <= _MAX_STACK
    ]


def default(shape: IntegerPointwise, processor: Processor) -> Tile:
    """Choose the tile that needs the fewest instructions, and the order that suits the caches."""
    return min(
        (tile for tile in legal(shape, processor) if _suits(shape, tile, processor)),
        key=lambda tile: (_cost(shape, tile, processor), -tile.rows),
    )


def pack(
    shape: IntegerPointwise, tile: Tile, processor: Processor, weights: NDArray[Any]
) -> NDArray[np.int8 | np.int16]:
    """Return weights [N, K] as a flat array, panel by panel."""
    columns: NDArray[Any] = np.zeros((shape.columns, shape.inputs), np.int16)
    columns[: shape.outputs] = weights
    group = _group(shape, processor)
    starts = integer.starts(shape.inputs, group)
    has_dot = integer.has_dot(processor)
    terms = integer.in_terms(columns, shape.terms) if has_dot else columns[None]
    # [K / group, terms, N, group]
    taken = np.stack([terms[:, :, at : at + group] for at in starts])
    taken[-1, :, :, : group * len(starts) - shape.inputs] = 0
    return emit.pack(taken, _panels(shape, tile, processor), axis=2)


def pad(
    shape: IntegerPointwise, processor: Processor, row: NDArray[np.int32 | np.float32]
) -> NDArray[np.generic]:
    """Return biases or factors as they are read, with zeros for columns that are no outputs."""
    filled = np.pad(row, (0, shape.columns - shape.outputs))
    return in_pairs(filled) if _by_matrices(shape, processor) else filled


def generate(shape: IntegerPointwise, tile: Tile, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [M, K], packed weights, bias, scale, (table), y."""

    def body() -> None:
        m, n = shape.rows, shape.columns
        x = emit.argument("x", (m, shape.inputs), "int8")
        stored = integer.weight_type(processor, shape.terms)
        w = emit.argument("w", (_depth(shape, processor) * n,), stored)
        twice = PAIR if _by_matrices(shape, processor) else 1
        bias = emit.argument("bias", (n * twice,), "int32")
        scale = emit.argument("scale", (n * twice,), shape.output.factor_type)
        table = integer.argument_table(shape.output)
        y = emit.argument("y", (m, shape.outputs), "int8")
        buffers = (x, w, bias, scale, table, y)
        runs = _runs(shape, tile, processor)
        add, around = _adder(shape, tile.rows, processor, x, w)
        product = None
        if _by_matrices(shape, processor):
            several = sum(run.count for run in runs) > 1
            product = matrices.Product(
                tile.rows, shape.terms, shape.output, processor, buffers, several
            )
            around = product.block

        def emit_tile(row: Expr, run: Panels, column: Expr) -> None:
            kept = shape.outputs - run.first if run is runs[-1] else run.columns
            if product is not None:
                product.tile(row, column, run.widths, kept)
                return
            parts = integer.parts_of(run.widths, processor)
            acc = emit.biased_accumulators(tile.rows, parts, "int32", bias, column)
            add(acc, row, column)
            _round(shape, processor, buffers, acc, row, column, run.widths, kept)

        emit.for_each_tile(
            m,
            tile.rows,
            runs,
            rows_outer=tile.rows_outer,
            parallel=processor.worthwhile(shape.madds),
            body=emit_tile,
            around=around if tile.rows_outer else None,
        )

    return emit.build_kernel("integer_pointwise", body)


# Adds the products of a tile, from its sums, its first row and its first column.
Adder = Callable[[Accumulators, Expr, Expr], None]
# Emits what stands around the tiles of a block of rows.
Around = Callable[[Expr], AbstractContextManager[None]]


def _adder(
    shape: IntegerPointwise, rows: int, processor: Processor, x: Buffer, w: Buffer
) -> tuple[Adder, Around | None]:
    """Return what adds the products of a tile, and what it needs around a block of rows."""
    if integer.has_pairs(processor):
        product = pairs.Product(rows, (x, w), processor)
        return product.add, product.block
    add = _add_dots if integer.has_dot(processor) else _add_products
    return partial(add, shape, processor, x, w), None


def _runs(shape: IntegerPointwise, tile: Tile, processor: Processor) -> list[Panels]:
    """Return the panels; one with columns that are no outputs stands by itself."""
    *before, last = _panels(shape, tile, processor)
    if shape.outputs == shape.columns or last.count == 1:
        return [*before, last]
    others = replace(last, count=last.count - 1)
    return [*before, others, Panels(last.first + others.count * last.columns, last.widths, 1)]


def _round(
    shape: IntegerPointwise,
    processor: Processor,
    buffers: tuple[Buffer, ...],
    acc: Accumulators,
    row: Expr,
    column: Expr,
    panel: tuple[int, ...],
    kept: int,
) -> None:
    """Round the sums of a tile, and store those of columns that are outputs."""
    scale, table, y = buffers[3:]
    starts = emit.offsets(panel)
    for i in range(acc.rows):
        done = 0
        for at, width in zip(starts, panel, strict=True):
            width_parts = integer.parts(width, processor)
            sums = [acc.get(i, done + part) for part in range(len(width_parts))]
            done += len(width_parts)
            values = integer.scaled(sums, scale, column + at, width_parts)
            result = integer.narrow(values, width_parts, shape.output, table, processor)
            integer.store_first(y, result, row + i, column + at, width=width, count=kept - at)


def _add_dots(
    shape: IntegerPointwise,
    processor: Processor,
    x: Buffer,
    w: Buffer,
    acc: Accumulators,
    row: Expr,
    column: Expr,
) -> None:
    """Add all products, four at once."""
    parts, width = acc.widths, sum(acc.widths)
    offsets = emit.offsets(parts)
    base = column * _depth(shape, processor)

    def chunk(first: Expr, group: Expr, count: int) -> None:
        loaded = [
            integer.fours(x, row + i, first, count=count, processor=processor)
            for i in range(acc.rows)
        ]
        for k in range(count):
            four = [at(k) for at in loaded]
            # Column by column: registers hold one vector of weights beside the rows of x.
            for term in range(shape.terms):
                line = (group + k) * shape.terms + term
                for i, v in sorted(acc.places(), key=lambda place: place[1]):
                    weights = emit.load(
                        w, base + GROUP * (line * width + offsets[v]), lanes=GROUP * parts[v]
                    )
                    total = integer.add_dot(acc.get(i, v), weights, four[i], parts[v], processor)
                    acc.set(i, v, total)

    groups = _CHUNK // GROUP
    chunks = shape.inputs // _CHUNK
    turns = emit.turns(chunks, _CHUNK * width)
    if chunks:
        with emit.loop(chunks // turns) as turn:
            for at in range(turns):
                number = turn * turns + at
                chunk(number * _CHUNK, number * groups, groups)
    starts = integer.starts(shape.inputs, GROUP)
    group = chunks * groups
    while group < len(starts):
        count = 2 if group + 1 < len(starts) and starts[group + 1] == starts[group] + GROUP else 1
        chunk(starts[group], group, count)
        group += count


def _add_products(
    shape: IntegerPointwise,
    processor: Processor,
    x: Buffer,
    w: Buffer,
    acc: Accumulators,
    row: Expr,
    column: Expr,
) -> None:
    """Add all products, one by one, int16 times int16."""
    parts, width = acc.widths, sum(acc.widths)
    offsets = emit.offsets(parts)
    base = column * shape.inputs

    def chunk(first: Expr, count: int) -> None:
        loaded = [
            emit.lanes_of(x, row + i, first, lanes=count, dtype="int16") for i in range(acc.rows)
        ]
        for k in range(count):
            factors = [at(k) for at in loaded]
            for i, v in acc.places():
                at = base + (first + k) * width + offsets[v]
                weights = emit.cast(emit.load(w, at, lanes=parts[v]), parts[v], "int32")
                factor = emit.cast(emit.splat(factors[i], parts[v], "int16"), parts[v], "int32")
                acc.add_product(i, v, factor, weights)

    step = 8 if processor.lane_operands else 1
    turns = shape.inputs // step
    if turns:
        with emit.loop(turns) as turn:
            chunk(turn * step, step)
    for k in range(turns * step, shape.inputs):
        chunk(k, 1)


def _by_matrices(shape: IntegerPointwise, processor: Processor) -> bool:
    """Say whether the product takes rows by twos: a single row would leave half of it unused."""
    return integer.has_smmla(processor) and shape.rows > 1 and shape.inputs >= matrices.DEPTH


def _lanes(shape: IntegerPointwise, processor: Processor) -> int:
    """Return how many columns a vector of a panel has."""
    return matrices.LANES if _by_matrices(shape, processor) else VECTOR


def _panels(shape: IntegerPointwise, tile: Tile, processor: Processor) -> list[Panels]:
    return emit.panels(shape.columns, _lanes(shape, processor), tile.vectors)


def _group(shape: IntegerPointwise, processor: Processor) -> int:
    """Return how many products the processor adds at once."""
    if _by_matrices(shape, processor):
        return matrices.DEPTH
    if integer.has_dot(processor):
        return GROUP
    return pairs.PAIR if integer.has_pairs(processor) else 1


def _depth(shape: IntegerPointwise, processor: Processor) -> int:
    """Return how many weights are stored for an output."""
    group = _group(shape, processor)
    terms = shape.terms if integer.has_dot(processor) else 1
    return len(integer.starts(shape.inputs, group)) * group * terms


def _suits(shape: IntegerPointwise, tile: Tile, processor: Processor) -> bool:
    """Say whether the order of the tiles suits the caches, or costs decide about it."""
    if _by_matrices(shape, processor):
        return True
    weights = shape.inputs * shape.outputs
    if not integer.has_pairs(processor):
        return tile.rows_outer == (weights <= processor.l1_bytes // 2)
    cores = processor.cores if processor.worthwhile(shape.madds) else 1
    blocks = -(-shape.rows // tile.rows)
    near = blocks == 1 or weights <= processor.l2_bytes // 2
    return not tile.rows_outer or (near and blocks >= cores)


def _cost(shape: IntegerPointwise, tile: Tile, processor: Processor) -> float:
    """Estimate the instructions of the whole product."""
    blocks = -(-shape.rows // tile.rows)
    runs = _panels(shape, tile, processor)
    if _by_matrices(shape, processor):
        kind = matrices.Estimate(tile.rows, shape.inputs, shape.terms, shape.output)
        cores = processor.cores if processor.worthwhile(shape.madds) else 1
        return kind.product(blocks, runs, cores, shape.outputs if tile.rows_outer else 0)
    tiles = sum(run.count * _tile_cost(shape, tile.rows, run.widths, processor) for run in runs)
    if integer.has_pairs(processor):
        times = 1 if tile.rows_outer else sum(run.count for run in runs)
        tiles += times * pairs.widening(tile.rows, shape.inputs, processor)
    return blocks * tiles


def _tile_cost(
    shape: IntegerPointwise, rows: int, panel: tuple[int, ...], processor: Processor
) -> float:
    parts = integer.parts_of(panel, processor)
    narrow = sum(_ROUNDING * max(4, width) / VECTOR + 2 for width in panel)
    look_up = (_LOOK_UP * len(panel) + 8 / rows) if shape.output.lookup else 0
    around = rows * (narrow + look_up) + 10
    if integer.has_pairs(processor):
        return pairs.instructions(rows, shape.inputs, len(parts)) + around
    per_word = len(parts) if integer.has_dot(processor) else GROUP * len(parts)
    waits = max(0.0, processor.fma_chains / 2 - rows * len(parts))
    turns = emit.turns(max(1, shape.inputs // _CHUNK), _CHUNK * sum(panel))
    from_x = rows if processor.integers == "vnni" else rows / GROUP
    step = rows * per_word + per_word / 2 + from_x + waits + 3 / (GROUP * turns)
    return shape.inputs / GROUP * step + around
