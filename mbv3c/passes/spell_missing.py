"""Write operators that TVM lacks, or of which it ignores attributes.

    Cosh(x)                              ⇒   (eˣ + e⁻ˣ) / 2; Sinh by a difference
    CumSum(x, axis)                      ⇒   MatMul of rows along the axis with a triangle of ones
    Xor(a, b); Equal(a, b) of masks      ⇒   Or(And(a, Not(b)), And(Not(a), b)); Not of that
    IsInf(x), positive or negative only  ⇒   Equal(x, ∞), Equal(x, -∞)
    LpPool(x)                            ⇒   the root of Conv(|x|ᵖ) with ones, for each channel
    ConvTranspose with an output_shape   ⇒   ConvTranspose with the pads that give it
    Pow(x, stored whole numbers)         ⇒   Pow(x, the numbers in fp32)
    OneHot(x, depth, values)             ⇒   Where(Equal(x or x + depth, 0 … depth - 1), values)
    DequantizeLinear(stored), in blocks  ⇒   the values, stored; also of 4 bits and of float8

LLVM refuses what TVM makes of an Xor of masks that one kernel computes. TVM takes LpPool for an
average, which divides by less where a window is cut off (ceil_mode).
Source: ONNX operators CumSum-14, IsInf-20, LpPool-18, OneHot-11, DequantizeLinear-21 and
ConvTranspose-11; where the padding is odd, the side that onnxruntime gives the larger half.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from mbv3c.passes.report import PassReport, Removal
from mbv3c.passes.spelling import KeptError, Spelling, StaysError, spell_nodes

NAME = "spell_missing"
REMOVES = Removal(
    ("Cosh", "Sinh", "CumSum", "LpPool"), "of fp32 with a fixed shape, along a constant axis"
)
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
_WHOLE = (TensorProto.INT32, TensorProto.INT64)
_USUAL = (
    *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32),
    *(TensorProto.UINT8, TensorProto.UINT16),
)  # what TVM dequantizes
_LONGEST_SUM = 2048  # numbers; the triangle has the square of that


def spell_missing(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Rewrite every one of these operators."""
    spellings: dict[str, Callable[[Spelling], None]] = {
        "Cosh": partial(_half_of, operator="Add"),
        "Sinh": partial(_half_of, operator="Sub"),
        "CumSum": _cumsum,
        "IsInf": _is_infinite,
        "LpPool": _lp_pool,
        "ConvTranspose": _transposed,
        "DequantizeLinear": _stored_values,
        "Equal": _alike,
        "OneHot": _one_hot,
        "Pow": _power,
        "Xor": _either,
    }
    return spell_nodes(model, NAME, spellings)


def _stored_values(spelling: Spelling) -> None:
    stored = spelling.stored(spelling.input(0))
    block = spelling.attribute("block_size", 0)
    if stored is None or (stored in _USUAL and not block):
        raise KeptError
    codes = spelling.value(spelling.input(0), "the weights").astype(np.float32)
    scale = spelling.value(spelling.input(1), "their scale")
    zero = np.zeros((), np.float32)
    if spelling.input(2):
        zero = spelling.value(spelling.input(2), "their zero point").astype(np.float32)
    axis = spelling.attribute("axis", 1)

    def spread(numbers: NDArray[Any]) -> NDArray[Any]:
        if block and numbers.ndim:
            return np.repeat(numbers, block, axis).take(range(codes.shape[axis]), axis)
        if numbers.size == 1:
            return numbers.reshape(())
        at = axis % codes.ndim
        return numbers.reshape([-1 if each == at else 1 for each in range(codes.ndim)])

    values = ((codes - spread(zero)) * spread(scale.astype(np.float32))).astype(scale.dtype)
    spelling.add("Identity", spelling.store(values, "values"), out=spelling.output(0))


def _either(spelling: Spelling) -> None:
    spelling.add("Or", *_one_alone(spelling), out=spelling.output(0))


def _alike(spelling: Spelling) -> None:
    if spelling.kind(spelling.input(0)) != TensorProto.BOOL:
        raise KeptError
    spelling.add("Not", spelling.add("Or", *_one_alone(spelling)), out=spelling.output(0))


def _one_alone(spelling: Spelling) -> list[str]:
    """Append where the first of two masks is set and not the second, and the other way round."""
    both = [*zip(spelling.inputs, spelling.inputs[::-1], strict=True)]
    return [spelling.add("And", one, spelling.add("Not", other)) for one, other in both]


def _power(spelling: Spelling) -> None:
    kind = spelling.stored(spelling.input(1))
    if kind is None or kind == TensorProto.FLOAT:
        raise KeptError
    dtype = spelling.dtype(spelling.input(0))
    exponent = spelling.value(spelling.input(1), "its exponent").astype(dtype)
    stored = spelling.store(exponent, "exponent")
    spelling.add("Pow", spelling.input(0), stored, out=spelling.output(0))


def _one_hot(spelling: Spelling) -> None:
    x = spelling.input(0)
    dtype, rank = spelling.dtype(x, among=_WHOLE), len(spelling.shape(x)) + 1
    depth = int(spelling.value(spelling.input(1), "its depth").item())
    values = spelling.value(spelling.input(2), "its values")
    axis = spelling.attribute("axis", -1) % rank
    spelling.since(13)
    shape = [1] * rank
    shape[axis] = depth
    classes = np.arange(depth).reshape(shape)
    # A number below 0 counts from the end.
    rows = spelling.add("Unsqueeze", x, spelling.store(np.array([axis], np.int64), "axis"))
    hits = [
        spelling.add("Equal", rows, spelling.store(each.astype(dtype), "classes"))
        for each in (classes, classes - depth)
    ]
    numbers = [spelling.store(each, f"value{at}") for at, each in enumerate(values)]
    spelling.add("Where", spelling.add("Or", *hits), *numbers[::-1], out=spelling.output(0))


