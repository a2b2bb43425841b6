"""Pointwise convolution: a matrix product with the weights packed for it.

    y[m, n] = activation(Σ_k x[m, k] · w[n, k] + bias[n]) (+ residual[m, n])

x is NHWC with its spatial axes as rows: [M, K]; M is 1 for classifiers and SE. The product is cut
into tiles that fit the registers: `rows` of x times a panel of columns (Goto and van de Geijn,
"Anatomy of high-performance matrix multiplication", 2008). The packed weights are all panels, one
after another; a panel's weights lie in the order in which they are read, [K][panel].
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import Pointwise
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr, Panels
from mbv3c.targets.cpu.cores import Processor

_MAX_ROWS = 16
_MAX_VECTORS = 16
_CONSTANTS = 2
_HALF_LANES = 16  # registers from which NEON can take a lane of half precision


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        rows: rows of x in a tile.
        vectors: vectors of outputs in a panel; the panels are made as even as this allows.
        rows_outer: whether the tiles of a row block follow each other, not those of a panel.
    """

    rows: int
    vectors: int
    rows_outer: bool


def legal(shape: Pointwise, processor: Processor) -> list[Tile]:
    """Return the tiles whose accumulators and operands fit the registers."""
    widest = len(emit.vectors(shape.outputs, processor.lanes(shape.dtype)))
    return [
        Tile(rows, vectors, rows_outer)
        for rows in range(1, min(shape.rows, _MAX_ROWS) + 1)
        for vectors in range(1, min(widest, _MAX_VECTORS) + 1)
        if rows * vectors + _operands(shape, rows, vectors, processor) <= processor.registers
        if not (processor.lane_operands and shape.dtype == "float16") or 2 * rows <= _HALF_LANES
        for rows_outer in (False, True)
    ]


def default(shape: Pointwise, processor: Processor) -> Tile:
    """Choose the tile that needs the fewest instructions, and the order that suits the caches."""
    weights = shape.inputs * shape.outputs * np.dtype(shape.dtype).itemsize
    rows_outer = weights <= processor.l1_bytes // 2
    return min(
        (tile for tile in legal(shape, processor) if tile.rows_outer == rows_outer),
        key=lambda tile: (_cost(shape, tile, processor), -tile.rows),
    )


