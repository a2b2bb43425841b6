"""Name what clips at 0 and nowhere else.

Max(x, 0)    ⇒   Relu(x)
Clip(x, 0)   ⇒   Relu(x)

It runs after `fuse_clip`, which takes Max and Min together.
"""

from typing import Any

import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import FLOATS, Match, Rewrite, raises_rank


def _max(op: Any, x: Any, low: Any) -> Any:
    return op.Max(x, low)


def _max_swapped(op: Any, x: Any, low: Any) -> Any:
    return op.Max(low, x)


def _clip(op: Any, x: Any, low: Any) -> Any:
    return op.Clip(x, low)


class FuseRelu(Rewrite):
    """Turn Max of x and 0, and Clip with the minimum 0 only, into Relu."""

    name = "fuse_relu"
    removes = Removal(("Max", "Clip"), "with 0 as the only bound")
    patterns = (_max, _max_swapped, _clip)
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
