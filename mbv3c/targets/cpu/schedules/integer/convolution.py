"""Dense convolution of int8, NHWC with channels in fours: the stem, and what else is not 1x1.

    y[p, q, n] = look up(round((Σ_c Σ_r Σ_s x[…, c] · w[n, c, r, s] + bias[n]) · scale[n]) + zero)

Four channels of a place are an operand of a dot product; the three of an image get a fourth, whose
weights are 0. A tap outside the map reads the zero point.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr, Panels
from mbv3c.lowering.schedules.windows import (
    Axis,
    Conditions,
    OutputRun,
    for_each_tile,
    products,
    row_loads,
)
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP, VECTOR
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization

_MAX_RUN = 6
_PLACES = 4  # of four channels, in 16 bytes


@dataclass(frozen=True)
class IntegerConvolution:
    """The shape of a dense convolution of int8.

    Attributes:
        inputs: channels in memory, a multiple of four.
        zero: zero point of the input.
    """

    batch: int
    inputs: int
    outputs: int
    vertical: Axis
    horizontal: Axis
    zero: int
    output: Requantization
    dtype: ClassVar = "int8"
    terms: ClassVar = 1  # int8 whose sum a weight is

    @property
    def madds(self) -> int:
        return self.batch * self.outputs * self.inputs * products(self.vertical, self.horizontal)

    @property
    def typical(self) -> "IntegerConvolution":
        """The shape that stands for all that differ only in zero points, when measuring."""
        return replace(self, zero=0, output=self.output.typical)


@dataclass(frozen=True)
class WideConvolution(IntegerConvolution):
    """One with weights of nine bits."""

    terms: ClassVar = 2


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        run: outputs of a row in a tile.
    """

    run: int


def covers(shape: IntegerConvolution, processor: Processor) -> bool:
    """Say whether the kernel, or that for Cortex-M, can compute this shape on this processor."""
    fours = shape.outputs % GROUP == 0 or integer.is_cortex_m(processor)
    return shape.inputs % GROUP == 0 and fours and integer.has_dot(processor)


def legal(shape: IntegerConvolution, processor: Processor) -> list[Tile]:
    """Return the tiles whose accumulators and operands fit the registers."""
    most = len(integer.parts(min(VECTOR, shape.outputs), processor))
    return [
        Tile(run)
        for run in range(1, min(shape.horizontal.outputs, _MAX_RUN) + 1)
        if run == 1 or run * most + _vectors(shape, run) + 2 <= processor.registers
    ]


def default(shape: IntegerConvolution, processor: Processor) -> Tile:
    """Choose the longest run that divides a row, or else the longest run."""
    tiles = legal(shape, processor)
    dividing = [tile for tile in tiles if shape.horizontal.outputs % tile.run == 0]
    return max(dividing or tiles, key=lambda tile: tile.run)


def pack(shape: IntegerConvolution, weights: NDArray[Any]) -> NDArray[np.int8]:
    """Return weights [N, C, R, S] as panels of [R][S][C / 4][terms][columns][4]."""
    n, channels, down, right = weights.shape
    filled = np.zeros((n, shape.inputs, down, right), np.int16)
    filled[:, :channels] = weights
    terms = integer.in_terms(filled, shape.terms)
    fours = terms.reshape(shape.terms, n, shape.inputs // GROUP, GROUP, down, right)
    return emit.pack(fours.transpose(4, 5, 2, 0, 1, 3), emit.panels(n, VECTOR, 1), axis=4)


def generate(shape: IntegerConvolution, tile: Tile, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [B, H, W, C], weights, bias, scale, (table), y."""
    down, right, groups = shape.vertical, shape.horizontal, shape.inputs // GROUP
    taps = down.taps * right.taps
    beyond = _PLACES if groups == 1 and processor.integers != "vnni" else 0

    def body() -> None:
        x = emit.argument("x", (shape.batch, down.size, right.size * shape.inputs), "int8")
        stored = taps * shape.inputs * shape.terms * shape.outputs
        w = emit.argument("w", (stored,), "int8")
        bias = emit.argument("bias", (shape.outputs,), "int32")
        scale = emit.argument("scale", (shape.outputs,), shape.output.factor_type)
        table = integer.argument_table(shape.output)
        y = emit.argument("y", (shape.batch, down.outputs, right.outputs, shape.outputs), "int8")
        outside = integer.constant_four(shape.zero, processor)

        def emit_tile(
            b: Expr, p: Expr, conditions: Conditions, panel: Panels, column: Expr, run: OutputRun
        ) -> None:
            width = panel.columns
            parts = integer.parts(width, processor)
            offsets = emit.offsets(parts)
            acc = emit.biased_accumulators(run.count, parts, "int32", bias, column)

            def dots(r: int, g: Expr, *, inside: bool) -> None:
                row = (b, down.source(p, r))
                value = _fours_of_row(shape, processor, x, row, g, run) if inside else None
                for s, term in product(range(right.taps), range(shape.terms)):
                    tap = ((r * right.taps + s) * groups + g) * shape.terms + term
                    base = (column * taps * groups * shape.terms + tap * width) * GROUP
                    for i, v in acc.places():
                        skipped = run.skips(right, i, s)
                        four = outside if value is None or skipped else value(i, s)
                        lanes = parts[v]
                        weights = emit.load(w, base + GROUP * offsets[v], lanes=GROUP * lanes)
                        total = integer.add_dot(acc.get(i, v), weights, four, lanes, processor)
                        acc.set(i, v, total)

            for r in range(down.taps):
                needed = conditions(p, r)
                if not needed:
                    with emit.loop(groups) as g:
                        dots(r, g, inside=True)
                    continue
                with emit.loop(groups) as g, T.If(emit.all_of(needed)):
                    with T.Then():
                        dots(r, g, inside=True)
                    with T.Else():
                        dots(r, g, inside=False)
            for i in range(run.count):
                sums = [acc.get(i, v) for v in range(len(parts))]
                values = integer.scaled(sums, scale, column, parts)
                result = integer.narrow(values, parts, shape.output, table, processor)
                emit.store(y, result, b, p, run.start + i, column, lanes=width)

        for_each_tile(
            shape.batch,
            (down, right),
            emit.panels(shape.outputs, VECTOR, 1),
            tile.run,
            reach_beyond=beyond,
            apart=processor.lane_operands,
            parallel=processor.worthwhile(shape.madds),
            body=emit_tile,
        )

    return emit.build_kernel("integer_convolution", body)


def _fours_of_row(
    shape: IntegerConvolution,
    processor: Processor,
    x: Buffer,
    row: tuple[Expr, ...],
    group: Expr,
    run: OutputRun,
) -> Callable[[int, int], Expr]:
    """Return a function that gives the four channels that a tap of an output's window reads.

    Four places of an image are loaded at once.
    """
    right = shape.horizontal
    if shape.inputs != GROUP or processor.integers == "vnni" or right.size < _PLACES:

        def single(i: int, s: int) -> Expr:
            at = right.source(run.start + i, s) * shape.inputs + GROUP * group
            return integer.fours(x, *row, at, count=1, processor=processor)(0)

        return single
    loads = row_loads(right, run, _PLACES)
    loaded = [
        integer.fours(x, *row, (loads.first + at) * GROUP, count=_PLACES, processor=processor)
        for at in loads.starts
    ]

    def value(i: int, s: int) -> Expr:
        vector, lane = loads.place(i, s)
        return loaded[vector](lane)

    return value


def _vectors(shape: IntegerConvolution, run: int) -> int:
    return -(-shape.horizontal.span(run) // _PLACES) if shape.inputs == GROUP else 1
