"""What touches every value once: sums, products, activations, changes of layout."""

import numpy as np
from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import Elementwise, Transpose
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import panels
from mbv3c.targets.cpu.cores import Processor

_LINE_BYTES = 64  # of a cache


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

    Vectors along the columns are loaded, as many as fill a line of the cache, and their lanes
    stored one by one: as many rows of y grow together.
    """

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.rows, shape.columns), shape.dtype)
        result = shape.result or shape.dtype
        y = emit.argument("y", (shape.batch, shape.columns, shape.rows), result)
        lanes = min(_LINE_BYTES, processor.vector_bytes) // np.dtype(shape.dtype).itemsize
        runs = panels(shape.columns, lanes, max(1, _LINE_BYTES // processor.vector_bytes))
        with emit.loop(shape.batch) as b:
            for run in runs:
                with emit.loop(run.count) as j, emit.loop(shape.rows) as i:
                    first = run.first + j * run.columns
                    for at, width in zip(emit.offsets(run.widths), run.widths, strict=True):
                        start = first + at
                        value = emit.lanes_of(x, b, i, start, lanes=width, dtype=result)
                        for lane in range(width):
                            emit.store(y, value(lane), b, start + lane, i, lanes=1)

    return emit.build_kernel("transpose", body)
