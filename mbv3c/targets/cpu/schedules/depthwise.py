"""Depthwise convolution, NHWC: channels in vectors, a run of outputs of a row in registers.

y[p, q, c] = activation(Σ_r Σ_s x[p·stride + r·dilation - pad, …, c] · w[r, s, c] + bias[c])
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import Depthwise
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Expr, panels
from mbv3c.lowering.schedules.windows import Conditions, OutputRun, for_each_row, for_each_run
from mbv3c.targets.cpu.cores import Processor

_LONG_RUN = 8
_LARGE_IMAGE = 3  # times the level-2 cache; smaller ones come back from level 3 in time


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        outputs: outputs of a row in a tile.
        vectors: vectors of channels in a tile.
        rows_outer: whether all channels of a row follow each other, not all rows of a channel.
    """

    outputs: int
    vectors: int
    rows_outer: bool


def legal(shape: Depthwise, processor: Processor) -> list[Tile]:
    """Return the tiles whose accumulators and operands fit the registers."""
    widest = len(emit.vectors(shape.channels, processor.lanes(shape.dtype)))
    return [
        Tile(outputs, vectors, rows_outer)
        for outputs in range(1, min(shape.horizontal.outputs, 16) + 1)
        for vectors in range(1, min(widest, 4) + 1)
        if (outputs + 2) * vectors <= processor.registers
        for rows_outer in (False, True)
    ]


def default(shape: Depthwise, processor: Processor) -> Tile:
    """Choose the run with the fewest instructions; leave registers for a row of weights.

    All rows of a vector of channels follow each other, so that the weights stay in registers. But
    each vector reads its part of every line of the caches. If an image is larger than these, a
    row's channels follow each other, provided that the weights stay near.
    """
    rows_outer = _sweeps_memory(shape, processor)
    return min(
        (
            tile
            for tile in legal(shape, processor)
            if tile.outputs <= _most_outputs(shape, processor) and tile.vectors == 1
            if tile.rows_outer == rows_outer
        ),
        key=lambda tile: _cost(shape, tile, processor),
    )


def _sweeps_memory(shape: Depthwise, processor: Processor) -> bool:
    """Return whether going over an image once per vector of channels would wait for memory."""
    itemsize = np.dtype(shape.dtype).itemsize * shape.channels
    image = shape.vertical.size * shape.horizontal.size * itemsize
    weights = shape.vertical.taps * shape.horizontal.taps * itemsize
    return image > _LARGE_IMAGE * processor.l2_bytes and weights <= processor.l1_bytes // 4


def _most_outputs(shape: Depthwise, processor: Processor) -> int:
    """Return how long a run may be, to leave registers for weights.

    Where those of a window are too many to stay, a longer run loads them less often.
    """
    few = processor.registers // 4
    taps = shape.vertical.taps * shape.horizontal.taps
    stay = few + taps + 2 <= processor.registers
    return few if stay or not processor.lane_operands else max(few, _LONG_RUN)


def generate(shape: Depthwise, tile: Tile, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [N, H, W, C], packed weights, bias [C], y."""
    down, right, c = shape.vertical, shape.horizontal, shape.channels

    def body() -> None:
        x = emit.argument("x", (shape.batch, down.size, right.size, c), shape.dtype)
        w = emit.argument("w", (down.taps, right.taps, c), shape.dtype)
        bias = emit.argument("bias", (c,), shape.dtype)
        y = emit.argument("y", (shape.batch, down.outputs, right.outputs, c), shape.dtype)

        def emit_run(
            n: Expr,
            p: Expr,
            conditions: Conditions,
            first: Expr,
            group: tuple[int, ...],
            run: OutputRun,
        ) -> None:
            starts = [first + at for at in emit.offsets(group)]
            acc = emit.biased_accumulators(run.count, group, shape.dtype, bias, first)
            for r in range(down.taps):
                with emit.when(conditions(p, r)):
                    for s in range(right.taps):
                        for i in range(run.count):
                            if run.skips(right, i, s):
                                continue
                            for v, lanes in enumerate(group):
                                source = (n, down.source(p, r), right.source(run.start + i, s))
                                acc.add_product(
                                    i,
                                    v,
                                    emit.load(x, *source, starts[v], lanes=lanes),
                                    emit.load(w, r, s, starts[v], lanes=lanes),
                                )
            for i in range(run.count):
                for v, lanes in enumerate(group):
                    value = shape.activation.apply(acc.get(i, v), lanes, shape.dtype)
                    emit.store(y, value, n, p, run.start + i, starts[v], lanes=lanes)

        def row(
            n: Expr, first: Expr, group: tuple[int, ...], p: Expr, conditions: Conditions
        ) -> None:
            body = partial(emit_run, n, p, conditions, first, group)
            for_each_run(right, tile.outputs, 0, body)

        def channels(n: Expr, p: Expr, conditions: Conditions) -> None:
            for group in groups:
                with emit.loop(group.count) as g:
                    row(n, group.first + g * group.columns, group.widths, p, conditions)

        groups = panels(c, processor.lanes(shape.dtype), tile.vectors)
        parallel = processor.worthwhile(shape.madds)
        with emit.loop(shape.batch) as n:
            if tile.rows_outer:
                for_each_row(
                    down, partial(channels, n), apart=processor.lane_operands, parallel=parallel
                )
                return
            for group in groups:
                with emit.loop(group.count, parallel=parallel) as g:
                    first = group.first + g * group.columns
                    body = partial(row, n, first, group.widths)
                    for_each_row(down, body, apart=processor.lane_operands)

    return emit.build_kernel("depthwise", body)


def _cost(shape: Depthwise, tile: Tile, processor: Processor) -> float:
    """Estimate the instructions of a map's row, per vector of channels."""
    right, rows = shape.horizontal, shape.vertical.taps
    taps = right.taps * rows
    counts = [tile.outputs] * (right.outputs // tile.outputs) + [right.outputs % tile.outputs]
    cost = 0.0
    for count in filter(None, counts):
        weights_stay = (count + taps) * tile.vectors + 2 <= processor.registers
        waits = max(0.0, processor.fma_chains - count * tile.vectors) / tile.vectors
        cost += count * taps + rows * waits + (0.0 if weights_stay else 0.5 * taps)
        if processor.lane_operands:  # a load takes a slot of the front end, too
            cost += rows * min(right.span(count), count * right.taps) + 4
        else:
            cost += 0.01 * count * taps  # of equal costs, prefer the shorter run
    return cost
