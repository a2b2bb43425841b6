"""Depthwise convolution of int8, NHWC: channels in vectors, a run of outputs in registers.

    y[p, q, c] = look up(round((Σ_r Σ_s x[p·stride + r·dilation - pad, …, c] · w[r, s, c]
                                + bias[c]) · scale[c]) + zero)

Products are int16 times int16, added in int32. Where NEON adds four products at once, four rows
of a column are interleaved (`zip1`, `zip2`), so that the four of a channel are neighbours, and
each such column serves all windows that it is part of; kernels of more rows are computed by
`interleaved_depthwise`. The bias already holds what the inputs' zero point adds to all taps, so a
tap that falls outside of the map takes the zero point itself.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Expr
from mbv3c.lowering.schedules.panels import panels
from mbv3c.lowering.schedules.windows import (
    Axis,
    Conditions,
    OutputRun,
    for_each_row,
    for_each_run,
    products,
)
from mbv3c.targets.cpu.processor import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer import interleaved_depthwise
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP, VECTOR, Output
from mbv3c.targets.cpu.schedules.integer.interleaved_depthwise import Rows

_MAX_OUTPUTS = 14
_MAX_WIDE = 7  # of 16 channels each
_MAX_INTERLEAVED = 3  # LLVM keeps all weights in registers
_LOADED = 3  # registers for what is loaded


@dataclass(frozen=True)
class IntegerDepthwise:
    """The shape of a depthwise convolution of int8.

    Attributes:
        zero: the zero point of the input.
    """

    batch: int
    channels: int
    vertical: Axis
    horizontal: Axis
    zero: int
    output: Output
    dtype: ClassVar = "int8"

    @property
    def madds(self) -> int:
        return self.batch * self.channels * products(self.vertical, self.horizontal)

    @property
    def typical(self) -> "IntegerDepthwise":
        """The shape under which kernels that differ in zero points only are measured."""
        return replace(self, zero=0, output=self.output.typical)


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        outputs: outputs of a row in a tile.
    """

    outputs: int


def legal(shape: IntegerDepthwise, machine: Processor) -> list[Tile]:
    """Return the tiles whose accumulators leave registers for inputs and weights."""
    outputs = range(1, min(shape.horizontal.outputs, _MAX_OUTPUTS) + 1)
    if _by_rows(shape, machine):
        beside = interleaved_depthwise.operands(shape.vertical, shape.horizontal) + _LOADED
        return [Tile(one) for one in outputs if one == 1 or one + beside <= machine.registers]
    vectors = len(integer.parts(min(VECTOR, shape.channels), machine))
    most = _MAX_INTERLEAVED if _interleaves(shape, machine) else _MAX_WIDE
    return [
        Tile(one)
        for one in outputs
        if one == 1 or (one <= most and (one + 1) * vectors <= machine.registers - 8)
    ]


