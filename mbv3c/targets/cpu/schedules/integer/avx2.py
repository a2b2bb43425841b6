"""How AVX2 rounds fp32 to int8, and computes a gated activation of int8 on the way.

    8 fp32  vcvtps2dq  8 int32   nearest, halves to even
    2 of these   vpackssdw, vpaddsw   16 int16: saturated, shifted by the zero point
                 vpacksswb            16 int8: saturated

`vpackssdw` takes its operands' halves in turn; a `vpshufd` puts the int8 back in order.
"""

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Expr

LANES = 8  # sums of a register
_CONVERT = "x86.avx.cvt.ps2dq.256"
_LARGEST = 2.0**15  # beyond int16; what is beyond int32 would become its least


def narrow(values: Sequence[Expr], zero: int, *, small: bool, crossed: bool) -> Expr:
    """Round one or two vectors of eight fp32, shift them, and saturate to int8.

    Args:
        values: the vectors.
        zero: what is added behind rounding.
        small: whether all values are known to stay within int16.
        crossed: whether two vectors hold them by fours, the first and third, the second and
            fourth: then they come out in order.
    """
    words = [
        emit.intrinsic("int32", LANES, _CONVERT, value if small else _bounded(value))
        for value in values
    ]
    if len(words) == 1:
        held = emit.held(words[0], LANES, "int32")
        halves = [tirx.Shuffle([held], list(range(at, at + 4))) for at in (0, 4)]
        shorts = emit.intrinsic("int16", 8, "x86.sse2.packssdw.128", *halves)
        low = emit.held(_shifted(shorts, zero, 8), 8, "int16")
        packed = emit.intrinsic("int8", 16, "x86.sse2.packsswb.128", low, low)
        return tirx.Shuffle([emit.held(packed, 16, "int8")], list(range(8)))
    shorts = emit.intrinsic("int16", 16, "x86.avx2.packssdw", *words)
    held = emit.held(_shifted(shorts, zero, 16), 16, "int16")
    halves = [tirx.Shuffle([held], list(range(at, at + 8))) for at in (0, 8)]
    packed = emit.intrinsic("int8", 16, "x86.sse2.packsswb.128", *halves)
    if crossed:
        return packed
    order = [4 * group + at for group in (0, 2, 1, 3) for at in range(4)]
    return tirx.Shuffle([emit.held(packed, 16, "int8")], order)


def _bounded(value: Expr) -> Expr:
    return T.min(value, emit.splat(_LARGEST, LANES, "float32"))


def _shifted(shorts: Expr, zero: int, lanes: int) -> Expr:
    if not zero:
        return shorts
    return emit.intrinsic("int16", lanes, "sadd.sat", shorts, emit.splat(zero, lanes, "int16"))
