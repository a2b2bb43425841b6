"""Weights packed for products: panels of columns, each in the order in which it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mbv3c.lowering.schedules.emit import offsets, vectors


@dataclass(frozen=True)
class Panels:
    """A run of adjacent panels of equal widths.

    Attributes:
        first: first column.
        widths: lanes of the vectors of a panel.
        count: how many panels there are.
    """

    first: int
    widths: tuple[int, ...]
    count: int

    @property
    def columns(self) -> int:
        """Columns of one panel."""
        return sum(self.widths)


def panels(columns: int, lanes: int, most: int) -> list[Panels]:
    """Cut columns into panels of at most `most` vectors, as even as that allows."""
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


def pack(matrix: NDArray[np.float32], runs: Sequence[Panels]) -> NDArray[np.float32]:
    """Return a matrix [K, N] as one array: the panels [K][columns], one after another."""
    parts = [
        matrix[:, run.first + i * run.columns : run.first + (i + 1) * run.columns].ravel()
        for run in runs
        for i in range(run.count)
    ]
    return np.ascontiguousarray(np.concatenate(parts))
