"""Fuse the primitive spellings of hard-sigmoid.

    Add(x, 3) → Clip(0, 6) → Div(6) or Mul(1/6)   ⇒   HardSigmoid(x, alpha=1/6, beta=1/2)

Source: arXiv:1905.02244, section 5.2.
"""

from typing import Any

import onnx_ir as ir

from mbv3c.passes.rewrite import Match, Rewrite, is_close

ALPHA = 1 / 6
BETA = 0.5


def _divided(op: Any, x: Any, addend: Any, low: Any, high: Any, divisor: Any) -> Any:
    return op.Div(op.Clip(op.Add(x, addend), low, high), divisor)


def _multiplied(op: Any, x: Any, addend: Any, low: Any, high: Any, factor: Any) -> Any:
    return op.Mul(op.Clip(op.Add(x, addend), low, high), factor)


# The constants of relu6(x + 3) / 6 by the names that the patterns here and in fuse_hardswish use.
CONSTANTS = {
    "addend": ("Add's constant", 3.0),
    "low": ("Clip's minimum", 0.0),
    "high": ("Clip's maximum", 6.0),
    "divisor": ("Div's constant", 6.0),
    "factor": ("Mul's constant", 1 / 6),
}


_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def wrong_constant(match: Match) -> str | None:
    """Say why this is not relu6(x + 3) / 6: another number, another type, another shape."""
    x = match.values["x"]
    if x.dtype not in _FLOATS:
        return f"{x.name!r} is {x.dtype}, not a float"
    given = [name for name in CONSTANTS if name in match.scalars]
    for name in given:
        rank = len(match.values[name].shape or ())
        if rank > 0 and (x.shape is None or rank > len(x.shape)):
            return f"{CONSTANTS[name][0]} has {rank} dimensions, more than {x.name!r} may have"
    for name in given:
        got = match.scalars[name]
        meaning, wanted = CONSTANTS[name]
        if not is_close(got, wanted, match.values[name]):
            return f"{meaning} must be {wanted:.7g}, got {got:.7g}"
    return None


class FuseHardSigmoid(Rewrite):
    """Fuse relu6(x + 3) / 6 into one HardSigmoid."""

    name = "fuse_hardsigmoid"
    patterns = (_divided, _multiplied)
    scalars = frozenset(CONSTANTS)

    def check(self, match: Match) -> str | None:
        return wrong_constant(match)

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        attributes = {"alpha": ALPHA, "beta": BETA}
        return op.op("HardSigmoid", [match.values["x"]], attributes, name=match.name)
