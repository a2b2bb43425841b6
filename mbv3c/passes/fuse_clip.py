"""Fuse what clips by other names than Clip.

Max(x, low) → Min(high)     ⇒   Clip(x, low, high)
Min(x, high) → Max(low)     ⇒   Clip(x, low, high)
Relu(x) → Min(high)         ⇒   Clip(x, 0, high)
Min(x, high) → Relu         ⇒   Clip(x, 0, high)
Relu(x) → Clip(low, high)   ⇒   Clip(x, max(low, 0), high)
"""

from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import FLOATS, Match, Pattern, Rewrite, new_initializer, raises_rank


def _ordered(op_type: str, swap: bool) -> Pattern:
    """Return Min or Max of two operands; onnxscript tries both orders of Add and Mul only."""

    def apply(op: Any, a: Any, b: Any) -> Any:
        function = getattr(op, op_type)
        return function(b, a) if swap else function(a, b)

    return apply


def _spellings(swap_low: bool, swap_high: bool) -> tuple[Pattern, ...]:
    least, most = _ordered("Max", swap_low), _ordered("Min", swap_high)

    def max_min(op: Any, x: Any, low: Any, high: Any) -> Any:
        return most(op, least(op, x, low), high)

    def min_max(op: Any, x: Any, low: Any, high: Any) -> Any:
        return least(op, most(op, x, high), low)

    return max_min, min_max


def _relu_min(op: Any, x: Any, high: Any) -> Any:
    return op.Min(op.Relu(x), high)


def _min_relu(op: Any, x: Any, high: Any) -> Any:
    return op.Min(high, op.Relu(x))


def _relu_of_min(op: Any, x: Any, high: Any) -> Any:
    return op.Relu(op.Min(x, high))


def _relu_of_min_swapped(op: Any, x: Any, high: Any) -> Any:
    return op.Relu(op.Min(high, x))


def _relu_clip(op: Any, x: Any, low: Any, high: Any) -> Any:
    return op.Clip(op.Relu(x), low, high)


def _relu_clip_above(op: Any, x: Any, high: Any) -> Any:
    return op.Clip(op.Relu(x), None, high)


class FuseClip(Rewrite):
    """Fuse Min, Max and Relu into one Clip."""

    name = "fuse_clip"
    patterns = (
        *(
            spelling
            for swaps in product((False, True), repeat=2)
            for spelling in _spellings(*swaps)
        ),
        _relu_min,
        _min_relu,
        _relu_of_min,
        _relu_of_min_swapped,
        _relu_clip,
        _relu_clip_above,
    )
    scalars = frozenset({"low", "high"})
    removes = Removal(("Min", "Max", "Relu"), "where two of them make a Clip")

    def check(self, match: Match) -> str | None:
        x = match.values["x"]
        if x.dtype not in FLOATS:
            return f"{x.name!r} is {x.dtype}, not a float"
        for name in match.scalars:
            if raises_rank(match.values[name], x):
                return f"{match.values[name].name!r} has more dimensions than {x.name!r} may have"
        low, high = _bounds(match)
        if low > high:
            return f"the lower bound {low:.7g} lies above the upper one, {high:.7g}"
        return None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        x = match.values["x"]
        assert x.dtype is not None
        bounds = [
            new_initializer(op, match, f"{match.name}.{end}", np.array(b, x.dtype.numpy()))
            for end, b in zip(("low", "high"), _bounds(match), strict=True)
        ]
        return op.op("Clip", [x, *bounds], name=match.name)


def _bounds(match: Match) -> tuple[float, float]:
    low = match.scalars.get("low", 0.0)
    if any(node.op_type == "Relu" for node in match.nodes):
        low = max(low, 0.0)
    return low, match.scalars["high"]