def pack(
    shape: Pointwise, tile: Tile, processor: Processor, weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return weights [N, K] as one array: the panels [K][panel], one after another."""
    return emit.pack(weights.T, _panels(shape, tile, processor), axis=1)


def generate(shape: Pointwise, tile: Tile, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [M, K], packed weights, bias [N], (residual), y."""

    def body() -> None:
        m, k, n = shape.rows, shape.inputs, shape.outputs
        x = emit.argument("x", (m, k), shape.dtype)
        w = emit.argument("w", (k * n,), shape.dtype)
        bias = emit.argument("bias", (n,), shape.dtype)
        residual = emit.argument("residual", (m, n), shape.dtype) if shape.residual else None
        y = emit.argument("y", (m, n), shape.dtype)

        runs = _panels(shape, tile, processor)
        blocks = -(-m // tile.rows)
        parallel = processor.worthwhile(shape.madds)

        def emit_tile(row: Expr, run: Panels, column: Expr) -> None:
            _tile(shape, processor, (x, w, bias, residual, y), row, tile.rows, column, run.widths)

        by_rows = tile.rows_outer or (parallel and _better_by_rows(blocks, runs, processor))
        emit.for_each_tile(
            m, tile.rows, runs, rows_outer=by_rows, parallel=parallel, body=emit_tile
        )

    return emit.build_kernel("pointwise", body)


def _tile(
    shape: Pointwise,
    processor: Processor,
    buffers: tuple[Buffer, ...],
    row: Expr,
    rows: int,
    column: Expr,
    panel: tuple[int, ...],
) -> None:
    x, w, bias, residual, y = buffers
    width, starts = sum(panel), emit.offsets(panel)
    acc = emit.biased_accumulators(rows, panel, shape.dtype, bias, column)

    def multiply(k: Expr, factor: list[Expr]) -> None:
        for i, v in acc.places():
            lanes = panel[v]
            weight = emit.load(w, column * shape.inputs + k * width + starts[v], lanes=lanes)
            acc.add_product(i, v, emit.splat(factor[i], lanes, shape.dtype), weight)

    step = processor.lanes(shape.dtype) if processor.lane_operands else 1
    full_steps = shape.inputs // step

    def multiply_steps(start: Expr, steps: int) -> None:
        turns = _turns(shape, steps, panel, processor) if step > 1 else 1
        with emit.loop(steps // turns) as ko:
            for turn in range(turns):
                first = start + (ko * turns + turn) * step
                loaded = [
                    emit.lanes_of(x, row + i, first, lanes=step, dtype=shape.dtype)
                    for i in range(rows)
                ]
                for k in range(step):
                    multiply(first + k, [at(k) for at in loaded])

    wide = emit.sum_type(shape.dtype)
    if wide == shape.dtype or full_steps * step <= emit.HALF_SUM:
        multiply_steps(0, full_steps)
    else:
        total = emit.accumulators(rows, panel, wide)
        total.clear()
        total.add(acc)
        for part in emit.panels(full_steps * step, step, emit.HALF_SUM // step):
            with emit.loop(part.count) as turn:
                acc.clear()
                multiply_steps(part.first + turn * part.columns, len(part.widths))
                total.add(acc)
        acc.clear()
        acc.add(total)
    for k in range(full_steps * step, shape.inputs):
        multiply(k, [x[row + i, k] for i in range(rows)])
    for i in range(rows):
        for v, lanes in enumerate(panel):
            value = shape.activation.apply(acc.get(i, v), lanes, shape.dtype)
            if residual is not None:
                value = value + emit.load(residual, row + i, column + starts[v], lanes=lanes)
            emit.store(y, value, row + i, column + starts[v], lanes=lanes)


def _panels(shape: Pointwise, tile: Tile, processor: Processor) -> list[Panels]:
    return emit.panels(shape.outputs, processor.lanes(shape.dtype), tile.vectors)


def _operands(shape: Pointwise, rows: int, vectors: int, processor: Processor) -> int:
    """Return how many registers a tile needs beside its accumulators.

    With lane operands these are a vector of every row, a second vector of every row whose load
    LLVM pairs, and the weights of one place along K; with few registers, also those in which LLVM
    keeps constants of the activation. Without them, LLVM issues the broadcasts of
    all rows together.
    """
    if not processor.lane_operands:
        return rows + min(vectors, 3)
    constants = 0 if processor.paired_loads else _CONSTANTS
    return rows + _paired(shape, rows, processor) + vectors + constants


def _turns(shape: Pointwise, steps: int, panel: tuple[int, ...], processor: Processor) -> int:
    """Return how many steps along K one turn of the loop takes.

    Without paired loads it is one: LLVM loads what a second step reads of x ahead, and there are
    no registers for it.
    """
    step = processor.lanes(shape.dtype)
    return emit.turns(steps, _step_bytes(shape, step, panel)) if processor.paired_loads else 1


def _paired(shape: Pointwise, rows: int, processor: Processor) -> int:
    """Return how many rows of a tile paired loads reach from one pointer."""
    if not processor.paired_loads:
        return 0
    row_bytes = shape.inputs * np.dtype(shape.dtype).itemsize
    return min(rows, 1 + (emit.PAIRED_LOAD_BYTES - 1) // row_bytes)


def _step_bytes(shape: Pointwise, step: int, panel: tuple[int, ...]) -> int:
    """Return how many bytes of weights a panel has for `step` places along K."""
    return step * sum(panel) * np.dtype(shape.dtype).itemsize


def _cost(shape: Pointwise, tile: Tile, processor: Processor) -> float:
    """Estimate the work of the whole product in multiply-add slots."""
    blocks = -(-shape.rows // tile.rows)
    return sum(
        run.count * blocks * _tile_cost(shape, tile.rows, run.widths, processor)
        for run in _panels(shape, tile, processor)
    )


def _tile_cost(shape: Pointwise, rows: int, panel: tuple[int, ...], processor: Processor) -> float:
    lanes = processor.lanes(shape.dtype)
    slots = sum(1.0 if width == lanes else processor.partial_cost for width in panel)
    products = rows * slots
    if processor.lane_operands:  # every instruction takes a slot of the front end
        turns = _turns(shape, max(1, shape.inputs // lanes), panel, processor)
        from_x = (rows - _paired(shape, rows, processor) / 2) / lanes
        loads = (
            from_x
            + slots / (2 if processor.paired_loads else 1)
            + max(0.0, processor.fma_chains / 2 - products)
        )
        overhead = 3 / (lanes * turns)
    else:  # loads go beside the multiply-adds; too few of those wait for each other
        loads = max(0.0, 0.5 * (rows + slots) - 0.5 * products)
        overhead = max(0.0, processor.fma_chains - products) + 0.5 + 0.05 * (rows + slots)
    return shape.inputs * (products + loads + overhead) + 6 * products


def _better_by_rows(blocks: int, runs: list[Panels], processor: Processor) -> bool:
    """Say whether cores are busy more evenly with shared row blocks than with shared emit."""
    widest = max(run.count for run in runs)
    return _balance(blocks, processor.cores) >= _balance(widest, processor.cores)


def _balance(turns: int, cores: int) -> float:
    return turns / (-(-turns // cores) * cores)
