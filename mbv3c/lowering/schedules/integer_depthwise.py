"""Depthwise convolution of int8, NHWC: channels in vectors, a run of outputs in registers.

    y[p, q, c] = look up(round((Σ_r Σ_s x[p·stride + r·dilation - pad, …, c] · w[r, s, c]
                                + bias[c]) · scale[c]) + zero)

Products are int16 times int16, added in int32. Where NEON adds four products at once, four rows
of a column are interleaved (`zip1`, `zip2`), so that the four of a channel are neighbours, and
each such column serves all windows that it is part of. The bias already holds what the inputs'
zero point adds to all taps, so a tap that falls outside of the map takes the zero point itself.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.machine import Machine
from mbv3c.lowering.schedules import emit, integer
from mbv3c.lowering.schedules.emit import Expr
from mbv3c.lowering.schedules.integer import GROUP, VECTOR, Output
from mbv3c.lowering.schedules.panels import panels
from mbv3c.lowering.schedules.windows import Axis, Conditions, Run, for_each_row, for_each_run

_MAX_OUTPUTS = 7
_MAX_INTERLEAVED = 3  # with one group of rows; LLVM keeps all weights in registers


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

    @property
    def madds(self) -> int:
        taps = self.vertical.taps * self.horizontal.taps
        return self.batch * self.channels * self.vertical.outputs * self.horizontal.outputs * taps


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        outputs: outputs of a row in a tile.
    """

    outputs: int


def legal(shape: IntegerDepthwise, machine: Machine) -> list[Tile]:
    """Return the tiles whose accumulators leave registers for inputs and weights."""
    vectors = len(integer.parts(min(VECTOR, shape.channels), machine))
    single = _interleaves(shape, machine) and shape.vertical.taps <= GROUP
    most = _MAX_INTERLEAVED if single else _MAX_OUTPUTS
    return [
        Tile(outputs)
        for outputs in range(1, min(shape.horizontal.outputs, most) + 1)
        if outputs == 1 or (outputs + 1) * vectors <= machine.registers - 8
    ]


def default(shape: IntegerDepthwise, machine: Machine) -> Tile:
    """Choose the run that leaves the shortest rest."""

    def cost(tile: Tile) -> float:
        runs = -(-shape.horizontal.outputs // tile.outputs)
        return runs * (tile.outputs + 1.0)

    return min(legal(shape, machine), key=cost)


def pack(
    shape: IntegerDepthwise, machine: Machine, weights: NDArray[np.int8]
) -> NDArray[np.int8 | np.int16]:
    """Return weights [C, 1, R, S] as [R, S, C], or as [R / 4][S][C][4] with rows of 0."""
    rows = weights[:, 0].transpose(1, 2, 0)
    if not _interleaves(shape, machine):
        return np.ascontiguousarray(rows.astype(np.int16))
    filled = np.pad(rows, ((0, -len(rows) % GROUP), (0, 0), (0, 0)))
    fours = filled.reshape(-1, GROUP, *rows.shape[1:])
    return np.ascontiguousarray(fours.transpose(0, 2, 3, 1))


def _interleaves(shape: IntegerDepthwise, machine: Machine) -> bool:
    """Say whether four rows are one operand of a dot product."""
    return machine.integers == "dotprod" and shape.channels % 8 == 0


def generate(shape: IntegerDepthwise, tile: Tile, machine: Machine) -> PrimFunc:
    """Write the kernel; its arguments are x [N, H, W, C], weights, bias, scale, (table), y."""
    down, right, c = shape.vertical, shape.horizontal, shape.channels

    def body() -> None:
        x = emit.argument("x", (shape.batch, down.size, right.size, c), "int8")
        dots = _interleaves(shape, machine)
        groups = -(-down.taps // GROUP)
        if dots:
            w = emit.argument("w", (groups, right.taps, c * GROUP), "int8")
        else:
            w = emit.argument("w", (down.taps, right.taps, c), "int16")
        bias = emit.argument("bias", (c,), "int32")
        scale = emit.argument("scale", (c,), "float32")
        table = integer.argument_table(shape.output)
        y = emit.argument("y", (shape.batch, down.outputs, right.outputs, c), "int8")

        def add_dots(
            n: Expr, p: Expr, conditions: Conditions, first: Expr, lanes: int, run: Run
        ) -> list[list[Expr]]:
            """Return the sums, of each output its parts."""
            cut = integer.parts(lanes, machine)
            acc = emit.biased_accumulators(run.count, cut, "int32", bias, first)
            zeros = emit.splat(shape.zero, lanes, "int8")

            def row_of(r: int, column: Expr) -> Expr:
                at, needed = down.source(p, r), conditions(p, r)
                if not needed:
                    return emit.load(x, n, at, column, first, lanes=lanes)
                nearest = T.max(T.min(at, down.size - 1), 0)
                value = emit.load(x, n, nearest, column, first, lanes=lanes)
                return tirx.Select(emit.all_of(needed), value, zeros)

            span = (run.count - 1) * right.stride + (right.taps - 1) * right.dilation + 1
            for at in range(span):
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
                for g in range(groups):
                    rows = range(g * GROUP, min(down.taps, (g + 1) * GROUP))
                    if outside:
                        same = tirx.reinterpret(
                            "int8x16",
                            emit.splat(integer.constant_four(shape.zero, machine), 4, "int32"),
                        )
                        fours = [same] * len(cut)
                    else:
                        fours = integer.interleaved([row_of(r, column) for r in rows], lanes)
                    for i, s in uses:
                        for v in range(len(cut)):
                            start = (first + 4 * v) * GROUP
                            weights = emit.load(w, g, s, start, lanes=4 * GROUP)
                            total = integer.intrinsic(
                                "int32", 4, "aarch64.neon.sdot", acc.get(i, v), weights, fours[v]
                            )
                            acc.set(i, v, total)
            return [[acc.get(i, v) for v in range(len(cut))] for i in range(run.count)]

        def add_products(
            n: Expr, p: Expr, conditions: Conditions, first: Expr, lanes: int, run: Run
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
            n: Expr, p: Expr, conditions: Conditions, first: Expr, lanes: int, run: Run
        ) -> None:
            cut = integer.parts(lanes, machine)
            add = add_dots if dots else add_products
            for i, sums in enumerate(add(n, p, conditions, first, lanes, run)):
                floats = integer.scaled(sums, scale, first, cut)
                result = integer.narrow(floats, cut, shape.output, table, machine)
                emit.store(y, result, n, p, run.start + i, first, lanes=lanes)

        def row(n: Expr, first: Expr, lanes: int, p: Expr, conditions: Conditions) -> None:
            body = partial(one, n, p, conditions, first, lanes)
            for_each_run(right, tile.outputs, 0, body)

        apart, parallel = machine.lane_operands, machine.worthwhile(shape.madds)
        with emit.loop(shape.batch) as n:
            for group in panels(c, VECTOR, 1):
                with emit.loop(group.count, parallel=parallel) as g:
                    first = group.first + g * group.columns
                    for_each_row(down, partial(row, n, first, group.columns), apart=apart)

    return emit.build_kernel("integer_depthwise", body)
