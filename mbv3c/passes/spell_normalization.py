"""Write normalisations that TVM does not import, or computes less exactly than onnxruntime.

    LpNormalization(x)             ⇒   x / ReduceL2(x), or / 1 where that is 0; p = 1: ReduceL1
    MeanVarianceNormalization(x)   ⇒   d / √mean(d²) of d = x - mean(x)

TVM computes the variance of the second as mean(x²) - mean(x)², which loses all digits far from
zero. Where the norm is 0, onnxruntime returns zeros, and this x, which is 0 or too small to have a
square; an infinite divisor would be exact, and no range to calibrate for integers. Source: ONNX
operators LpNormalization-1, MeanVarianceNormalization-13; onnxruntime leaves out the epsilon by
which ONNX defines the second.
"""

import numpy as np
import onnx

from mbv3c.passes.report import PassReport, Removal
from mbv3c.passes.spelling import Spelling, StaysError, spell_nodes

NAME = "spell_normalization"
REMOVES = Removal(("LpNormalization", "MeanVarianceNormalization"), "of fp32, with p of 1 or 2")


def spell_normalization(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Rewrite every LpNormalization and MeanVarianceNormalization."""
    return spell_nodes(
        model, NAME, {"LpNormalization": _lp, "MeanVarianceNormalization": _mean_variance}
    )


def _lp(spelling: Spelling) -> None:
    spelling.since(7)
    x, power = spelling.input(0), spelling.attribute("p", 2)
    spelling.dtype(x)
    if power not in (1, 2):
        raise StaysError(f"its p is {power}")
    axis = spelling.attribute("axis", -1) % len(spelling.shape(x))
    norm = spelling.reduce(f"ReduceL{power}", x, [axis], keepdims=1)
    zero, one = (np.array(value, np.float32) for value in (0, 1))
    empty = spelling.add("Equal", norm, spelling.store(zero, "zero"))
    norm = spelling.add("Where", empty, spelling.store(one, "one"), norm)
    spelling.add("Div", x, norm, out=spelling.output(0))


def _mean_variance(spelling: Spelling) -> None:
    spelling.since(9)
    x, axes = spelling.input(0), spelling.attribute("axes", (0, 2, 3))
    spelling.dtype(x)
    axes = [axis % len(spelling.shape(x)) for axis in axes]
    offset = spelling.add("Sub", x, spelling.reduce("ReduceMean", x, axes, keepdims=1))
    square = spelling.add("Mul", offset, offset)
    variance = spelling.reduce("ReduceMean", square, axes, keepdims=1)
    spelling.add("Div", offset, spelling.add("Sqrt", variance), out=spelling.output(0))
