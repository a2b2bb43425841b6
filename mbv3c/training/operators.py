"""ONNX operators as torch computes them, forwards and backwards.

Each function here takes a node and returns what computes it from its tensors, in the order of the
node's inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - as torch's users call it
from numpy.typing import NDArray

from mbv3c.errors import ModelError
from mbv3c.training.small_maps import (
    depthwise,
    is_small_depthwise,
    is_small_pointwise,
    pointwise,
)

Compute = Callable[..., Any]

_SOFTMAX_OF_AN_AXIS = 13  # the opset from which on it is not over all axes that follow, too


@dataclass(frozen=True)
class Node:
    """A node of a graph.

    Attributes:
        operator: its operator.
        name: its name, or that of its output, for messages.
        inputs: names of its inputs; empty where one is left out.
        outputs: names of its outputs.
        attributes: its attributes.
        constants: the stored tensors of the graph that are no weights.
        opset: version of the operators.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    constants: Mapping[str, NDArray[Any]]
    opset: int

    def number(self, index: int, name: str, default: float) -> float:
        """Return a number that is an input in newer opsets and an attribute in older ones."""
        if index < len(self.inputs) and self.inputs[index]:
            return float(self._constant(index).reshape(()))
        return float(self.attributes.get(name, default))

    def numbers(self, index: int, name: str) -> list[int] | None:
        """Return such whole numbers; None if there are none."""
        if index < len(self.inputs) and self.inputs[index]:
            return [int(value) for value in self._constant(index).ravel()]
        value = self.attributes.get(name)
        return None if value is None else list(value)

    def refused(self, why: str) -> ModelError:
        """Return an error about this node."""
        return ModelError(f"{self.name} ({self.operator}) cannot be trained: {why}")

    def _constant(self, index: int) -> NDArray[Any]:
        name = self.inputs[index]
        if name not in self.constants:
            raise self.refused(f"its input {name!r} is computed, and must be a constant")
        return self.constants[name]


def node_of(proto: onnx.NodeProto, constants: Mapping[str, NDArray[Any]], opset: int) -> Node:
    """Return a node of a graph."""
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in proto.attribute}
    name = repr(proto.name) if proto.name else f"the node that makes {proto.output[0]!r}"
    return Node(
        proto.op_type, name, tuple(proto.input), tuple(proto.output), attributes, constants, opset
    )


def compute_of(node: Node) -> Compute:
    """Return what computes a node.

    Raises:
        ModelError: no torch function is known for it.
    """
    make = OPERATORS.get(node.operator)
    if make is None:
        raise ModelError(
            f"{node.name} cannot be trained: its operator {node.operator} is not among those that "
            f"train knows ({', '.join(sorted(OPERATORS))}); train the model where it comes from"
        )
    return make(node)


def _conv(node: Node) -> Compute:
    given = node.attributes
    _check_pads(node)
    pads = tuple(given.get("pads", (0, 0, 0, 0)))
    strides = tuple(given.get("strides", (1, 1)))
    dilations = tuple(given.get("dilations", (1, 1)))
    groups = given.get("group", 1)
    even = pads[:2] == pads[2:]
    is_plain = strides == (1, 1) and not any(pads)

    def compute(x: Any, weight: Any, bias: Any = None) -> Any:
        if weight.ndim != 4:
            raise node.refused("it is over one or three dimensions, and must be over two")
        if is_small_depthwise(x, weight, groups):
            y = depthwise(x, weight, strides, pads, dilations)
            return y if bias is None else y + bias[:, None, None]
        if is_plain and is_small_pointwise(x, weight, groups):
            return pointwise(x, weight, bias)
        if not even:
            x = F.pad(x, _torch_pads(pads))
        return F.conv2d(x, weight, bias, strides, pads[:2] if even else 0, dilations, groups)

    return compute


def _check_pads(node: Node) -> None:
    if node.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise node.refused("its padding depends on a size that is not known; give it pads")


