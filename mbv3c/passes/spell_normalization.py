"""Write normalisations that TVM does not import, or computes less exactly than onnxruntime.

    LpNormalization(x)             ⇒   x / ReduceL2(x), or / 1 where that is 0; p = 1: ReduceL1
    MeanVarianceNormalization(x)   ⇒   d / √mean(d²) of d = x - mean(x)
    LayerNormalization(x, s, b)    ⇒   d · r · s + b, mean(x), r = 1 / √(mean(d²) + ε), if one of
                                       the last two is read
    RMSNormalization(x, s)         ⇒   x / √(mean(x²) + ε) · s
    GroupNormalization(x, s, b)    ⇒   InstanceNormalization of groups, between Reshapes · s + b

TVM computes the variance of the second as mean(x²) - mean(x)², which loses all digits far from
zero. Where the norm is 0, onnxruntime returns zeros, and this x, which is 0 or too small to have a
square; an infinite divisor would be exact, and no range to calibrate for integers. Source: ONNX
operators LpNormalization-1, MeanVarianceNormalization-13, LayerNormalization-17,
RMSNormalization-23, GroupNormalization-18 and -21; onnxruntime leaves out the epsilon by which
ONNX defines the second. TVM makes y alone of the third, and fails at the fourth where it begins
at axis 0; the backends have a kernel for the third, and for the fifth as it is written here. ONNX
defines the fifth by mean(x²) - mean(x)², too.
"""

import numpy as np
import onnx
from onnx import TensorProto

from mbv3c.passes.report import PassReport, Removal
from mbv3c.passes.spelling import KeptError, Spelling, StaysError, spell_nodes

NAME = "spell_normalization"
REMOVES = Removal(
    (
        "LpNormalization",
        "MeanVarianceNormalization",
        "RMSNormalization",
        "GroupNormalization",
    ),
    "of fp32 with a fixed shape, with p of 1 or 2",
)
_FIRST_WITH_CHANNELS = 21  # of GroupNormalization: before it, scale and bias are those of groups
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)


def spell_normalization(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Rewrite every LpNormalization and MeanVarianceNormalization, and some others."""
    spellings = {
        "LpNormalization": _lp,
        "MeanVarianceNormalization": _mean_variance,
        "LayerNormalization": _layer,
        "RMSNormalization": _root_mean_square,
        "GroupNormalization": _group,
    }
    return spell_nodes(model, NAME, spellings)


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


def _layer(spelling: Spelling) -> None:
    if not spelling.is_read(1) and not spelling.is_read(2):
        raise KeptError
    x = spelling.input(0)
    dtype, rank = spelling.dtype(x, among=_FLOATS), len(spelling.shape(x))
    axes = list(range(spelling.attribute("axis", -1) % rank, rank))
    epsilon = np.array(spelling.attribute("epsilon", 1e-5), dtype)
    mean = spelling.reduce("ReduceMean", x, axes, keepdims=1, out=spelling.output(1))
    offset = spelling.add("Sub", x, mean)
    square = spelling.add("Mul", offset, offset)
    variance = spelling.reduce("ReduceMean", square, axes, keepdims=1)
    raised = spelling.add("Add", variance, spelling.store(epsilon, "epsilon"))
    factor = spelling.add("Reciprocal", spelling.add("Sqrt", raised), out=spelling.output(2))
    y = spelling.add("Mul", offset, factor)
    if not spelling.input(2):
        spelling.add("Mul", y, spelling.input(1), out=spelling.output(0))
        return
    scaled = spelling.add("Mul", y, spelling.input(1))
    spelling.add("Add", scaled, spelling.input(2), out=spelling.output(0))


def _root_mean_square(spelling: Spelling) -> None:
    x, scale = spelling.input(0), spelling.input(1)
    dtype, rank = spelling.dtype(x, among=_FLOATS), len(spelling.shape(x))
    axes = list(range(spelling.attribute("axis", -1) % rank, rank))
    epsilon = np.array(spelling.attribute("epsilon", 1e-5), dtype)
    mean = spelling.reduce("ReduceMean", spelling.add("Mul", x, x), axes, keepdims=1)
    raised = spelling.add("Add", mean, spelling.store(epsilon, "epsilon"))
    unit = spelling.add("Div", x, spelling.add("Sqrt", raised))
    spelling.add("Mul", unit, scale, out=spelling.output(0))


def _group(spelling: Spelling) -> None:
    x, groups = spelling.input(0), spelling.attribute("num_groups", 1)
    dtype, shape = spelling.dtype(x, among=_FLOATS), spelling.shape(x)
    scale, bias = spelling.input(1), spelling.input(2)
    whole = [scale, bias]
    if spelling.opset >= _FIRST_WITH_CHANNELS:
        whole = [
            spelling.store(np.full(groups, value, dtype), what)
            for value, what in ((1, "ones"), (0, "zeros"))
        ]
    parts = spelling.store(np.array([shape[0], groups, -1], np.int64), "groups")
    rows = spelling.add("Reshape", x, parts)
    epsilon = spelling.attribute("epsilon", 1e-5)
    rows = spelling.add("InstanceNormalization", rows, *whole, epsilon=epsilon)
    back, y = spelling.store(np.array(shape, np.int64), "shape"), spelling.output(0)
    if spelling.opset < _FIRST_WITH_CHANNELS:
        spelling.add("Reshape", rows, back, out=y)
        return
    map_ = spelling.add("Reshape", rows, back)
    column = spelling.store(np.array([shape[1], *[1] * (len(shape) - 2)], np.int64), "column")
    scaled = spelling.add("Mul", map_, spelling.reshaped(scale, column))
    spelling.add("Add", scaled, spelling.reshaped(bias, column), out=y)
