"""Fuse a matrix product and its bias.

MatMul(x, w) → Add(b)   ⇒   Gemm(x, w, b)
"""

import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import Match, Rewrite, static


class FuseGemm(Rewrite):
    """Fuse MatMul and Add of constants into one Gemm."""

    name = "fuse_gemm"
    patterns = (lambda op, x, weight, bias: op.Add(op.MatMul(x, weight), bias),)
    constants = frozenset({"weight", "bias"})
    removes = Removal(("MatMul", "Add"), "where a constant is added to a matrix product")

    def check(self, match: Match) -> str | None:
        x, weight, bias = (static(match.values[name]) for name in ("x", "weight", "bias"))
        if x is None or weight is None or len(x) != 2 or len(weight) != 2:
            return "Gemm multiplies two matrices; this is a product of other tensors"
        assert bias is not None
        result = (x[0], weight[1])
        if len(bias) > 2 or any(
            size not in (1, wanted)
            for size, wanted in zip(reversed(bias), reversed(result), strict=False)
        ):
            return f"the bias is {list(bias)}, the product {list(result)}"
        return None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        operands = [match.values[name] for name in ("x", "weight", "bias")]
        return op.op("Gemm", operands, name=match.name)
