"""Linear enlarging of planes by whole numbers: x [N, H, W] to y [N, H·f, W·g].

With output g·i + q + h of a row, for q in [0, g):

    v    = a + t·(b - a)                    of the two rows a and b that lie around the output row
    y[…] = v[i] + s[q]·(v[i+1] - v[i])      a vector of outputs from two numbers, at any i

Here h is the half of g where places are centres of pixels (`half_pixel`), else 0 (`asymmetric`). s
are g constants in registers: no place is computed, and nothing is gathered. What lies outside the
first and the last column is equal to it. Source: ONNX operator Resize-19.
"""

from dataclasses import dataclass
from functools import partial
from math import gcd

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.targets.cpu.cores import Processor

_DTYPE = "float32"
_MOST_ACROSS = 32  # of the constants, which stay in registers
_CELLS = 4  # columns at once: more lanes cost more to take apart


@dataclass(frozen=True)
class Upsample:
    """The shape of an enlarging.

    Attributes:
        planes: batch times channels.
        height, width: sides of the input.
        down, across: factors.
        centred: whether places are centres of pixels.
    """

    planes: int
    height: int
    width: int
    down: int
    across: int
    centred: bool

    def shift(self, factor: int) -> int:
        """Return how many outputs come before the first one between two inputs."""
        return factor // 2 if self.centred else 0

    def weights(self, factor: int) -> NDArray[np.float32]:
        """Return for each output between two inputs the share of the second input."""
        places = np.arange(factor) + self.shift(factor)
        centres = (places + 0.5) / factor - 0.5 if self.centred else places / factor
        return centres.astype(np.float32)


def is_possible(shape: Upsample, processor: Processor) -> bool:
    """Say whether rows are enlarged in vectors."""
    return _lanes(shape, processor) > 1 and shape.across <= _MOST_ACROSS and shape.width > 1


def generate(shape: Upsample, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x, the weights of both factors, and y."""
    h, w, down, across = shape.height, shape.width, shape.down, shape.across
    lanes = _lanes(shape, processor)
    outputs = shape.planes * h * down * w * across

    def body() -> None:
        x = emit.argument("x", (shape.planes, h, w), _DTYPE)
        rows = emit.argument("rows", (down,), _DTYPE)
        columns = emit.argument("columns", (across,), _DTYPE)
        y = emit.argument("y", (shape.planes, h * down, w * across), _DTYPE)
        with (
            emit.loop(shape.planes, parallel=processor.worthwhile(outputs)) as plane,
            emit.loop(h * down) as row,
        ):
            shares = [
                emit.held(emit.load(columns, at, lanes=lanes), lanes, _DTYPE)
                for at in range(0, across, lanes)
            ]
            place = row + (down - shape.shift(down))
            following = tirx.floordiv(place, down)
            above = (plane, T.max(following - 1, 0))
            below = (plane, T.min(following, h - 1))
            between = partial(_between, x, above, below, rows[tirx.floormod(place, down)])
            put = partial(_put, y, (plane, row))
            put(0, shape.shift(across), emit.held(between(0, 1), 1, _DTYPE))
            for run in emit.panels(w - 1, _CELLS, 1):
                with emit.loop(run.count) as i:
                    cell = run.first + i * run.columns
                    first = emit.held(between(cell, run.columns), run.columns, _DTYPE)
                    second = between(cell + 1, run.columns)
                    step = emit.held(second - first, run.columns, _DTYPE)
                    for at in range(run.columns):
                        start = (cell + at) * across + shape.shift(across)
                        base, grown = (
                            emit.splat(_lane(value, at, run.columns), lanes, _DTYPE)
                            for value in (first, step)
                        )
                        for number, share in enumerate(shares):
                            value = base + share * grown
                            emit.store(y, value, plane, row, start + number * lanes, lanes=lanes)
            last = emit.held(between(w - 1, 1), 1, _DTYPE)
            left = across - shape.shift(across)
            put(w * across - left, left, last)

    return emit.build_kernel("upsample", body)


def _lanes(shape: Upsample, processor: Processor) -> int:
    return gcd(shape.across, processor.lanes(_DTYPE))


def _between(
    x: Buffer,
    above: tuple[Expr, Expr],
    below: tuple[Expr, Expr],
    share: Expr,
    column: Expr,
    lanes: int,
) -> Expr:
    """Return some columns of the row that lies between two."""
    first = emit.load(x, *above, column, lanes=lanes)
    step = emit.load(x, *below, column, lanes=lanes) - first
    return first + emit.splat(share, lanes, _DTYPE) * step


def _lane(value: Expr, at: int, lanes: int) -> Expr:
    return value if lanes == 1 else tirx.Shuffle([value], [at])


def _put(y: Buffer, row: tuple[Expr, Expr], start: Expr, count: int, value: Expr) -> None:
    """Write one number `count` times."""
    widths = emit.vectors(count, _CELLS)
    for at, lanes in zip(emit.offsets(widths), widths, strict=True):
        emit.store(y, emit.splat(value, lanes, _DTYPE), *row, start + at, lanes=lanes)
