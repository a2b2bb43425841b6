"""A dense layer whose weights are stored in bf16 or int8: a matrix product of a few rows.

    y[m, n] = activation(Σ_k x[m, k] · w[n, k] + bias[n]) (+ residual[m, n])

The panels of the weights are as those of `pointwise`, and the arithmetic is that of fp32.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import Array, Pointwise
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Expr, Panels
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import stored
from mbv3c.targets.cpu.schedules.stored import Panel, storage_of

_MAX_ROWS = 16
_MAX_VECTORS = 16
_WIDENING = 3  # registers for words and for what they become, beside the words themselves


@dataclass(frozen=True)
class StoredPointwise(Pointwise):
    """The shape of a dense layer.

    Attributes:
        stored: how its weights are stored, one of `mbv3c.graphs.narrow.STORED`.
    """

    stored: str = ""


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        rows: rows of x in a tile.
        vectors: vectors of outputs in a panel; the panels are made as even as this allows.
    """

    rows: int
    vectors: int


def legal(shape: StoredPointwise, processor: Processor) -> list[Tile]:
    """Return the tiles whose sums and operands fit the registers."""
    together = storage_of(shape.stored).together
    return [
        Tile(rows, vectors)
        for rows in range(1, min(shape.rows, _MAX_ROWS) + 1)
        for vectors in stored.vector_counts(together, _MAX_VECTORS)
        if rows * (vectors + 1) + _WIDENING <= processor.registers
    ]


def default(shape: StoredPointwise, processor: Processor) -> Tile:
    """Take enough sums to hide the latency of multiply-adds, then as many rows as fit."""
    tiles = legal(shape, processor)
    enough = [tile for tile in tiles if tile.vectors >= processor.fma_chains] or tiles
    return max(enough, key=lambda tile: (tile.rows, -tile.vectors))


def pack(
    shape: StoredPointwise, tile: Tile, processor: Processor, weights: NDArray[np.float32]
) -> tuple[Array, ...]:
    """Return what the kernel takes for weights [N, K], as `stored.pack` says."""
    runs = _panels(shape, tile, processor)
    return stored.pack(weights, runs, processor.lanes("float32"), shape.stored)


def generate(shape: StoredPointwise, tile: Tile, processor: Processor) -> PrimFunc:
    """Write the kernel.

    Its arguments are x [M, K], packed weights, scales [N] of int8, bias [N], (residual), y [M, N].
    """
    m, k, n = shape.rows, shape.inputs, shape.outputs
    storage, lanes = storage_of(shape.stored), processor.lanes("float32")

    def body() -> None:
        x = emit.argument("x", (m, k), "float32")
        w = emit.argument("w", (k * n,), storage.dtype)
        scales = emit.argument("scales", (n,), "float32") if storage.scaled else None
        bias = emit.argument("bias", (n,), "float32")
        residual = emit.argument("residual", (m, n), "float32") if shape.residual else None
        y = emit.argument("y", (m, n), "float32")

        def emit_tile(row: Expr, run: Panels, column: Expr) -> None:
            panel = Panel(run.widths, lanes, shape.stored)
            sums = panel.begin(tile.rows, bias, column)
            rows = [(x, (row + i,)) for i in range(tile.rows)]
            stored.add_products(panel, sums, w, column * k, k, rows, processor)
            starts = emit.offsets(panel.widths)
            for i in range(tile.rows):
                results = panel.results(sums, i, scales, bias, column)
                for at, width, value in zip(starts, panel.widths, results, strict=True):
                    made = emit.held(value, width, "float32")
                    made = shape.activation.apply(made, width, "float32")
                    if residual is not None:
                        made = made + emit.load(residual, row + i, column + at, lanes=width)
                    emit.store(y, made, row + i, column + at, lanes=width)

        emit.for_each_tile(
            m,
            tile.rows,
            _panels(shape, tile, processor),
            rows_outer=False,
            parallel=processor.worthwhile(shape.madds),
            body=emit_tile,
        )

    return emit.build_kernel("stored_pointwise", body)


def _panels(shape: StoredPointwise, tile: Tile, processor: Processor) -> list[Panels]:
    lanes = processor.lanes("float32")
    return stored.panels(shape.outputs, lanes, shape.stored, tile.vectors)
