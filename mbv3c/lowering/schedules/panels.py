"""Weights packed for products: panels of columns, each in the order in which it is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Expr, offsets, vectors


@dataclass(frozen=True)
class Panels:
    """A run of adjacent panels of equal widths.

    Attributes:
        first: first column of the first panel.
        widths: lanes of each vector of a panel.
        count: number of panels.
    """

    first: int
    widths: tuple[int, ...]
    count: int

    @property
    def columns(self) -> int:
        """Columns of one panel."""
        return sum(self.widths)


def panels(columns: int, lanes: int, most: int) -> list[Panels]:
    """Cut columns into panels of at most `most` vectors, as evenly as possible."""
    widths = vectors(columns, lanes)
    count = -(-len(widths) // most)
    cuts = [-(-len(widths) * i // count) for i in range(count + 1)]
    starts = offsets(widths)
    runs: list[Panels] = []
    for a, b in pairwise(cuts):
        if runs and runs[-1].widths == widths[a:b]:
            runs[-1] = Panels(runs[-1].first, widths[a:b], runs[-1].count + 1)
        else:
            runs.append(Panels(starts[a], widths[a:b], 1))
    return runs


def for_each_tile(
    rows: int,
    tile_rows: int,
    runs: Sequence[Panels],
    *,
    rows_outer: bool,
    parallel: bool,
    body: Callable[[Expr, Panels, Expr], None],
) -> None:
    """Emit `body` for every tile of a product.

    The last block of rows begins early enough to be whole; some rows are computed twice.

    Args:
        rows: rows of the product.
        tile_rows: rows of a tile.
        runs: panels of the product's columns.
        rows_outer: whether the tiles of a row block follow each other, or those of a panel.
        parallel: whether the outer loop is shared between cores.
        body: emits the code of a tile, from its first row, its run of panels and its first column.
    """
    blocks = -(-rows // tile_rows)

    def emit_tile(i: Expr, run: Panels, j: Expr) -> None:
        row = i * tile_rows if rows % tile_rows == 0 else T.min(i * tile_rows, rows - tile_rows)
        body(row, run, run.first + j * run.columns)

    if rows_outer:
        with emit.loop(blocks, parallel=parallel) as i:
            for run in runs:
                with emit.loop(run.count) as j:
                    emit_tile(i, run, j)
        return
    for run in runs:
        with emit.loop(run.count, parallel=parallel) as j, emit.loop(blocks) as i:
            emit_tile(i, run, j)


def pack(weights: NDArray[Any], runs: Sequence[Panels], *, axis: int) -> NDArray[Any]:
    """Return weights as one array, panel by panel; the columns are the axis `axis` of weights."""
    before = (slice(None),) * axis
    parts = [
        weights[(*before, slice(run.first + i * run.columns, run.first + (i + 1) * run.columns))]
        for run in runs
        for i in range(run.count)
    ]
    return np.concatenate([part.ravel() for part in parts])


def turns(steps: int, step_bytes: int) -> int:
    """Return how many steps one turn of a loop takes, to spread the cost of looping.

    The weights of a turn stay within the reach of NEON's paired loads from one pointer.
    """
    reach = max(1, emit.PAIRED_LOAD_BYTES // step_bytes)
    return max(turns for turns in (1, 2, 4) if steps % turns == 0 and turns <= reach)
