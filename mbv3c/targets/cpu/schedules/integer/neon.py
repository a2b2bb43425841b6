"""How NEON rounds fp32 and fixed-point numbers to int8, and looks int8 up."""

from collections.abc import Sequence

from tvm import tirx

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr

_ROUND = "aarch64.neon.fcvtns"  # to the nearest, halves to even
TABLE = 256  # entries of a table of int8
_HALF = 4  # int8 that are looked up as eight
_UNITS = 1.5 * 2**23  # where fp32 has steps of 1, with room on both sides


def shorts(values: Sequence[Expr], zero: int) -> Expr:
    """Round two vectors to the nearest, halves to even, shift them, and saturate to int16."""
    halves = [
        emit.intrinsic("int16", 4, "aarch64.neon.sqxtn", emit.intrinsic("int32", 4, _ROUND, value))
        for value in values
    ]
    together = tirx.Shuffle(halves, list(range(8)))
    if not zero:
        return together
    return emit.intrinsic("int16", 8, "sadd.sat", together, emit.splat(zero, 8, "int16"))


def small_shorts(values: Sequence[Expr], zero: int) -> Expr:
    """Round and shift two vectors that fit int16, by an addition.

    Beside 1.5 · 2²³ a step of fp32 is 1: sums are rounded to the nearest, halves to even, and
    their low bits are the integer. An even zero point moves no half, so it is added on the way.
    Values are fenced: a fused multiply-add would round once where QuantizeLinear rounds twice.
    """
    on_the_way = 0 if zero % 2 else zero
    sums = [
        emit.intrinsic("float32", 4, "arithmetic.fence", value)
        + emit.splat(_UNITS + on_the_way, 4, "float32")
        for value in values
    ]
    together = _low_halves(sums)
    return together if zero == on_the_way else together + emit.splat(zero, 8, "int16")


def saturated(values: Expr) -> Expr:
    """Return eight int16 as int8."""
    return emit.intrinsic("int8", 8, "aarch64.neon.sqxtn", values)


def product(sums: Expr, factors: Expr) -> Expr:
    """Return the products of four int32 and four fixed-point numbers, cut to integers."""
    return emit.intrinsic("int32", 4, "aarch64.neon.sqdmulh", sums, factors)


def rounded(values: Sequence[Expr], zero: int, shift: int) -> Expr:
    """Round two vectors of int32 that fit int16 by `shift` places, halves up, to int8."""
    together = _low_halves(values)
    if zero:
        together = together + emit.splat(zero << shift, 8, "int16")
    return emit.intrinsic("int8", 8, "aarch64.neon.sqrshrn", together, tirx.const(shift, "int32"))


def _low_halves(values: Sequence[Expr]) -> Expr:
    """Return the lower int16 of each lane of two vectors."""
    low = [tirx.reinterpret("int16x8", each) for each in values]
    return tirx.Shuffle(low, list(range(0, 16, 2)))


def look_up(table: Buffer, held: Expr, width: int) -> Expr:
    """Look 4, 8 or 16 int8 up, in quarters of the table, each of which four registers hold."""
    lanes, quarter = max(8, width), TABLE // 4
    if width == _HALF:
        held = emit.held(tirx.Shuffle([held, held], list(range(lanes))), lanes, "int8")
    found: Expr = None
    for i in range(4):
        entries = [emit.load(table, quarter * i + 16 * j, lanes=16) for j in range(4)]
        if i == 0:
            made = emit.intrinsic("int8", lanes, "aarch64.neon.tbl4", *entries, held)
        else:
            shift = emit.splat(quarter * i - (TABLE if i > 1 else 0), lanes, "int8")
            made = emit.intrinsic(
                "int8", lanes, "aarch64.neon.tbx4", found, *entries, held - shift
            )
        found = emit.held(made, lanes, "int8")
    return tirx.Shuffle([found], list(range(_HALF))) if width == _HALF else found
