"""Dense convolution: the stem, and whatever else is neither pointwise nor depthwise.

    y[p, q, n] = activation(Σ_c Σ_r Σ_s x[c at (p, q, r, s)] · w[n, c, r, s] + bias[n])

The input is NCHW, as models take their images, or NHWC; the output is NHWC. Registers hold a run
of outputs of a row times a panel of channels. All taps of a row are multiplied together, one input
channel after another; or, with many channels, every tap has a loop over them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import Convolution
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr, Panels
from mbv3c.lowering.schedules.windows import Axis, Conditions, OutputRun, for_each_tile, row_loads
from mbv3c.targets.cpu.cores import Processor

_MAX_OUTPUTS = 16
_MAX_VECTORS = 8
_AHEAD = 7  # vectors of the next row that LLVM loads ahead, on cores that load one at a time
_CHANNELS_OF_A_LOOP = 8  # with fewer, a loop for every tap costs more than it saves


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        run: outputs of a row in a tile.
        vectors: vectors of output channels in a tile.
    """

    run: int
    vectors: int


def legal(shape: Convolution, processor: Processor) -> list[Tile]:
    """Return the tiles whose accumulators and operands fit the registers."""
    widest = len(emit.vectors(shape.outputs, processor.lanes(shape.dtype)))
    return [
        Tile(run, vectors)
        for run in range(1, min(shape.horizontal.outputs, _MAX_OUTPUTS) + 1)
        for vectors in range(1, min(widest, _MAX_VECTORS) + 1)
        if run * vectors + _operands(shape, run, vectors, processor) <= processor.registers
    ]


def default(shape: Convolution, processor: Processor) -> Tile:
    """Choose the tile with the fewest instructions."""
    return min(legal(shape, processor), key=lambda tile: _cost(shape, tile, processor))


