"""Clip the result of a line a · x + b, not its argument.

    Clip(x, −3, 3) → Add(3)                    ⇒   Add(x, 3) → Clip(0, 6)
    Clip(x, −3, 3) → Mul(1/6) → Add(1/2)       ⇒   Mul(x, 1/6) → Add(1/2) → Clip(0, 1)
    Clip(x, −3, 3) → Div(6) → Add(1/2)         ⇒   Div(x, 6) → Add(1/2) → Clip(0, 1)

This is a hard-sigmoid with Clip first; the fusions that follow look for Clip last.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import FLOATS, Match, Rewrite, is_close, new_initializer, raises_rank


def _added(op: Any, x: Any, low: Any, high: Any, addend: Any) -> Any:
    return op.Add(op.Clip(x, low, high), addend)


def _multiplied(op: Any, x: Any, low: Any, high: Any, factor: Any, addend: Any) -> Any:
    return op.Add(op.Mul(op.Clip(x, low, high), factor), addend)


def _divided(op: Any, x: Any, low: Any, high: Any, divisor: Any, addend: Any) -> Any:
    return op.Add(op.Div(op.Clip(x, low, high), divisor), addend)


class ClipLast(Rewrite):
    """Move Clip after the addition that brings its minimum to 0."""

    name = "clip_last"
    removes = Removal(("Clip",), "before the sum of a hard-sigmoid")
    writes = ("Clip", 11)
    patterns = (_added, _multiplied, _divided)
    scalars = frozenset({"low", "high", "factor", "divisor", "addend"})

    def check(self, match: Match) -> str | None:
        x = match.values["x"]
        if x.dtype not in FLOATS:
            return f"{x.name!r} is {x.dtype}, not a float"
        for name in match.scalars:
            if raises_rank(match.values[name], x):
                return f"{match.values[name].name!r} has more dimensions than {x.name!r} may have"
        factor = _factor(match)
        if factor <= 0:
            return "the line behind the Clip does not rise"
        least, addend = match.scalars["low"] * factor, match.scalars["addend"]
        if not is_close(-least, addend, match.values["addend"]):
            return f"Add's constant must be {-least:.7g}, as Clip's minimum asks, got {addend:.7g}"
        return None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        values, x = match.values, match.values["x"]
        assert x.dtype is not None
        most = match.scalars["high"] * _factor(match) + match.scalars["addend"]
        clip, add = match.node("Clip"), match.nodes[-1]
        bounds = [
            new_initializer(op, match, f"{clip.name}.{end}", np.array(bound, x.dtype.numpy()))
            for end, bound in (("low", 0), ("high", most))
        ]
        line = x
        if "factor" in values:
            line = op.op("Mul", [line, values["factor"]], name=match.node("Mul").name)
        if "divisor" in values:
            line = op.op("Div", [line, values["divisor"]], name=match.node("Div").name)
        line = op.op("Add", [line, values["addend"]], name=add.name)
        return op.op("Clip", [line, *bounds], name=clip.name)


def _factor(match: Match) -> float:
    """Return the number that the clipped tensor is multiplied by."""
    if "divisor" in match.scalars:
        divisor = match.scalars["divisor"]
        return 1 / divisor if divisor else 0.0
    return match.scalars.get("factor", 1.0)
