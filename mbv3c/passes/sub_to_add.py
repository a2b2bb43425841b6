"""Spell the subtraction of a constant as an addition.

    Sub(x, c)   ⇒   Add(x, −c)

The result is exact, and every later pass has one spelling less to know.
"""

import numpy as np
import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import FLOATS, Match, Rewrite, constant, replaced_initializer


class SubToAdd(Rewrite):
    """Turn Sub of a constant into Add."""

    name = "sub_to_add"
    removes = Removal(("Sub",), "of a constant")
    patterns = (lambda op, x, subtrahend: op.Sub(x, subtrahend),)
    constants = frozenset({"subtrahend"})

    def check(self, match: Match) -> str | None:
        x = match.values["x"]
        return None if x.dtype in FLOATS else f"{x.name!r} is {x.dtype}, not a float"

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        old = match.values["subtrahend"]
        negated = np.negative(np.asarray(constant(old)))
        addend = replaced_initializer(op, match, old, negated)
        return op.op("Add", [match.values["x"], addend], name=match.name)
