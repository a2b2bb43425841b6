"""Depthwise convolution of int8, NHWC: channels in vectors, a run of outputs in registers.

    y[p, q, c] = look up(round((Σ_r Σ_s x[p·stride + r·dilation - pad, …, c] · w[r, s, c]
                                + bias[c]) · scale[c]) + zero)

Products are int16 times int16, added in int32. Where NEON adds four products at once, four rows of
a column are interleaved (`zip1`, `zip2`): the four values of a channel become neighbours. Each
interleaved column serves all windows that contain it. `interleaved_depthwise` computes kernels of
more than four rows. AVX2 adds two products at once: `paired_depthwise`. The bias takes back what
the inputs' zero point adds to all taps, so a tap outside the map reads the zero point.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Expr, panels
from mbv3c.lowering.schedules.windows import (
    Axis,
    Conditions,
    OutputRun,
    for_each_row,
    for_each_run,
    products,
)
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer import (
    interleaved_depthwise,
    paired_depthwise,
    pairs,
)
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP, VECTOR
from mbv3c.targets.cpu.schedules.integer.interleaved_depthwise import RowEmitter
from mbv3c.targets.cpu.schedules.integer.paired_depthwise import Window
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization

_MAX_OUTPUTS = 14
_MAX_WIDE = 7  # outputs of 16 channels
_MAX_INTERLEAVED = 3  # outputs, since LLVM keeps all weights in registers
_LOADED = 3  # registers for loaded values
_PAIRED = 5  # registers for two values as they are loaded, as they are multiplied, and a product


@dataclass(frozen=True)
class IntegerDepthwise:
    """The shape of a depthwise convolution of int8.

    Attributes:
        zero: zero point of the input.
    """

    batch: int
    channels: int
    vertical: Axis
    horizontal: Axis
    zero: int
    output: Requantization
    dtype: ClassVar = "int8"
    terms: ClassVar = 1  # int8 whose sum a weight is

    @property
    def madds(self) -> int:
        return self.batch * self.channels * products(self.vertical, self.horizontal)

    @property
    def typical(self) -> "IntegerDepthwise":
        """The shape that stands for all that differ only in zero points, when measuring."""
        return replace(self, zero=0, output=self.output.typical)


@dataclass(frozen=True)
class WideDepthwise(IntegerDepthwise):
    """One with weights of nine bits, which are multiplied as int16."""

    terms: ClassVar = 2


@dataclass(frozen=True)
class Tile:
    """The knobs.

    Attributes:
        outputs: outputs of a row in a tile.
    """

    outputs: int


def legal(shape: IntegerDepthwise, processor: Processor) -> list[Tile]:
    """Return the tiles whose accumulators leave registers for inputs and weights."""
    outputs = range(1, min(shape.horizontal.outputs, _MAX_OUTPUTS) + 1)
    if _by_rows(shape, processor):
        beside = interleaved_depthwise.operands(shape.vertical, shape.horizontal) + _LOADED
        return [Tile(count) for count in outputs if count <= max(1, processor.registers - beside)]
    if _in_pairs(shape, processor):
        vectors = min(VECTOR, shape.channels) // paired_depthwise.SUMS
        room = max(1, min(_MAX_WIDE, (processor.registers - _PAIRED) // vectors))
        return [Tile(count) for count in outputs if count <= room]
    vectors = len(integer.parts(min(VECTOR, shape.channels), processor))
    most = _MAX_INTERLEAVED if _interleaves(shape, processor) else _MAX_WIDE
    return [
        Tile(count)
        for count in outputs
        if count == 1 or (count <= most and (count + 1) * vectors <= processor.registers - 8)
    ]


def default(shape: IntegerDepthwise, processor: Processor) -> Tile:
    """Choose the run that leaves the shortest rest."""
    row = shape.horizontal.outputs

    def cost(tile: Tile) -> tuple[float, ...]:
        runs = -(-row // tile.outputs)
        if _by_rows(shape, processor):  # each run loads its columns, and a rest is more code
            return runs, row % tile.outputs > 0, tile.outputs
        if _in_pairs(shape, processor):
            lanes = min(VECTOR, shape.channels)
            counts = [tile.outputs] * (row // tile.outputs) + [row % tile.outputs]
            products = (
                paired_depthwise.instructions(shape.vertical, shape.horizontal, count, lanes)
                for count in counts
                if count
            )
            # A rest is more code, for a few instructions.
            return sum(products) * (1.1 if row % tile.outputs else 1.0), tile.outputs
        return (runs * (tile.outputs + 1.0),)

    return min(legal(shape, processor), key=cost)


def pack(
    shape: IntegerDepthwise, processor: Processor, weights: NDArray[Any]
) -> NDArray[np.int8 | np.int16]:
    """Return weights [C, 1, R, S] as [R, S, C], or as operands of dot products."""
    rows = weights[:, 0].transpose(1, 2, 0)
    if _in_pairs(shape, processor):
        return paired_depthwise.pack(shape.vertical, shape.horizontal, weights)
    if not _interleaves(shape, processor):
        return np.ascontiguousarray(rows.astype(np.int16))
    return interleaved_depthwise.pack(shape.vertical, shape.horizontal, weights)


def arrange(
    shape: IntegerDepthwise, processor: Processor, row: NDArray[np.generic]
) -> NDArray[np.generic]:
    """Return biases or factors in the order in which they are read."""
    return paired_depthwise.arranged(row) if _in_pairs(shape, processor) else row


def _in_pairs(shape: IntegerDepthwise, processor: Processor) -> bool:
    """Say whether two taps are multiplied at once."""
    return integer.is_avx2(processor) and shape.channels % paired_depthwise.SUMS == 0


def _interleaves(shape: IntegerDepthwise, processor: Processor) -> bool:
    """Say whether four taps are an operand of a dot product."""
    narrow = shape.terms == 1
    return integer.has_sdot(processor) and shape.channels % 8 == 0 and narrow


def _by_rows(shape: IntegerDepthwise, processor: Processor) -> bool:
    """Say whether a row is computed in three loops, since registers do not hold the weights."""
    return _interleaves(shape, processor) and shape.vertical.taps > GROUP


def generate(shape: IntegerDepthwise, tile: Tile, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [N, H, W, C], weights, bias, scale, (table), y."""
    down, right, c = shape.vertical, shape.horizontal, shape.channels

    def body() -> None:
        x = emit.argument("x", (shape.batch, down.size, right.size, c), "int8")
        dots, in_pairs = _interleaves(shape, processor), _in_pairs(shape, processor)
        if dots:
            count = interleaved_depthwise.operands(down, right)
            w = emit.argument("w", (count, c * GROUP), "int8")
        elif in_pairs:
            count = len(paired_depthwise.couples(down, right))
            w = emit.argument("w", (count, c * pairs.PAIR), "int16")
        else:
            w = emit.argument("w", (down.taps, right.taps, c), "int16")
        bias = emit.argument("bias", (c,), "int32")
        scale = emit.argument("scale", (c,), shape.output.factor_type)
        table = integer.argument_table(shape.output)
        y = emit.argument("y", (shape.batch, down.outputs, right.outputs, c), "int8")

        def load(
            n: Expr, p: Expr, conditions: Conditions, first: Expr, lanes: int, r: int, column: Expr
        ) -> Expr:
            """Load some channels at a row of a window and a column inside the map."""
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
            """Return the sums of each output, in parts."""
            parts = integer.parts(lanes, processor)
            acc = emit.biased_accumulators(run.count, parts, "int32", bias, first)
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
                    fours = [integer.outside_operand(shape.zero, processor)] * len(parts)
                else:
                    load_row = partial(load, n, p, conditions, first, lanes, column=column)
                    fours = integer.interleaved([load_row(r) for r in range(down.taps)], lanes)
                for i, s in uses:
                    for v in range(len(parts)):
                        start = (first + 4 * v) * GROUP
                        weights = emit.load(w, s, start, lanes=4 * GROUP)
                        total = emit.intrinsic(
                            "int32", 4, "aarch64.neon.sdot", acc.get(i, v), weights, fours[v]
                        )
                        acc.set(i, v, total)
            return [[acc.get(i, v) for v in range(len(parts))] for i in range(run.count)]

        def add_pairs(
            n: Expr, p: Expr, conditions: Conditions, first: Expr, lanes: int, run: OutputRun
        ) -> list[list[Expr]]:
            """Return the sums of each output, in parts."""
            window = Window(down, right, lanes, shape.zero)
            acc = emit.biased_accumulators(run.count, window.parts, "int32", bias, first)
            window.add(acc, run, w, first, partial(load, n, p, conditions, first, lanes))
            return [[acc.get(i, v) for v in range(len(acc.widths))] for i in range(run.count)]

        def add_products(
            n: Expr, p: Expr, conditions: Conditions, first: Expr, lanes: int, run: OutputRun
        ) -> list[list[Expr]]:
            """Return the sums of each output, in parts."""
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
            parts = integer.parts(lanes, processor)
            return [
                [
                    integer.part_of(acc.get(i, 0), at, width, lanes)
                    for at, width in zip(emit.offsets(parts), parts, strict=True)
                ]
                for i in range(run.count)
            ]

        def emit_run(
            n: Expr, p: Expr, conditions: Conditions, first: Expr, lanes: int, run: OutputRun
        ) -> None:
            parts = integer.parts(lanes, processor)
            add = add_dots if dots else add_products
            if in_pairs:
                parts, add = Window(down, right, lanes, shape.zero).parts, add_pairs
            for i, sums in enumerate(add(n, p, conditions, first, lanes, run)):
                floats = integer.scaled(sums, scale, first, parts)
                result = integer.narrow(
                    floats, parts, shape.output, table, processor, crossed=in_pairs
                )
                emit.store(y, result, n, p, run.start + i, first, lanes=lanes)

        def row_by_dots(
            rows: RowEmitter, n: Expr, first: Expr, p: Expr, conditions: Conditions
        ) -> None:
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
            body = partial(emit_run, n, p, conditions, first, lanes)
            for_each_run(right, tile.outputs, 0, body)

        apart, parallel = processor.lane_operands or in_pairs, processor.worthwhile(shape.madds)
        with emit.loop(shape.batch) as n:
            for group in panels(c, VECTOR, 1):
                with emit.loop(group.count, parallel=parallel) as g:
                    first = group.first + g * group.columns
                    if _by_rows(shape, processor):
                        rows = RowEmitter(down, right, group.columns, shape.zero, processor)
                        rows.fill_outside()
                        for_each_row(down, partial(row_by_dots, rows, n, first), apart=apart)
                        continue
                    for_each_row(down, partial(row, n, first, group.columns), apart=apart)

    return emit.build_kernel("integer_depthwise", body)