def pack(
    shape: Convolution, tile: Tile, processor: Processor, weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return weights [N, C, R, S] as one array: panels in the order in which they are read.

    That is [C][R][S][panel], or [R][S][C][panel] where every tap has a loop of its own.
    """
    order = (2, 3, 1, 0) if _has_loops_of_taps(shape, processor) else (1, 2, 3, 0)
    columns = weights.transpose(order).reshape(-1, shape.outputs)
    return emit.pack(columns, _panels(shape, tile, processor), axis=1)


def generate(shape: Convolution, tile: Tile, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x, packed weights, bias [N], y [B, P, Q, N]."""
    down, right = shape.vertical, shape.horizontal
    taps = down.taps * right.taps
    lanes_along_row = _loads_lanes_of_rows(shape, processor)
    loops_of_taps = _has_loops_of_taps(shape, processor)
    beyond = -right.span(tile.run) % processor.lanes(shape.dtype) if lanes_along_row else 0

    def body() -> None:
        sides = (down.size, right.size)
        x_shape = (shape.inputs, *sides) if shape.channels_first else (*sides, shape.inputs)
        x = emit.argument("x", (shape.batch, *x_shape), shape.source)
        w = emit.argument("w", (shape.inputs * taps * shape.outputs,), shape.dtype)
        bias = emit.argument("bias", (shape.outputs,), shape.dtype)
        y = emit.argument(
            "y", (shape.batch, down.outputs, right.outputs, shape.outputs), shape.dtype
        )

        def emit_tile(
            b: Expr, p: Expr, conditions: Conditions, group: Panels, column: Expr, run: OutputRun
        ) -> None:
            panel = group.widths
            starts = emit.offsets(panel)
            acc = emit.biased_accumulators(run.count, panel, shape.dtype, bias, column)

            def multiply(place: Expr, s: int, value: Callable[[int, int], Expr]) -> None:
                base = column * shape.inputs * taps + place * sum(panel)
                for i, v in acc.places():
                    if run.skips(right, i, s):
                        continue
                    weight = emit.load(w, base + starts[v], lanes=panel[v])
                    factor = emit.splat(value(i, s), panel[v], shape.dtype)
                    acc.add_product(i, v, factor, weight)

            def channel(c: Expr, r: int) -> None:
                p_in = down.source(p, r)
                if lanes_along_row:
                    value = _lanes_of_row(x, (b, c, p_in), right, run, processor, shape.dtype)
                else:
                    value = partial(_scalar, shape, x, b, c, p_in, run)
                for s in range(right.taps):
                    multiply((c * taps) + r * right.taps + s, s, value)

            def tap(c: Expr, r: int, s: int) -> None:
                place = (r * right.taps + s) * shape.inputs + c
                multiply(place, s, partial(_scalar, shape, x, b, c, down.source(p, r), run))

            sums = _Sums(acc, shape)
            for r in range(down.taps):
                with emit.when(conditions(p, r)):
                    if loops_of_taps:
                        for s in range(right.taps):
                            sums.over_channels(partial(tap, r=r, s=s), products=1)
                        continue
                    sums.over_channels(partial(channel, r=r), products=right.taps)
            sums.finish()
            for i in range(run.count):
                for v, lanes in enumerate(panel):
                    value = shape.activation.apply(acc.get(i, v), lanes, shape.dtype)
                    emit.store(y, value, b, p, run.start + i, column + starts[v], lanes=lanes)

        for_each_tile(
            shape.batch,
            (down, right),
            _panels(shape, tile, processor),
            tile.run,
            reach_beyond=beyond,
            apart=processor.lane_operands,
            parallel=processor.worthwhile(shape.madds),
            body=emit_tile,
        )

    return emit.build_kernel("convolution", body)


class _Sums:
    """The sums of a tile: long ones in half precision are added part by part in single precision.

    Otherwise the last of thousands of products would be rounded to the digits of their sum.
    """

    def __init__(self, acc: emit.Accumulators, shape: Convolution) -> None:
        self._acc, self._inputs = acc, shape.inputs
        products = shape.inputs * shape.vertical.taps * shape.horizontal.taps
        wide = emit.sum_type(shape.dtype)
        self._total: emit.Accumulators | None = None
        if wide != shape.dtype and products > emit.HALF_SUM:
            self._total = emit.accumulators(acc.rows, acc.widths, wide)
            self._total.clear()
            self._total.add(acc)

    def over_channels(self, multiply: Callable[[Expr], None], products: int) -> None:
        """Emit the loop over input channels, each of which adds so many products to every sum."""
        if self._total is None:
            with emit.loop(self._inputs) as c:
                multiply(c)
            return
        for part in emit.panels(self._inputs, 1, max(1, emit.HALF_SUM // products)):
            with emit.loop(part.count) as turn:
                self._acc.clear()
                with emit.loop(part.columns) as c:
                    multiply(part.first + turn * part.columns + c)
                self._total.add(self._acc)

    def finish(self) -> None:
        """Bring the sums back to the registers that are stored."""
        if self._total is not None:
            self._acc.clear()
            self._acc.add(self._total)


def _scalar(
    shape: Convolution,
    x: Buffer,
    image: Expr,
    channel: Expr,
    row: Expr,
    run: OutputRun,
    output: int,
    tap: int,
) -> Expr:
    """Return the input that a tap of the output'th window reads."""
    column = shape.horizontal.source(run.start + output, tap)
    first = (image, channel, row, column)
    value = x[first if shape.channels_first else (image, row, column, channel)]
    return emit.cast(value, 1, shape.dtype)


def _lanes_of_row(
    x: Buffer, row: tuple[Expr, ...], right: Axis, run: OutputRun, processor: Processor, dtype: str
) -> Callable[[int, int], Expr]:
    """Load what a run reads of a row as vectors; return a function of an output and a tap."""
    lanes = processor.lanes(dtype)
    loads = row_loads(right, run, lanes)
    loaded = [
        emit.lanes_of(x, *row, loads.first + at, lanes=lanes, dtype=dtype) for at in loads.starts
    ]

    def value(output: int, tap: int) -> Expr:
        vector, lane = loads.place(output, tap)
        return loaded[vector](lane)

    return value


def _panels(shape: Convolution, tile: Tile, processor: Processor) -> list[Panels]:
    return emit.panels(shape.outputs, processor.lanes(shape.dtype), tile.vectors)


def _cost(shape: Convolution, tile: Tile, processor: Processor) -> float:
    """Estimate the instructions of an output row, per input channel and tap."""
    full = shape.horizontal.outputs // tile.run
    rest = shape.horizontal.outputs % tile.run
    cost = 0.0
    for panel in _panels(shape, tile, processor):
        for run, runs in ((tile.run, full), (rest, 1 if rest else 0)):
            products = run * len(panel.widths)
            loads = _loads(shape, run, panel, processor)
            waits = max(0.0, processor.fma_chains - products)
            hidden = loads if processor.lane_operands else max(0.0, loads - products)
            cost += panel.count * runs * (products + hidden + waits + 0.5)
    return cost


def _operands(shape: Convolution, run: int, vectors: int, processor: Processor) -> int:
    """Return how many registers a tile needs beside its accumulators."""
    if _loads_lanes_of_rows(shape, processor):
        row = _vectors_of_row(shape.horizontal, run, processor.lanes(shape.dtype))
        return row + vectors + (0 if processor.paired_loads else _AHEAD)
    return min(run, vectors) + 1


def _loads(shape: Convolution, run: int, panel: Panels, processor: Processor) -> float:
    """Estimate the loads of a tile, per input channel and tap."""
    if not _loads_lanes_of_rows(shape, processor):
        return run + len(panel.widths) / 2
    right = shape.horizontal
    taps = shape.inputs * shape.vertical.taps * right.taps
    bytes_of_weights = taps * panel.columns * np.dtype(shape.dtype).itemsize
    paired = processor.paired_loads and bytes_of_weights <= emit.PAIRED_LOAD_BYTES
    return _vectors_of_row(right, run, processor.lanes(shape.dtype)) / right.taps + len(
        panel.widths
    ) / (2 if paired else 1)


def _loads_lanes_of_rows(shape: Convolution, processor: Processor) -> bool:
    """Say whether inputs are loaded as vectors along a row of the image."""
    wide = shape.horizontal.size >= processor.lanes(shape.dtype)
    return shape.channels_first and processor.lane_operands and wide


def _has_loops_of_taps(shape: Convolution, processor: Processor) -> bool:
    """Say whether every tap has a loop over the input channels.

    With all taps in one loop LLVM keeps what neighbours share of the image in registers, which 16
    registers are too few for: sums go to the stack and come back in every turn.
    """
    return not processor.lane_operands and shape.inputs >= _CHANNELS_OF_A_LOOP


def _vectors_of_row(axis: Axis, run: int, lanes: int) -> int:
    """Return how many vectors hold what a run's windows cover of a row."""
    return -(-axis.span(run) // lanes)