def default(shape: IntegerDepthwise, machine: Processor) -> Tile:
    """Choose the run that leaves the shortest rest."""
    row = shape.horizontal.outputs

    def cost(tile: Tile) -> tuple[float, ...]:
        runs = -(-row // tile.outputs)
        if _by_rows(shape, machine):  # each run loads its columns, and a rest is more code
            return runs, row % tile.outputs > 0, tile.outputs
        return (runs * (tile.outputs + 1.0),)

    return min(legal(shape, machine), key=cost)


def pack(
    shape: IntegerDepthwise, machine: Processor, weights: NDArray[np.int8]
) -> NDArray[np.int8 | np.int16]:
    """Return weights [C, 1, R, S] as [R, S, C], or as operands of dot products."""
    rows = weights[:, 0].transpose(1, 2, 0)
    if not _interleaves(shape, machine):
        return np.ascontiguousarray(rows.astype(np.int16))
    return interleaved_depthwise.pack(shape.vertical, shape.horizontal, weights)


def _interleaves(shape: IntegerDepthwise, machine: Processor) -> bool:
    """Say whether four taps are one operand of a dot product."""
    return machine.integers == "dotprod" and shape.channels % 8 == 0


def _by_rows(shape: IntegerDepthwise, machine: Processor) -> bool:
    """Say whether a row is made in three loops: the weights are more than registers hold."""
    return _interleaves(shape, machine) and shape.vertical.taps > GROUP


def generate(shape: IntegerDepthwise, tile: Tile, machine: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [N, H, W, C], weights, bias, scale, (table), y."""
    down, right, c = shape.vertical, shape.horizontal, shape.channels

    def body() -> None:
        x = emit.argument("x", (shape.batch, down.size, right.size, c), "int8")
        dots = _interleaves(shape, machine)
        if dots:
            count = interleaved_depthwise.operands(down, right)
            w = emit.argument("w", (count, c * GROUP), "int8")
        else:
            w = emit.argument("w", (down.taps, right.taps, c), "int16")
        bias = emit.argument("bias", (c,), "int32")
        scale = emit.argument("scale", (c,), "float32")
        table = integer.argument_table(shape.output)
        y = emit.argument("y", (shape.batch, down.outputs, right.outputs, c), "int8")

        def load(
            n: Expr, p: Expr, conditions: Conditions, first: Expr, lanes: int, r: int, column: Expr
        ) -> Expr:
            """Load some channels at a row of a window and a column inside of the map."""
            at, needed = down.source(p, r), conditions(p, r)
            if not needed:
                return emit.load(x, n, at, column, first, lanes=lanes)
            nearest = T.max(T.min(at, down.size - 1), 0)
            value = emit.load(x, n, nearest, column, first, lanes=lanes)
            outside = emit.splat(shape.zero, lanes, "int8")
            return tirx.Select(emit.all_of(needed), value, outside)

        def add_dots(
            n: Expr, p: Expr, conditions: Conditions, first: Expr, lanes: int, run: OutputRun
        ) -> list[list[Expr]]:
            """Return the sums, of each output its parts."""
            cut = integer.parts(lanes, machine)
            acc = emit.biased_accumulators(run.count, cut, "int32", bias, first)
            for at in range(right.span(run.count)):
                uses = [
                    (i, s)
                    for i in range(run.count)
                    for s in range(right.taps)
                    if i * right.stride + s * right.dilation == at
                ]
                if not uses:
                    continue
                outside = run.skips(right, *uses[0])
                column = right.source(run.start, 0) + at
                if outside:
                    same = tirx.reinterpret(
                        "int8x16",
                        emit.splat(integer.constant_four(shape.zero, machine), 4, "int32"),
                    )
                    fours = [same] * len(cut)
                else:
                    here = partial(load, n, p, conditions, first, lanes, column=column)
                    fours = integer.interleaved([here(r) for r in range(down.taps)], lanes)
                for i, s in uses:
                    for v in range(len(cut)):
                        start = (first + 4 * v) * GROUP
                        weights = emit.load(w, s, start, lanes=4 * GROUP)
                        total = integer.intrinsic(
                            "int32", 4, "aarch64.neon.sdot", acc.get(i, v), weights, fours[v]
                        )
                        acc.set(i, v, total)
            return [[acc.get(i, v) for v in range(len(cut))] for i in range(run.count)]

        def add_products(
            n: Expr, p: Expr, conditions: Conditions, first: Expr, lanes: int, run: OutputRun
        ) -> list[list[Expr]]:
            """Return the sums, of each output its parts."""
            acc = emit.biased_accumulators(run.count, (lanes,), "int32", bias, first)

            def taps(r: int, *, inside: bool) -> None:
                for s in range(right.taps):
                    weights = emit.load(w, r, s, first, lanes=lanes)
                    for i in range(run.count):
                        if not inside or run.skips(right, i, s):
                            value = emit.splat(shape.zero, lanes, "int16")
                        else:
                            place = (n, down.source(p, r), right.source(run.start + i, s))
                            value = emit.load(x, *place, first, lanes=lanes)
                        acc.add_product(
                            i,
                            0,
                            emit.cast(emit.cast(value, lanes, "int16"), lanes, "int32"),
                            emit.cast(weights, lanes, "int32"),
                        )

            for r in range(down.taps):
                needed = conditions(p, r)
                if not needed:
                    taps(r, inside=True)
                    continue
                with T.If(emit.all_of(needed)):
                    with T.Then():
                        taps(r, inside=True)
                    with T.Else():
                        taps(r, inside=False)
            cut = integer.parts(lanes, machine)
            return [
                [
                    integer.part_of(acc.get(i, 0), at, width, lanes)
                    for at, width in zip(emit.offsets(cut), cut, strict=True)
                ]
                for i in range(run.count)
            ]

        def one(
            n: Expr, p: Expr, conditions: Conditions, first: Expr, lanes: int, run: OutputRun
        ) -> None:
            cut = integer.parts(lanes, machine)
            add = add_dots if dots else add_products
            for i, sums in enumerate(add(n, p, conditions, first, lanes, run)):
                floats = integer.scaled(sums, scale, first, cut)
                result = integer.narrow(floats, cut, shape.output, table, machine)
                emit.store(y, result, n, p, run.start + i, first, lanes=lanes)

        def row_by_dots(rows: Rows, n: Expr, first: Expr, p: Expr, conditions: Conditions) -> None:
            lanes = rows.lanes
            rows.interleave(partial(load, n, p, conditions, first, lanes))
            rows.multiply(w, bias, first, tile.outputs)
            rows.round(
                scale,
                first,
                shape.output,
                table,
                lambda i, value: emit.store(y, value, n, p, i, first, lanes=lanes),
            )

        def row(n: Expr, first: Expr, lanes: int, p: Expr, conditions: Conditions) -> None:
            body = partial(one, n, p, conditions, first, lanes)
            for_each_run(right, tile.outputs, 0, body)

        apart, parallel = machine.lane_operands, machine.worthwhile(shape.madds)
        with emit.loop(shape.batch) as n:
            for group in panels(c, VECTOR, 1):
                with emit.loop(group.count, parallel=parallel) as g:
                    first = group.first + g * group.columns
                    if _by_rows(shape, machine):
                        rows = Rows(down, right, group.columns, shape.zero, machine)
                        rows.fill_outside()
                        for_each_row(down, partial(row_by_dots, rows, n, first), apart=apart)
                        continue
                    for_each_row(down, partial(row, n, first, group.columns), apart=apart)

    return emit.build_kernel("integer_depthwise", body)
