"""Products with all channels: pointwise, fully connected, and dense convolution.

    y[m, n] = look up(round((Σ_k x[m, k] · w[n, k] + bias[n]) · scale[n]) + zero)

A tile is a few rows by a few columns, whose sums stay in registers. Cores with pairs of int16
widen four int8 of a row and of a column to two words each (`sxtb16`) and add four products by two
`smlad`; Helium adds 16 by one `vmladava`. A dense convolution gathers the windows of a few outputs
as rows, with the zero point where they reach beyond the map, and goes on as a pointwise one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP
from mbv3c.targets.cpu.schedules.integer.convolution import IntegerConvolution
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise
from mbv3c.targets.mcu.schedules import words
from mbv3c.targets.mcu.schedules.words import Layer

_ROWS = 2  # of a tile


def columns_of(rows: int, processor: Processor) -> int:
    """Return how many columns a tile has: as many as leave the sums in registers."""
    return 2 if rows > 1 and processor.integers == "smlad" else 4


def padded(row: NDArray[np.generic], columns: int) -> NDArray[np.generic]:
    """Return biases or factors with zeros for columns that are no outputs."""
    return np.pad(row, (0, -len(row) % columns))


def pack_convolution(shape: IntegerConvolution, weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return weights [N, C, R, S] as [N, R · S · C]; channels that are filled up are 0."""
    n, channels, down, right = weights.shape
    filled = np.zeros((n, down, right, shape.inputs), np.int8)
    filled[..., :channels] = weights.transpose(0, 2, 3, 1)
    return filled.reshape(n, -1)


def _layer(
    depth: int,
    outputs: int,
    columns: int,
    shape: IntegerPointwise | IntegerConvolution,
    processor: Processor,
) -> Layer:
    """Declare the arguments behind the input."""
    n = -(-outputs // columns) * columns
    weights = emit.argument("w", (n * words.depth(depth, processor),), "int8")
    bias = emit.argument("bias", (n,), "int32")
    scale = emit.argument("scale", (n,), "float32")
    table = integer.argument_table(shape.output)
    return Layer(weights, bias, scale, table, shape.output, processor)


def _panels(
    x: Buffer,
    rows: Sequence[Sequence[Expr]],
    layer: Layer,
    y: Buffer,
    written: Sequence[Sequence[Expr]],
    extents: tuple[int, int, int],
) -> None:
    """Emit all columns of some rows.

    Args:
        x: what the rows are read from.
        rows: where in x each row begins.
        layer: weights and rounding.
        y: what is written.
        written: where in y the results of each row begin, without the last index.
        extents: int8 of a row, number of outputs, columns of a tile.
    """
    inputs, outputs, columns = extents

    def panel(number: Expr, kept: int) -> None:
        sums = words.add_rows(x, rows, layer, number, columns, inputs)
        for row, place in zip(sums, written, strict=True):
            result, first = layer.round(row, number * columns), number * columns
            integer.store_first(y, result, *place, first, width=columns, count=kept)

    if outputs >= columns:
        with words.loop(outputs // columns) as number:
            panel(number, columns)
    if outputs % columns:
        panel(outputs // columns, outputs % columns)


def generate_pointwise(shape: IntegerPointwise, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [M, K], packed weights, bias, scale, (table), y."""

    def body() -> None:
        m, k, n = shape.rows, shape.inputs, shape.outputs
        x = emit.argument("x", (m, k), "int8")
        columns = columns_of(m, processor)
        layer = _layer(k, n, columns, shape, processor)
        y = emit.argument("y", (m, n), "int8")

        def rows(first: Expr, count: int) -> None:
            begins = [(first + i, 0) for i in range(count)]
            written = [(first + i,) for i in range(count)]
            _panels(x, begins, layer, y, written, (k, n, columns))

        if m >= _ROWS:
            with words.loop(m // _ROWS) as block:
                rows(block * _ROWS, _ROWS)
        if m % _ROWS:
            rows(m - 1, 1)

    return emit.build_kernel("integer_pointwise", body)


def generate_convolution(shape: IntegerConvolution, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [B, H, W, C], weights, bias, scale, (table), y."""
    down, right, c = shape.vertical, shape.horizontal, shape.inputs
    depth, places = down.taps * right.taps * c, right.outputs
    count = min(_ROWS, places)

    def body() -> None:
        x = emit.argument("x", (shape.batch, down.size, right.size, c), "int8")
        columns = columns_of(count, processor)
        layer = _layer(depth, shape.outputs, columns, shape, processor)
        y = emit.argument("y", (shape.batch, down.outputs, places, shape.outputs), "int8")
        windows = T.alloc_buffer((count, depth), "int8", scope="global")

        def gather(b: Expr, p: Expr, q: Expr, row: int) -> None:
            """Copy a window to a row."""
            for r in range(down.taps):
                for s in range(right.taps):
                    h, w = down.source(p, r), right.source(q, s)
                    at = (r * right.taps + s) * c
                    needed = [*down.inside(p, r), *right.inside(q, s)]
                    with words.loop(c // GROUP) as g:
                        first = at + g * GROUP
                        if not needed:
                            value = emit.load(x, b, h, w, g * GROUP, lanes=GROUP)
                            emit.store(windows, value, row, first, lanes=GROUP)
                            continue
                        with T.If(emit.all_of(needed)):
                            with T.Then():
                                value = emit.load(x, b, h, w, g * GROUP, lanes=GROUP)
                                emit.store(windows, value, row, first, lanes=GROUP)
                            with T.Else():
                                zero = emit.splat(shape.zero, GROUP, "int8")
                                emit.store(windows, zero, row, first, lanes=GROUP)

        with (
            words.loop(shape.batch) as b,
            words.loop(down.outputs) as p,
            words.loop(-(-places // count)) as block,
        ):
            first = block * count
            if places % count:  # the last block begins early enough to be whole
                first = T.min(first, places - count)
            for row in range(count):
                gather(b, p, first + row, row)
            begins = [(row, 0) for row in range(count)]
            written = [(b, p, first + row) for row in range(count)]
            _panels(windows, begins, layer, y, written, (depth, shape.outputs, columns))

    return emit.build_kernel("integer_convolution", body)