def _half_of(spelling: Spelling, operator: str) -> None:
    x = spelling.input(0)
    half = np.array(0.5, spelling.dtype(x, among=_FLOATS))
    growing, falling = spelling.add("Exp", x), spelling.add("Exp", spelling.add("Neg", x))
    both = spelling.add(operator, growing, falling)
    spelling.add("Mul", both, spelling.store(half, "half"), out=spelling.output(0))


def _cumsum(spelling: Spelling) -> None:
    x = spelling.input(0)
    dtype, shape = spelling.dtype(x, among=_FLOATS), spelling.shape(x)
    axis = int(spelling.value(spelling.input(1), "its axis").item()) % len(shape)
    if shape[axis] > _LONGEST_SUM:
        raise StaysError(f"it adds {shape[axis]} numbers; up to {_LONGEST_SUM} are a product")
    # Row i of the triangle holds 1 for each sum that has number i.
    ones = np.ones((shape[axis],) * 2, dtype)
    triangle = np.triu(ones, int(bool(spelling.attribute("exclusive", 0))))
    if spelling.attribute("reverse", 0):
        triangle = triangle[::-1, ::-1]
    order = [each for each in range(len(shape)) if each != axis] + [axis]
    rows = x if axis == len(shape) - 1 else spelling.add("Transpose", x, perm=order)
    product = (rows, spelling.store(triangle, "triangle"))
    if rows == x:
        spelling.add("MatMul", *product, out=spelling.output(0))
        return
    back = [order.index(each) for each in range(len(shape))]
    sums = spelling.add("MatMul", *product)
    spelling.add("Transpose", sums, perm=back, out=spelling.output(0))


def _is_infinite(spelling: Spelling) -> None:
    x, ways = spelling.input(0), (1, -1)
    wanted = [bool(spelling.attribute(f"detect_{name}", 1)) for name in ("positive", "negative")]
    if all(wanted):
        raise KeptError
    dtype = spelling.dtype(x, among=_FLOATS)
    values = [way * np.inf for way, asked in zip(ways, wanted, strict=True) if asked]
    value = values[0] if values else np.nan  # equals nothing
    stored = spelling.store(np.array(value, dtype), "infinite")
    spelling.add("Equal", x, stored, out=spelling.output(0))


def _lp_pool(spelling: Spelling) -> None:
    x, y, power = spelling.input(0), spelling.output(0), spelling.attribute("p", 2)
    dtype, shape, made = spelling.dtype(x), spelling.shape(x), spelling.shape(y)
    kernel = list(spelling.attribute("kernel_shape", ()))
    usual = [1] * len(kernel)
    strides = list(spelling.attribute("strides", usual))
    dilations = list(spelling.attribute("dilations", usual))
    before = list(spelling.attribute("pads", [0] * 2 * len(kernel)))[: len(kernel)]
    covered = [
        (count - 1) * stride + (taps - 1) * dilation + 1
        for count, stride, taps, dilation in zip(made[2:], strides, kernel, dilations, strict=True)
    ]
    missing = [max(0, need - size) for need, size in zip(covered, shape[2:], strict=True)]
    padding = spelling.attribute("auto_pad", "NOTSET")
    if padding.startswith("SAME"):
        before = [each // 2 if padding == "SAME_UPPER" else -(-each // 2) for each in missing]
    after = [
        max(0, need - size - first)
        for need, size, first in zip(covered, shape[2:], before, strict=True)
    ]
    raised = spelling.add("Abs", x)
    if power != 1:
        exponent = spelling.store(np.array(power, dtype), "p")
        raised = spelling.add("Mul", x, x) if power == 2 else spelling.add("Pow", raised, exponent)
    ones = spelling.store(np.ones((shape[1], 1, *kernel), dtype), "ones")
    window: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    if power == 1:
        spelling.add("Conv", raised, ones, group=shape[1], pads=before + after, out=y, **window)
        return
    sums = spelling.add("Conv", raised, ones, group=shape[1], pads=before + after, **window)
    if power == 2:
        spelling.add("Sqrt", sums, out=y)
        return
    spelling.add("Pow", sums, spelling.store(np.array(1 / power, dtype), "root"), out=y)


def _transposed(spelling: Spelling) -> None:
    wanted = spelling.attribute("output_shape", None)
    if wanted is None:
        raise KeptError
    sizes, taps = spelling.shape(spelling.input(0))[2:], spelling.shape(spelling.input(1))[2:]
    given = spelling.attributes
    strides, dilations = (given.get(name, [1] * len(taps)) for name in ("strides", "dilations"))
    free = [
        (size - 1) * stride + (tap - 1) * dilation + 1
        for size, stride, tap, dilation in zip(sizes, strides, taps, dilations, strict=True)
    ]
    extra = given.get("output_padding", [0] * len(taps))
    total = [made + more - need for made, more, need in zip(free, extra, wanted, strict=True)]
    cut = [max(0, each) for each in total]
    smaller, larger = [each // 2 for each in cut], [-(-each // 2) for each in cut]
    upper = spelling.attribute("auto_pad", "NOTSET") == "SAME_UPPER"
    kept = {
        name: value
        for name, value in given.items()
        if name not in ("output_shape", "auto_pad", "pads", "output_padding")
    }
    more = [add + max(0, -each) for add, each in zip(extra, total, strict=True)]
    spelling.add(
        "ConvTranspose",
        *spelling.inputs,
        out=spelling.output(0),
        pads=[*smaller, *larger] if upper else [*larger, *smaller],
        output_padding=more,
        **kept,
    )