def _torch_pads(pads: Sequence[int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = pads
    return left, right, top, bottom


def _gemm(node: Node) -> Compute:
    given = node.attributes
    alpha, beta = given.get("alpha", 1.0), given.get("beta", 1.0)
    first, second = given.get("transA", 0), given.get("transB", 0)

    def compute(x: Any, weight: Any, bias: Any = None) -> Any:
        y = (x.t() if first else x) @ (weight.t() if second else weight)
        y = y if alpha == 1 else y * alpha
        return y if bias is None else y + (bias if beta == 1 else bias * beta)

    return compute


def _clip(node: Node) -> Compute:
    low, high = node.number(1, "min", -float("inf")), node.number(2, "max", float("inf"))
    return lambda x, *_: torch.clamp(x, low, high)


def _hard_sigmoid(node: Node) -> Compute:
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid
    return lambda x: torch.clamp(x * alpha + beta, 0, 1)


def _prelu(node: Node) -> Compute:
    return lambda x, slope: torch.where(x >= 0, x, x * slope)


def _reduce_mean(node: Node) -> Compute:
    axes, keep = node.numbers(1, "axes"), bool(node.attributes.get("keepdims", 1))
    if axes is None:
        raise node.refused("it is over all axes, and must leave the batch")
    return lambda x, *_: x.mean(axes, keepdim=keep)


def _global(reduce: Callable[..., Any], node: Node) -> Compute:
    return lambda x: reduce(x, tuple(range(2, x.ndim)), keepdim=True)


def _pool(pool: Callable[..., Any], filling: float, node: Node) -> Compute:
    given = node.attributes
    _check_pads(node)
    kernel, pads = tuple(given["kernel_shape"]), tuple(given.get("pads", (0, 0, 0, 0)))
    strides, average = tuple(given.get("strides", (1, 1))), pool is F.avg_pool2d
    counted = bool(given.get("count_include_pad", 0))
    dilated = any(one != 1 for one in given.get("dilations", ()))
    if len(kernel) != 2 or given.get("ceil_mode", 0) or len(node.outputs) > 1 or dilated:
        raise node.refused("only plain pools over two dimensions are known")
    if pads[:2] == pads[2:]:
        more = {"count_include_pad": counted} if average else {}
        return lambda x: pool(x, kernel, strides, pads[:2], **more)
    if average and not counted:
        raise node.refused("it pads one side more than the other and leaves that out of the mean")
    return lambda x: pool(F.pad(x, _torch_pads(pads), value=filling), kernel, strides)


def _flatten(node: Node) -> Compute:
    if node.attributes.get("axis", 1) != 1:
        raise node.refused("it must keep the batch, with axis 1")
    return lambda x: x.flatten(1)


def _reshape(node: Node) -> Compute:
    shape = node.numbers(1, "shape")
    if not shape or shape[0] not in (0, -1) or node.attributes.get("allowzero", 0):
        raise node.refused("it must keep the batch: its shape must begin with 0 or -1")

    def compute(x: Any, *_: Any) -> Any:
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
        return x.reshape(sizes)

    return compute


def _transpose(node: Node) -> Compute:
    perm = node.attributes.get("perm")
    if perm is None or perm[0] != 0:
        raise node.refused("it must keep the batch in its place")
    return lambda x: x.permute(*perm)


def _squeeze(node: Node) -> Compute:
    axes = node.numbers(1, "axes")
    if not axes or 0 in axes:
        raise node.refused("it must name axes, and keep the batch")
    return lambda x, *_: x.squeeze(tuple(axes))


def _unsqueeze(node: Node) -> Compute:
    axes = node.numbers(1, "axes")
    if not axes or min(axes) <= 0:
        raise node.refused("it must name axes from the front, and keep the batch")

    def compute(x: Any, *_: Any) -> Any:
        for axis in sorted(axes):
            x = x.unsqueeze(axis)
        return x

    return compute


def _concat(node: Node) -> Compute:
    axis = node.attributes["axis"]
    return lambda *parts: torch.cat(parts, axis)


def _softmax(node: Node) -> Compute:
    if 0 < node.opset < _SOFTMAX_OF_AN_AXIS:
        first = node.attributes.get("axis", 1)
        return lambda x: torch.softmax(x.flatten(first), first).reshape(x.shape)
    axis = node.attributes.get("axis", -1)
    return lambda x: torch.softmax(x, axis)


def _pad(node: Node) -> Compute:
    pads = node.numbers(1, "pads")
    value = node.number(2, "value", 0.0)
    if pads is None or len(pads) != 8 or node.attributes.get("mode", b"constant") != b"constant":
        raise node.refused("only padding of maps by a number is known")
    if any(pads[:2]) or any(pads[4:6]) or any(node.inputs[3:]):
        raise node.refused("only padding of rows and columns is known")
    sizes = _torch_pads([*pads[2:4], *pads[6:]])
    return lambda x, *_: F.pad(x, sizes, value=value)


def _elementwise(function: Compute) -> Callable[[Node], Compute]:
    return lambda node: function


def _elu(node: Node) -> Compute:
    alpha = node.attributes.get("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


def _leaky_relu(node: Node) -> Compute:
    slope = node.attributes.get("alpha", 0.01)
    return lambda x: F.leaky_relu(x, slope)


OPERATORS: dict[str, Callable[[Node], Compute]] = {
    "Add": _elementwise(torch.add),
    "AveragePool": partial(_pool, F.avg_pool2d, 0.0),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _elementwise(torch.div),
    "Elu": _elu,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": partial(_global, torch.mean),
    "GlobalMaxPool": partial(_global, torch.amax),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _elementwise(F.hardswish),
    "Identity": _elementwise(lambda x: x),
    "LeakyRelu": _leaky_relu,
    "MatMul": _elementwise(torch.matmul),
    "MaxPool": partial(_pool, F.max_pool2d, -np.inf),
    "Mul": _elementwise(torch.mul),
    "PRelu": _prelu,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": _elementwise(F.relu),
    "Reshape": _reshape,
    "Sigmoid": _elementwise(torch.sigmoid),
    "Softmax": _softmax,
    "Softplus": _elementwise(F.softplus),
    "Squeeze": _squeeze,
    "Sub": _elementwise(torch.sub),
    "Tanh": _elementwise(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
