"""Fuse the primitive spellings of hard-swish.

    Add(x, 3) → Clip(0, 6) → Mul(x) → Div(6)   ⇒   HardSwish(x)

Mul(1/6) may stand for Div(6), x may be divided first, and the hard-sigmoid may be fused already.
Source: arXiv:1905.02244, section 5.2.
"""

from typing import Any

import onnx_ir as ir

from mbv3c.passes.fuse_hardsigmoid import ALPHA, BETA, CONSTANTS, wrong_constant
from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import Match, Rewrite, is_close
from mbv3c.passes.upgrade_opset import OLDEST_WITH_HARDSWISH


def _relu6(op: Any, x: Any, addend: Any, low: Any, high: Any) -> Any:
    return op.Clip(op.Add(x, addend), low, high)


def _divided_last(op: Any, x: Any, addend: Any, low: Any, high: Any, divisor: Any) -> Any:
    return op.Div(op.Mul(x, _relu6(op, x, addend, low, high)), divisor)


def _multiplied_last(op: Any, x: Any, addend: Any, low: Any, high: Any, factor: Any) -> Any:
    return op.Mul(op.Mul(x, _relu6(op, x, addend, low, high)), factor)


def _divided_first(op: Any, x: Any, addend: Any, low: Any, high: Any, divisor: Any) -> Any:
    return op.Mul(op.Div(x, divisor), _relu6(op, x, addend, low, high))


def _multiplied_first(op: Any, x: Any, addend: Any, low: Any, high: Any, factor: Any) -> Any:
    return op.Mul(op.Mul(x, factor), _relu6(op, x, addend, low, high))


def _gated(op: Any, x: Any) -> Any:
    return op.Mul(x, op.HardSigmoid(x))


class FuseHardSwish(Rewrite):
    """Fuse x · relu6(x + 3) / 6 into one HardSwish."""

    name = "fuse_hardswish"
    patterns = (_divided_last, _multiplied_last, _divided_first, _multiplied_first, _gated)
    scalars = frozenset(CONSTANTS)
    removes = Removal(
        ("Add", "Clip", "Div", "HardSigmoid", "Mul"), "as parts of x · relu6(x + 3) / 6"
    )
    writes = ("HardSwish", OLDEST_WITH_HARDSWISH)

    def check(self, match: Match) -> str | None:
        if not match.scalars:
            return _wrong_hardsigmoid(match)
        return wrong_constant(match)

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        return op.op("HardSwish", [match.values["x"]], name=match.name)


def _wrong_hardsigmoid(match: Match) -> str | None:
    attributes = match.node("HardSigmoid").attributes
    for name, wanted, default in (("alpha", ALPHA, 0.2), ("beta", BETA, 0.5)):
        got = attributes.get_float(name, default)
        if not is_close(got, wanted, match.values["x"]):
            return f"HardSigmoid's {name} must be {wanted:.7g}, got {got:.7g}"
    return None
