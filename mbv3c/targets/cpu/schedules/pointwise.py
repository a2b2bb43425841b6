"""Pointwise convolution: a matrix product with the weights packed for it.

    y[m, n] = activation(Σ_k x[m, k] · w[n, k] + bias[n]) (+ residual[m, n])

x is NHWC with its spatial axes as rows: [M, K]; M is 1 for classifiers and SE. The product is cut
into tiles that fit the registers (Goto and van de Geijn, "Anatomy of high-performance matrix
multiplication", 2008): `rows` of x times one panel of columns. A panel's weights are adjacent in
memory in the order in which they are read, [K][panel]; the packed weights are all panels, one
after another.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.schedules import emit, panels
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.lowering.schedules.panels import Panels
from mbv3c.lowering.shapes import Pointwise
from mbv3c.targets.cpu.processor import Processor

_MAX_ROWS = 16
_MAX_VECTORS = 16
_HALF_LANES = 16  # registers of which NEON can take a lane of half precision
_HALF_SUM = 96  # products that are added in half precision before single precision adds theirs


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        rows: rows of x in a tile.
        vectors: vectors of outputs in a panel; the panels are made as even as this allows.
        rows_outer: whether the tiles of one row block follow each other, or those of one panel.
    """

    rows: int
    vectors: int
    rows_outer: bool


def legal(shape: Pointwise, machine: Processor) -> list[Tile]:
    """Return the tiles whose accumulators and operands fit the registers."""
    widest = len(emit.vectors(shape.outputs, machine.lanes(shape.dtype)))
    return [
        Tile(rows, vectors, rows_outer)
        for rows in range(1, min(shape.rows, _MAX_ROWS) + 1)
        for vectors in range(1, min(widest, _MAX_VECTORS) + 1)
        if rows * vectors + _operands(shape, rows, vectors, machine) <= machine.registers
        if not (machine.lane_operands and shape.dtype == "float16") or 2 * rows <= _HALF_LANES
        for rows_outer in (False, True)
    ]


def default(shape: Pointwise, machine: Processor) -> Tile:
    """Choose the tile that needs the fewest instructions, and the order that suits the caches."""
    weights = shape.inputs * shape.outputs * np.dtype(shape.dtype).itemsize
    rows_outer = weights <= machine.l1_bytes // 2
    return min(
        (tile for tile in legal(shape, machine) if tile.rows_outer == rows_outer),
        key=lambda tile: (_cost(shape, tile, machine), -tile.rows),
    )


