"""Fuse the primitive spellings of hard-sigmoid.

    Add(x, 3) → Clip(0, 6) → Div(6) or Mul(1/6)   ⇒   HardSigmoid(x, alpha=1/6, beta=1/2)
    Add(x, 3) → Div(6) or Mul(1/6) → Clip(0, 1)   ⇒   HardSigmoid(x, alpha=1/6, beta=1/2)
    Mul(x, α) or Div(x, 1/α) → Add(β) → Clip(0, 1)   ⇒   HardSigmoid(x, alpha=α, beta=β)

Source: arXiv:1905.02244, section 5.2.
"""

from typing import Any

import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import FLOATS, Match, Rewrite, is_close, raises_rank

ALPHA = 1 / 6
BETA = 0.5


def _divided(op: Any, x: Any, addend: Any, low: Any, high: Any, divisor: Any) -> Any:
    return op.Div(op.Clip(op.Add(x, addend), low, high), divisor)


def _multiplied(op: Any, x: Any, addend: Any, low: Any, high: Any, factor: Any) -> Any:
    return op.Mul(op.Clip(op.Add(x, addend), low, high), factor)


def _divided_inside(op: Any, x: Any, addend: Any, low: Any, unit: Any, divisor: Any) -> Any:
    return op.Clip(op.Div(op.Add(x, addend), divisor), low, unit)


def _multiplied_inside(op: Any, x: Any, addend: Any, low: Any, unit: Any, factor: Any) -> Any:
    return op.Clip(op.Mul(op.Add(x, addend), factor), low, unit)


def _line(op: Any, x: Any, alpha: Any, beta: Any, low: Any, unit: Any) -> Any:
    return op.Clip(op.Add(op.Mul(x, alpha), beta), low, unit)


def _divided_line(op: Any, x: Any, inverse: Any, beta: Any, low: Any, unit: Any) -> Any:
    return op.Clip(op.Add(op.Div(x, inverse), beta), low, unit)


# The constants of relu6(x + 3) / 6 by the names that the patterns here and in fuse_hardswish use.
CONSTANTS = {
    "addend": ("Add's constant", 3.0),
    "low": ("Clip's minimum", 0.0),
    "high": ("Clip's maximum", 6.0),
    "unit": ("Clip's maximum", 1.0),
    "divisor": ("Div's constant", 6.0),
    "factor": ("Mul's constant", 1 / 6),
}
# A hard-sigmoid may be any rising line, whose constants are free.
_LINE = {"alpha": "Mul's constant", "beta": "Add's constant", "inverse": "Div's constant"}


def wrong_constant(match: Match) -> str | None:
    """Say why this is not relu6(x + 3) / 6: another number, another type, another shape."""
    x = match.values["x"]
    if x.dtype not in FLOATS:
        return f"{x.name!r} is {x.dtype}, not a float"
    meanings = {name: meaning for name, (meaning, _) in CONSTANTS.items()} | _LINE
    for name, meaning in meanings.items():
        if name in match.scalars and raises_rank(match.values[name], x):
            rank = len(match.values[name].shape or ())
            return f"{meaning} has {rank} dimensions, more than {x.name!r} may have"
    for name, (meaning, wanted) in CONSTANTS.items():
        if name not in match.scalars:
            continue
        got = match.scalars[name]
        if not is_close(got, wanted, match.values[name]):
            return f"{meaning} must be {wanted:.7g}, got {got:.7g}"
    return None


class FuseHardSigmoid(Rewrite):
    """Fuse relu6(x + 3) / 6, and any line clipped to 0..1, into one HardSigmoid."""

    name = "fuse_hardsigmoid"
    patterns = (_divided, _multiplied, _divided_inside, _multiplied_inside, _line, _divided_line)
    scalars = frozenset(CONSTANTS) | frozenset(_LINE)
    removes = Removal(("Add", "Clip", "Div", "Mul"), "as parts of relu6(x + 3) / 6")

    def check(self, match: Match) -> str | None:
        if match.scalars.get("alpha", 1.0) <= 0 or match.scalars.get("inverse", 1.0) <= 0:
            return "the line before the Clip does not rise"
        return wrong_constant(match)

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        scalars = match.scalars
        alpha = scalars.get("alpha", 1 / scalars["inverse"] if "inverse" in scalars else ALPHA)
        attributes = {"alpha": alpha, "beta": scalars.get("beta", BETA)}
        return op.op("HardSigmoid", [match.values["x"]], attributes, name=match.name)
