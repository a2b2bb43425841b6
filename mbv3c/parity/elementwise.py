"""Operators that NumPy has, in float64: to open onnxruntime for each would take longer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]
Inputs = Sequence[Array | None]


class NotPlainError(Exception):
    """A node has types or attributes that this module does not know."""


def plain(node: onnx.NodeProto, inputs: Inputs) -> Array:
    """Compute a node of an operator of `PLAIN` on floats.

    Raises:
        NotPlainError: it has attributes, inputs or types that are not known here.
    """
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if not inputs or any(x is not None and x.dtype != np.float64 for x in inputs):
        raise NotPlainError
    return PLAIN[node.op_type](given, inputs)


def _of_one(function: Callable[[Any], Any]) -> Callable[[dict[str, Any], Inputs], Array]:
    def compute(given: dict[str, Any], inputs: Inputs) -> Array:
        (x,) = inputs
        return np.asarray(function(x))

    return compute


def _of_two(function: Callable[[Any, Any], Any]) -> Callable[[dict[str, Any], Inputs], Array]:
    def compute(given: dict[str, Any], inputs: Inputs) -> Array:
        a, b = inputs
        if given:
            raise NotPlainError  # axis and broadcast of early operator sets
        return np.asarray(function(a, b))

    return compute


def _clip(given: dict[str, Any], inputs: Inputs) -> Array:
    x, *limits = inputs
    assert x is not None
    low, high = (*limits, None, None)[:2]
    low = given.get("min") if low is None else low
    high = given.get("max") if high is None else high
    return np.asarray(x if low is None and high is None else np.clip(x, low, high))


def _hard_sigmoid(given: dict[str, Any], inputs: Inputs) -> Array:
    (x,) = inputs
    assert x is not None
    # Attributes are fp32, also those that the standard leaves out.
    alpha, beta = given.get("alpha", np.float32(0.2)), given.get("beta", 0.5)
    return np.asarray(np.clip(x * float(alpha) + float(beta), 0, 1))


def _concat(given: dict[str, Any], inputs: Inputs) -> Array:
    return np.concatenate([x for x in inputs if x is not None], axis=int(given["axis"]))


def _transpose(given: dict[str, Any], inputs: Inputs) -> Array:
    (x,) = inputs
    assert x is not None
    return np.transpose(x, given.get("perm"))


def _flatten(given: dict[str, Any], inputs: Inputs) -> Array:
    (x,) = inputs
    assert x is not None
    rows = int(np.prod(x.shape[: int(given.get("axis", 1)) % (x.ndim + 1)], dtype=np.int64))
    return x.reshape(rows, -1) if x.size else x.reshape(rows, 0)


PLAIN: dict[str, Callable[[dict[str, Any], Inputs], Array]] = {
    "Add": _of_two(np.add),
    "Clip": _clip,
    "Concat": _concat,
    "Div": _of_two(np.divide),
    "Exp": _of_one(np.exp),
    "Flatten": _flatten,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _of_one(lambda x: x * np.clip(x * float(np.float32(1 / 6)) + 0.5, 0, 1)),
    "Identity": _of_one(lambda x: x),
    "Mul": _of_two(np.multiply),
    "Neg": _of_one(np.negative),
    "Relu": _of_one(lambda x: np.maximum(x, 0)),
    "Sigmoid": _of_one(lambda x: 1 / (1 + np.exp(-np.clip(x, -500, 500)))),
    "Sqrt": _of_one(np.sqrt),
    "Sub": _of_two(np.subtract),
    "Tanh": _of_one(np.tanh),
    "Transpose": _transpose,
}