def pack(
    shape: Pointwise, tile: Tile, machine: Processor, weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return weights [N, K] as one array: the panels [K][panel], one after another."""
    return panels.pack(weights.T, _panels(shape, tile, machine), axis=1)


def generate(shape: Pointwise, tile: Tile, machine: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [M, K], packed weights, bias [N], (residual), y."""

    def body() -> None:
        m, k, n = shape.rows, shape.inputs, shape.outputs
        x = emit.argument("x", (m, k), shape.dtype)
        w = emit.argument("w", (k * n,), shape.dtype)
        bias = emit.argument("bias", (n,), shape.dtype)
        residual = emit.argument("residual", (m, n), shape.dtype) if shape.residual else None
        y = emit.argument("y", (m, n), shape.dtype)

        runs = _panels(shape, tile, machine)
        blocks = -(-m // tile.rows)
        parallel = machine.worthwhile(shape.madds)

        def one(row: Expr, run: Panels, column: Expr) -> None:
            _tile(shape, machine, (x, w, bias, residual, y), row, tile.rows, column, run.widths)

        by_rows = tile.rows_outer or (parallel and _better_by_rows(blocks, runs, machine))
        panels.for_each_tile(m, tile.rows, runs, rows_outer=by_rows, parallel=parallel, body=one)

    return emit.build_kernel("pointwise", body)


def _tile(
    shape: Pointwise,
    machine: Processor,
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

    step = machine.lanes(shape.dtype) if machine.lane_operands else 1
    whole = shape.inputs // step

    def multiply_steps(start: Expr, steps: int) -> None:
        turns = panels.turns(steps, _step_bytes(shape, step, panel)) if step > 1 else 1
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
    if wide == shape.dtype or whole * step <= _HALF_SUM:
        multiply_steps(0, whole)
    else:
        total = emit.accumulators(rows, panel, wide)
        total.clear()
        total.add(acc)
        for part in panels.panels(whole * step, step, _HALF_SUM // step):
            with emit.loop(part.count) as turn:
                acc.clear()
                multiply_steps(part.first + turn * part.columns, len(part.widths))
                total.add(acc)
        acc.clear()
        acc.add(total)
    for k in range(whole * step, shape.inputs):
        multiply(k, [x[row + i, k] for i in range(rows)])
    for i in range(rows):
        for v, lanes in enumerate(panel):
            value = shape.activation.apply(acc.get(i, v), lanes, shape.dtype)
            if residual is not None:
                value = value + emit.load(residual, row + i, column + starts[v], lanes=lanes)
            emit.store(y, value, row + i, column + starts[v], lanes=lanes)


def _panels(shape: Pointwise, tile: Tile, machine: Processor) -> list[Panels]:
    return panels.panels(shape.outputs, machine.lanes(shape.dtype), tile.vectors)


def _operands(shape: Pointwise, rows: int, vectors: int, machine: Processor) -> int:
    """Return how many registers a tile needs beside its accumulators.

    Lanes come from one vector of every row, and from a second one of those rows that lie so near
    to each other that LLVM pairs their loads; then there are the weights of one place. Without
    lanes LLVM issues the broadcasts of all rows together.
    """
    if not machine.lane_operands:
        return rows + min(vectors, 3)
    return rows + _paired(shape, rows) + vectors


def _paired(shape: Pointwise, rows: int) -> int:
    """Return how many rows of a tile paired loads reach from one pointer."""
    row_bytes = shape.inputs * np.dtype(shape.dtype).itemsize
    return min(rows, 1 + (emit.PAIRED_LOAD_BYTES - 1) // row_bytes)


def _step_bytes(shape: Pointwise, step: int, panel: tuple[int, ...]) -> int:
    """Return how many bytes of weights a panel has for so many of K."""
    return step * sum(panel) * np.dtype(shape.dtype).itemsize


def _cost(shape: Pointwise, tile: Tile, machine: Processor) -> float:
    """Estimate the work of the whole product in multiply-add slots."""
    blocks = -(-shape.rows // tile.rows)
    return sum(
        run.count * blocks * _tile_cost(shape, tile.rows, run.widths, machine)
        for run in _panels(shape, tile, machine)
    )


def _tile_cost(shape: Pointwise, rows: int, panel: tuple[int, ...], machine: Processor) -> float:
    lanes = machine.lanes(shape.dtype)
    slots = sum(1.0 if width == lanes else machine.partial_cost for width in panel)
    products = rows * slots
    if machine.lane_operands:  # every instruction takes a slot of the front end
        step_bytes = _step_bytes(shape, lanes, panel)
        turns = panels.turns(max(1, shape.inputs // lanes), step_bytes)
        from_x = (rows - _paired(shape, rows) / 2) / lanes
        loads = from_x + slots / 2 + max(0.0, machine.fma_chains / 2 - products)
        overhead = 3 / (lanes * turns)
    else:  # loads go beside the multiply-adds; too few of those wait for each other
        loads = max(0.0, 0.5 * (rows + slots) - 0.5 * products)
        overhead = max(0.0, machine.fma_chains - products) + 0.5 + 0.05 * (rows + slots)
    return shape.inputs * (products + loads + overhead) + 6 * products


def _better_by_rows(blocks: int, runs: list[Panels], machine: Processor) -> bool:
    """Say which loop keeps several cores busy more evenly."""
    widest = max(run.count for run in runs)
    return _balance(blocks, machine.cores) >= _balance(widest, machine.cores)


def _balance(turns: int, cores: int) -> float:
    return turns / (-(-turns // cores) * cores)
