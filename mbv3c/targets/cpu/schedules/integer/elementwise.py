"""What touches every int8 once: to and from fp32, sums, products, tables, means."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx import PrimFunc

from mbv3c.lowering.quantization import Quantization
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Expr, panels
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer import neon
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP, VECTOR
from mbv3c.targets.cpu.schedules.integer.requantization import (
    Requantization,
    in_fixed_point,
    within,
)

_PART = 256  # int8 that may be added in int16
_SPAN = 255  # how far two int8 are apart at most


@dataclass(frozen=True)
class IntegerElementwise:
    """y = look up(round(a ∘ b / scale) + zero), or y = look up(round(a / scale) + zero).

    Attributes:
        operator: "add", "multiply", or "" for one operand.
        per_channel: whether b is [B, C] beside a's [B, P, C], as the gates of SE are.
        scale: value of a step of y.
    """

    batch: int
    places: int
    channels: int
    operator: str
    per_channel: bool
    first: Quantization
    second: Quantization | None
    scale: float
    output: Requantization

    @property
    def reach(self) -> float:
        """How large results are at most, in steps."""
        first, step = _SPAN * abs(self.first.scale), abs(self.scale)
        if self.second is None:
            return first / step
        second = _SPAN * abs(self.second.scale)
        both = first * second if self.operator == "multiply" else first + second
        return both / step


def generate(shape: IntegerElementwise, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are a [B, P, C], (b), (table), y [B, P, C]."""
    b, p, c = shape.batch, shape.places, shape.channels

    def body() -> None:
        first = emit.argument("a", (b, p, c), "int8")
        second: Any = None
        if shape.operator:
            second = emit.argument("b", (b, c) if shape.per_channel else (b, p, c), "int8")
        table = integer.argument_table(shape.output)
        y = emit.argument("y", (b, p, c), "int8")
        for run in panels(c, VECTOR, 1):
            with emit.loop(b) as n, emit.loop(run.count) as g, emit.loop(p) as at:
                lanes, where = run.columns, run.first + g * run.columns
                parts = integer.parts(lanes, processor)
                other = None
                if second is not None:
                    index = (n, where) if shape.per_channel else (n, at, where)
                    other = emit.load(second, *index, lanes=lanes)
                loaded = emit.load(first, n, at, where, lanes=lanes)
                output, factor = _rounding(shape, lanes, processor)
                values = [
                    _value(shape, loaded, other, start, width, lanes)
                    if factor is None
                    else neon.product(
                        _product(shape, loaded, other, start, width, lanes),
                        emit.splat(factor, width, "int32"),
                    )
                    for start, width in zip(emit.offsets(parts), parts, strict=True)
                ]
                result = integer.narrow(values, parts, output, table, processor)
                emit.store(y, result, n, at, where, lanes=lanes)

    return emit.build_kernel("integer_elementwise", body)


def _rounding(
    shape: IntegerElementwise, lanes: int, processor: Processor
) -> tuple[Requantization, int | None]:
    """Return how results become int8, and a product's factor if that is a fixed-point number."""
    output = within(shape.output, shape.reach)
    if shape.operator != "multiply" or lanes < GROUP or not integer.is_neon(processor):
        return output, None
    reach, scale = np.full(GROUP, float(_SPAN**2)), np.full(GROUP, _scale(shape), np.float32)
    output, factors = in_fixed_point(output, reach, scale)
    return output, int(factors[0]) if output.shift else None


def _scale(shape: IntegerElementwise) -> float:
    """Return the value of a product of integers, in steps of y."""
    assert shape.second is not None
    return shape.first.scale * shape.second.scale / shape.scale


def _shifted(vector: Expr, operand: Quantization, start: int, width: int, lanes: int) -> Expr:
    """Return `width` of the int8 of an operand, from `start` on, as int32 without zero point."""
    wide = emit.cast(vector, lanes, "int16") - emit.splat(operand.zero_point, lanes, "int16")
    return emit.cast(integer.part_of(wide, start, width, lanes), width, "int32")


def _product(
    shape: IntegerElementwise, loaded: Expr, other: Expr, start: int, width: int, lanes: int
) -> Expr:
    """Return `width` products of integers."""
    assert shape.second is not None
    a = _shifted(loaded, shape.first, start, width, lanes)
    return a * _shifted(other, shape.second, start, width, lanes)


def _value(
    shape: IntegerElementwise, loaded: Expr, other: Expr, start: int, width: int, lanes: int
) -> Expr:
    """Return `width` values of the result, in its steps, as fp32."""

    def times(integers: Expr, factor: float) -> Expr:
        return emit.cast(integers, width, "float32") * emit.splat(factor, width, "float32")

    if shape.operator == "multiply":
        return times(_product(shape, loaded, other, start, width, lanes), _scale(shape))
    a = _shifted(loaded, shape.first, start, width, lanes)
    first = times(a, shape.first.scale / shape.scale)
    if shape.second is None:
        return first
    b = _shifted(other, shape.second, start, width, lanes)
    return first + times(b, shape.second.scale / shape.scale)


@dataclass(frozen=True)
class LookUp:
    """y = table[x], each of `size` values."""

    size: int


