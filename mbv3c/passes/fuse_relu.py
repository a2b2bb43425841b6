"""Spell what clips at 0 and nowhere else as Relu.

Max(x, 0)    ⇒   Relu(x)
Clip(x, 0)   ⇒   Relu(x)

It runs after `fuse_clip`, which takes Max and Min together.
"""

import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import FLOATS, Match, Rewrite, raises_rank


class FuseRelu(Rewrite):
    """Turn Max of x and 0, and Clip with the minimum 0 only, into Relu."""

    name = "fuse_relu"
    removes = Removal(("Max", "Clip"), "with 0 as the only bound")
    patterns = (
        lambda op, x, low: op.Max(x, low),
        lambda op, x, low: op.Max(low, x),
        lambda op, x, low: op.Clip(x, low),
    )
    scalars = frozenset({"low"})

    def check(self, match: Match) -> str | None:
        x, low = match.values["x"], match.scalars["low"]
        if x.dtype not in FLOATS:
            return f"{x.name!r} is {x.dtype}, not a float"
        if low != 0:
            return f"{match.nodes[-1].op_type}'s bound must be 0, got {low:.7g}"
        if raises_rank(match.values["low"], x):
            return f"{match.values['low'].name!r} has more dimensions than {x.name!r} may have"
        return None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        return op.op("Relu", [match.values["x"]], name=match.name)
