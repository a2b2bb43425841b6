"""Sums in float64, and how far fp32 arithmetic is from them: convolutions, products, means.

A sum of n terms in fp32 makes n roundings, each of a partial sum s: an error between -u|s| and
u|s| with u = 2**-24, as good as random (Higham and Mary, "A New Approach to Probabilistic Rounding
Error Analysis", SIAM J. Sci. Comput. 41, 2019). Over all orders of the terms, the square of a
partial sum is on average Q/6 + T²/3, where Q is the sum of the terms' squares and T their sum; a
bias that comes first is in every partial sum. So a sum that cancels has a large error, in whatever
order it is made.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

Doubles = NDArray[np.float64]
Inputs = Sequence[NDArray[Any] | None]

UNIT = 2.0**-24  # half of the distance between 1 and the next number of fp32


class NotASumError(Exception):
    """A node has attributes that this module does not know."""


def sum_of(
    node: onnx.NodeProto, inputs: Inputs, *, rounded: bool
) -> tuple[Doubles, Doubles | None]:
    """Compute a node that adds up, in float64.

    Args:
        node: a node of an operator of `SUMS`.
        inputs: the node's inputs; None for one that is left out.
        rounded: whether the second result is asked for.

    Returns:
        The output, and the standard deviation of its error in fp32, of the same shape, or None.

    Raises:
        NotASumError: the node's attributes are not known here.
    """
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return SUMS[node.op_type](given, inputs, rounded)


def _deviation(count: int, squares: Doubles, total: Doubles, first: Any, y: Doubles) -> Doubles:
    """Return the standard deviation of a rounded sum of so many terms, stored as `y`."""
    mean_square = squares / 6 + total**2 / 3 + np.square(first)
    return np.asarray(UNIT * np.sqrt((count * mean_square + y**2) / 3))


def _convolution(
    given: dict[str, Any], inputs: Inputs, rounded: bool
) -> tuple[Doubles, Doubles | None]:
    x, w, *rest = inputs
    assert x is not None
    assert w is not None
    groups = int(given.get("group", 1))
    strides, dilations, pads = _windows(given, x.shape[2:], w.shape[2:])
    total = _convolved(x, w, groups, strides, dilations, pads)
    bias = _per_channel(rest[0] if rest else None, total.ndim)
    y = np.asarray(total + bias)
    if not rounded:
        return y, None
    squares = _convolved(x**2, w**2, groups, strides, dilations, pads)
    return y, _deviation(w[0].size, squares, total, bias, y)


def _per_channel(bias: NDArray[Any] | None, rank: int) -> Doubles:
    if bias is None:
        return np.zeros(())
    return np.asarray(bias, np.float64).reshape(-1, *(1 for _ in range(rank - 2)))


def _windows(
    given: dict[str, Any], sizes: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Return strides, dilations and the padding before and after of every axis of a map."""
    rank = len(sizes)
    strides = list(given.get("strides", [1] * rank))
    dilations = list(given.get("dilations", [1] * rank))
    auto = given.get("auto_pad", b"NOTSET")
    if auto in (b"NOTSET", b""):
        pads = list(given.get("pads", [0] * 2 * rank))
        return strides, dilations, list(zip(pads[:rank], pads[rank:], strict=True))
    if auto == b"VALID":
        return strides, dilations, [(0, 0)] * rank
    found = []
    for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        covered = (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1
        missing = max(0, covered - size)
        less = missing // 2
        both = (less, missing - less) if auto == b"SAME_UPPER" else (missing - less, less)
        found.append(both)
    return strides, dilations, found


def _convolved(
    x: NDArray[Any],
    w: NDArray[Any],
    groups: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> Doubles:
    """Convolve [N, C, ...] with [M, C / groups, ...], one place of the window after the other."""
    batch, outputs, each = len(x), w.shape[0], w.shape[1]
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    made = [
        (size - (window - 1) * dilation - 1) // stride + 1
        for size, window, stride, dilation in zip(
            padded.shape[2:], w.shape[2:], strides, dilations, strict=True
        )
    ]
    y = np.zeros((batch, outputs, *made))
    for tap in product(*map(range, w.shape[2:])):
        part = padded[_at(_places(tap, strides, dilations, made))]
        weights = w[_at(tap)]
        if each == 1 and outputs == groups:
            y += part * weights.reshape(-1, *(1 for _ in made))
        else:
            grouped = part.reshape(batch, groups, each, -1)
            y += (weights.reshape(groups, -1, each) @ grouped).reshape(y.shape)
    return y


def _at(places: Sequence[Any]) -> Any:
    """Return an index whose last axes are these."""
    return (..., *places)


def _places(
    tap: Sequence[int], strides: Sequence[int], dilations: Sequence[int], counts: Sequence[int]
) -> list[slice]:
    """Return what a place of the window lies on, as it moves so many times along every axis."""
    return [
        slice(at * dilation, at * dilation + stride * (count - 1) + 1, stride)
        for at, stride, dilation, count in zip(tap, strides, dilations, counts, strict=True)
    ]


def _transposed(
    given: dict[str, Any], inputs: Inputs, rounded: bool
) -> tuple[Doubles, Doubles | None]:
    x, w, *rest = inputs
    assert x is not None
    assert w is not None
    if given.get("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in given:
        raise NotASumError
    total = _spread_out(given, x, w)
    bias = _per_channel(rest[0] if rest else None, total.ndim)
    y = np.asarray(total + bias)
    if not rounded:
        return y, None
    count = w.shape[0] // int(given.get("group", 1)) * int(np.prod(w.shape[2:]))
    return y, _deviation(count, _spread_out(given, x**2, w**2), total, bias, y)


def _spread_out(given: dict[str, Any], x: NDArray[Any], w: NDArray[Any]) -> Doubles:
    """Compute a transposed convolution: every input adds a window of the output."""
    batch, groups = len(x), int(given.get("group", 1))
    strides, dilations, pads = _windows(given, x.shape[2:], w.shape[2:])
    more = given.get("output_padding", [0] * len(strides))
    sizes = [
        stride * (size - 1) + (window - 1) * dilation + 1 + added
        for size, window, stride, dilation, added in zip(
            x.shape[2:], w.shape[2:], strides, dilations, more, strict=True
        )
    ]
    whole = np.zeros((batch, w.shape[1] * groups, *sizes))
    grouped = x.reshape(batch, groups, -1, int(np.prod(x.shape[2:])))
    for tap in product(*map(range, w.shape[2:])):
        weights = w[_at(tap)].reshape(groups, -1, w.shape[1])
        part = np.swapaxes(weights, 1, 2) @ grouped
        places = _places(tap, strides, dilations, x.shape[2:])
        whole[_at(places)] += part.reshape(batch, -1, *x.shape[2:])
    kept = [slice(before, size - after) for size, (before, after) in zip(sizes, pads, strict=True)]
    return np.asarray(whole[_at(kept)])


def _mean_of_windows(
    given: dict[str, Any], inputs: Inputs, rounded: bool
) -> tuple[Doubles, Doubles | None]:
    (x,) = inputs
    assert x is not None
    if given.get("ceil_mode", 0):
        raise NotASumError
    kernel = given["kernel_shape"]
    strides, dilations, pads = _windows(given, x.shape[2:], kernel)
    ones = np.ones((x.shape[1], 1, *kernel))
    layout = (x.shape[1], strides, dilations, pads)
    total = _convolved(x, ones, *layout)
    inside = np.ones_like(x, np.float64)
    filled = bool(given.get("count_include_pad", 0))
    count = np.full(total.shape, ones[0].size) if filled else _convolved(inside, ones, *layout)
    if not rounded:
        return total / count, None
    deviation = _deviation(ones[0].size, _convolved(x**2, ones, *layout), total, 0.0, total)
    return total / count, deviation / count


def _reduced(
    given: dict[str, Any], inputs: Inputs, rounded: bool, *, mean: bool
) -> tuple[Doubles, Doubles | None]:
    x, *rest = inputs
    assert x is not None
    if not np.issubdtype(x.dtype, np.floating):
        raise NotASumError
    named = rest[0] if rest and rest[0] is not None else given.get("axes", ())
    axes = tuple(int(axis) for axis in named)
    if not axes and given.get("noop_with_empty_axes", 0):
        raise NotASumError
    axes = tuple(axis % x.ndim for axis in axes) or tuple(range(x.ndim))
    keeps = bool(given.get("keepdims", 1))
    count = int(np.prod([x.shape[axis] for axis in axes]))
    over = count if mean else 1
    total = np.asarray(np.sum(x, axis=axes, keepdims=keeps), np.float64)
    if not rounded:
        return total / over, None
    squares = np.asarray(np.sum(x**2, axis=axes, keepdims=keeps))
    return total / over, _deviation(count, squares, total, 0.0, total) / over


def _mean(given: dict[str, Any], inputs: Inputs, rounded: bool) -> tuple[Doubles, Doubles | None]:
    return _reduced(given, inputs, rounded, mean=True)


def _total(given: dict[str, Any], inputs: Inputs, rounded: bool) -> tuple[Doubles, Doubles | None]:
    return _reduced(given, inputs, rounded, mean=False)


def _mean_of_map(
    given: dict[str, Any], inputs: Inputs, rounded: bool
) -> tuple[Doubles, Doubles | None]:
    (x,) = inputs
    assert x is not None
    axes = np.arange(2, x.ndim)
    return _reduced({}, (x, axes), rounded, mean=True) if axes.size else (x, None)


def _product(
    given: dict[str, Any], inputs: Inputs, rounded: bool
) -> tuple[Doubles, Doubles | None]:
    a, b = inputs
    assert a is not None
    assert b is not None
    if not np.issubdtype(a.dtype, np.floating):
        raise NotASumError
    y = np.asarray(np.matmul(a, b))
    if not rounded:
        return y, None
    return y, _deviation(a.shape[-1], np.asarray(np.matmul(a**2, b**2)), y, 0.0, y)


def _gemm(given: dict[str, Any], inputs: Inputs, rounded: bool) -> tuple[Doubles, Doubles | None]:
    a, b, *rest = inputs
    assert a is not None
    assert b is not None
    if not np.issubdtype(a.dtype, np.floating):
        raise NotASumError
    a = a.T if given.get("transA", 0) else a
    b = b.T if given.get("transB", 0) else b
    alpha, beta = float(given.get("alpha", 1.0)), float(given.get("beta", 1.0))
    total = alpha * (a @ b)
    bias = beta * rest[0] if rest and rest[0] is not None else np.zeros(())
    y = np.asarray(total + bias)
    if not rounded:
        return y, None
    return y, _deviation(a.shape[1], alpha**2 * (a**2 @ b**2), total, bias, y)


def _normalised(
    given: dict[str, Any], inputs: Inputs, rounded: bool
) -> tuple[Doubles, Doubles | None]:
    x, *statistics = inputs
    assert x is not None
    if given.get("training_mode", 0):
        raise NotASumError
    scale, bias, mean, variance = (_per_channel(each, x.ndim) for each in statistics)
    factor = scale / np.sqrt(variance + float(given.get("epsilon", 1e-5)))
    offset = bias - mean * factor
    y = np.asarray(x * factor + offset)
    if not rounded:
        return y, None
    return y, np.asarray(UNIT * np.sqrt(((x * factor) ** 2 + offset**2 + y**2) / 3))


SUMS: dict[str, Callable[[dict[str, Any], Inputs, bool], tuple[Doubles, Doubles | None]]] = {
    "AveragePool": _mean_of_windows,
    "BatchNormalization": _normalised,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "GlobalAveragePool": _mean_of_map,
    "MatMul": _product,
    "ReduceMean": _mean,
    "ReduceSum": _total,
}
