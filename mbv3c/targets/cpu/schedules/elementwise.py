"""What touches every value once: sums, products, activations, changes of layout."""

import numpy as np
from tvm import tirx
from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import Elementwise, Transpose
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Expr, panels
from mbv3c.targets.cpu.cores import Processor

_LINE_BYTES = 64  # of a cache
_SIDE = 8  # of the largest square that is turned in registers


def generate_elementwise(shape: Elementwise, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are a [B, P, C], (b), y [B, P, C]."""
    b, p, c = shape.batch, shape.places, shape.channels

    def body() -> None:
        first = emit.argument("a", (b, p, c), shape.dtype)
        second = None
        if shape.operator:
            second = emit.argument("b", (b, c) if shape.per_channel else (b, p, c), shape.dtype)
        result = shape.result or shape.dtype
        y = emit.argument("y", (b, p, c), result)
        with emit.loop(b) as n, emit.loop(p) as at:
            for run in panels(c, processor.lanes(shape.dtype), 1):
                with emit.loop(run.count) as g:
                    lanes, where = run.columns, run.first + g * run.columns
                    value = emit.load(first, n, at, where, lanes=lanes)
                    if second is not None:
                        index = (n, where) if shape.per_channel else (n, at, where)
                        other = emit.load(second, *index, lanes=lanes)
                        value = value + other if shape.operator == "add" else value * other
                    value = shape.activation.apply(value, lanes, shape.dtype)
                    emit.store(y, emit.cast(value, lanes, result), n, at, where, lanes=lanes)

    return emit.build_kernel("elementwise", body)


def generate_transpose(shape: Transpose, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x and y.

    Squares of a vector's lanes are turned in registers. As many stand beside each other as fill a
    line of the cache.
    """
    result = shape.result or shape.dtype
    lanes = min(_SIDE, processor.lanes("float32"))
    most = max(1, _LINE_BYTES // (lanes * np.dtype(shape.dtype).itemsize))

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.rows, shape.columns), shape.dtype)
        y = emit.argument("y", (shape.batch, shape.columns, shape.rows), result)

        def turn_row(b: Expr, i: Expr, j: Expr, width: int) -> None:
            value = emit.lanes_of(x, b, i, j, lanes=width, dtype=result)
            for lane in range(width):
                emit.store(y, value(lane), b, j + lane, i, lanes=1)

        def turn_rows(b: Expr, i: Expr, j: Expr, width: int) -> None:
            if width < lanes:
                for row in range(lanes):
                    turn_row(b, i + row, j, width)
                return
            loaded = (emit.load(x, b, i + row, j, lanes=lanes) for row in range(lanes))
            rows = [emit.held(emit.cast(row, lanes, result), lanes, result) for row in loaded]
            for column, value in enumerate(_turned(rows, result)):
                emit.store(y, value, b, j + column, i, lanes=lanes)

        squares = shape.rows // lanes
        with emit.loop(shape.batch) as b:
            for run in panels(shape.columns, lanes, most):
                places = list(zip(emit.offsets(run.widths), run.widths, strict=True))
                with emit.loop(run.count) as turn:
                    first = run.first + turn * run.columns
                    if squares:
                        with emit.loop(squares) as i:
                            for at, width in places:
                                turn_rows(b, i * lanes, first + at, width)
                    for i in range(squares * lanes, shape.rows):
                        for at, width in places:
                            turn_row(b, i, first + at, width)

    return emit.build_kernel("transpose", body)


def _turned(rows: list[Expr], dtype: str) -> list[Expr]:
    """Return the columns of a square of registers: rows that are half of it apart interleave."""
    lanes = len(rows)
    order = [at for pair in zip(range(lanes), range(lanes, 2 * lanes), strict=True) for at in pair]
    for _ in range(lanes.bit_length() - 1):
        pairs = zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True)
        rows = [
            emit.held(tirx.Shuffle(list(pair), part), lanes, dtype)
            for pair in pairs
            for part in (order[:lanes], order[lanes:])
        ]
    return rows