def generate_look_up(shape: LookUp, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x, table and y."""

    def body() -> None:
        x = emit.argument("x", (shape.size,), "int8")
        table = emit.argument("table", (256,), "int8")
        y = emit.argument("y", (shape.size,), "int8")
        for run in panels(shape.size, VECTOR, 1):
            with emit.loop(run.count) as g:
                at, lanes = run.first + g * run.columns, run.columns
                held = emit.held(emit.load(x, at, lanes=lanes), lanes, "int8")
                emit.store(y, integer.look_up(table, held, lanes, processor), at, lanes=lanes)

    return emit.build_kernel("look_up", body)


@dataclass(frozen=True)
class Quantize:
    """y = round(x / scale) + zero, of `size` values."""

    size: int
    scale: float
    output: Requantization


def generate_quantize(shape: Quantize, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x (fp32) and y (int8)."""

    def body() -> None:
        x = emit.argument("x", (shape.size,), "float32")
        y = emit.argument("y", (shape.size,), "int8")
        for run in panels(shape.size, VECTOR, 1):
            with emit.loop(run.count) as g:
                first = run.first + g * run.columns
                parts = integer.parts(run.columns, processor)
                values = [
                    emit.load(x, first + at, lanes=lanes)
                    / emit.splat(shape.scale, lanes, "float32")
                    for at, lanes in zip(emit.offsets(parts), parts, strict=True)
                ]
                result = integer.narrow(values, parts, shape.output, None, processor)
                emit.store(y, result, first, lanes=run.columns)

    return emit.build_kernel("quantize", body)


@dataclass(frozen=True)
class QuantizeImage:
    """x [B, C, P] in fp32 to y [B, P, 4] in int8; C is up to four, missing channels are 0."""

    batch: int
    channels: int
    places: int
    scale: float
    output: Requantization


def generate_quantize_image(shape: QuantizeImage, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x (fp32) and y (int8)."""

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.channels, shape.places), "float32")
        y = emit.argument("y", (shape.batch, shape.places * GROUP), "int8")
        for run in panels(shape.places, VECTOR, 1):
            with emit.loop(shape.batch) as b, emit.loop(run.count) as g:
                first, width = run.first + g * run.columns, run.columns
                parts = integer.parts(width, processor)
                vectors = []
                for channel in range(shape.channels):
                    values = [
                        emit.load(x, b, channel, first + at, lanes=lanes)
                        / emit.splat(shape.scale, lanes, "float32")
                        for at, lanes in zip(emit.offsets(parts), parts, strict=True)
                    ]
                    vectors.append(integer.narrow(values, parts, shape.output, None, processor))
                vectors += [emit.splat(0, width, "int8")] * (GROUP - shape.channels)
                order = [i + width * channel for i in range(width) for channel in range(GROUP)]
                interleaved = tirx.Shuffle(vectors, order)
                emit.store(y, interleaved, b, first * GROUP, lanes=width * GROUP)

    return emit.build_kernel("quantize_image", body)


@dataclass(frozen=True)
class Dequantize:
    """y = (x - zero) · scale, of `size` values."""

    size: int
    operand: Quantization


def generate_dequantize(shape: Dequantize, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x (int8) and y (fp32)."""

    def body() -> None:
        x = emit.argument("x", (shape.size,), "int8")
        y = emit.argument("y", (shape.size,), "float32")
        for run in panels(shape.size, VECTOR, 1):
            with emit.loop(run.count) as g:
                at, lanes = run.first + g * run.columns, run.columns
                loaded = emit.cast(emit.load(x, at, lanes=lanes), lanes, "int32")
                shifted = loaded - emit.splat(shape.operand.zero_point, lanes, "int32")
                scale = emit.splat(shape.operand.scale, lanes, "float32")
                emit.store(y, emit.cast(shifted, lanes, "float32") * scale, at, lanes=lanes)

    return emit.build_kernel("dequantize", body)


@dataclass(frozen=True)
class IntegerPool:
    """y[c] = round(mean over all places of x[:, c]) in other steps.

    Attributes:
        factor: a step of x over a step of y.
        zero: zero point of x.
    """

    batch: int
    places: int
    channels: int
    factor: float
    zero: int
    output: Requantization


def generate_pool(shape: IntegerPool, processor: Processor) -> PrimFunc:
    """Write the kernel; its arguments are x [B, P, C] and y [B, C].

    Up to 256 int8 are added in int16, which holds their sum.
    """

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.places, shape.channels), "int8")
        y = emit.argument("y", (shape.batch, shape.channels), "int8")
        for run in panels(shape.channels, VECTOR, 1):
            with emit.loop(shape.batch) as b, emit.loop(run.count) as g:
                first, lanes = run.first + g * run.columns, run.columns
                total = emit.accumulators(1, (lanes,), "int32")
                total.set(0, 0, emit.splat(-shape.places * shape.zero, lanes, "int32"))

                def add(start: Expr, count: int, total: Any = total, first: Expr = first) -> None:
                    part = emit.accumulators(1, total.widths, "int16")
                    part.set(0, 0, emit.splat(0, total.widths[0], "int16"))
                    with emit.loop(count) as p:
                        value = emit.load(x, b, start + p, first, lanes=total.widths[0])
                        wide = emit.cast(value, total.widths[0], "int16")
                        part.set(0, 0, part.get(0, 0) + wide)
                    total.add(part)

                for block in panels(shape.places, 1, _PART):
                    with emit.loop(block.count) as turn:
                        add(block.first + turn * block.columns, block.columns)
                parts = integer.parts(lanes, processor)
                factor = shape.factor / shape.places
                values = [
                    emit.cast(integer.part_of(total.get(0, 0), at, width, lanes), width, "float32")
                    * emit.splat(factor, width, "float32")
                    for at, width in zip(emit.offsets(parts), parts, strict=True)
                ]
                output = within(shape.output, _SPAN * abs(shape.factor))
                result = integer.narrow(values, parts, output, None, processor)
                emit.store(y, result, b, first, lanes=lanes)

    return emit.build_kernel("integer_pool", body)
