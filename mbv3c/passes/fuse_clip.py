"""Fuse what clips by other names than Clip.

Max(x, low) → Min(high)     ⇒   Clip(x, low, high)
Min(x, high) → Max(low)     ⇒   Clip(x, low, high)
Relu(x) → Min(high)         ⇒   Clip(x, 0, high)
Min(x, high) → Relu         ⇒   Clip(x, 0, high)
Relu(x) → Clip(low, high)   ⇒   Clip(x, max(low, 0), high)
"""

import numpy as np
import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import FLOATS, Match, Rewrite, new_initializer, raises_rank


class FuseClip(Rewrite):
    """Fuse Min, Max and Relu into one Clip."""

    name = "fuse_clip"
    # onnxscript tries both orders of Add and Mul, but not of Min and Max.
    patterns = (
        lambda op, x, low, high: op.Min(op.Max(x, low), high),
        lambda op, x, low, high: op.Max(op.Min(x, high), low),
        lambda op, x, low, high: op.Min(high, op.Max(x, low)),
        lambda op, x, low, high: op.Max(op.Min(high, x), low),
        lambda op, x, low, high: op.Min(op.Max(low, x), high),
        lambda op, x, low, high: op.Max(low, op.Min(x, high)),
        lambda op, x, low, high: op.Min(high, op.Max(low, x)),
        lambda op, x, low, high: op.Max(low, op.Min(high, x)),
        lambda op, x, high: op.Min(op.Relu(x), high),
        lambda op, x, high: op.Min(high, op.Relu(x)),
        lambda op, x, high: op.Relu(op.Min(x, high)),
        lambda op, x, high: op.Relu(op.Min(high, x)),
        lambda op, x, low, high: op.Clip(op.Relu(x), low, high),
        lambda op, x, high: op.Clip(op.Relu(x), None, high),
    )
    scalars = frozenset({"low", "high"})
    removes = Removal(("Min", "Max", "Relu"), "where two of them make a Clip")
    writes = ("Clip", 11)

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
