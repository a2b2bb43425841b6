"""Find out which channel counts of a graph depend on one another, and give the graph others.

    Conv(x, W[O, I, kh, kw]) → y      ⇒   O goes with y, I with x
    depthwise Conv(x, W[C, 1, kh, kw]) → y, Add(x, y), Relu(x) → y   ⇒   x and y go together

The graph is one that was rewritten for compilation, with images of N, C, H, W.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from mbv3c.graphs.count import tensor_shapes

_CHANNELS, _IMAGE = 1, 4  # axis, rank
_UNARY = frozenset(
    {
        *("Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Softmax"),
        *("Identity", "Dropout", "Cast", "Erf", "Sqrt", "Exp", "Abs", "Neg"),
        *("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool"),
        *("QuantizeLinear", "DequantizeLinear"),
    }
)
_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})
_FLAT = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_SCALES, _SIZES = 2, 3  # inputs of Resize

Axis = tuple[str, int]  # of a stored tensor, by its name


class UntiedError(Exception):
    """Which channels depend on one another cannot be said; the message says why."""


@dataclass(frozen=True)
class ChannelGroups:
    """Which channel counts depend on one another.

    Attributes:
        tensors: the group of the channels of each computed tensor, by the tensor's name.
        axes: the group of each axis of a stored tensor that channels lie on.
        counts: the count of each group.
        fixed: the groups whose count the inputs fix.
    """

    tensors: Mapping[str, int]
    axes: Mapping[Axis, int]
    counts: Mapping[int, int]
    fixed: frozenset[int]


def channel_groups(model: onnx.ModelProto) -> ChannelGroups:
    """Return which channel counts of a rewritten graph depend on one another.

    Raises:
        UntiedError: an operator mixes channels in a way that is not known here.
    """
    reader = _Reader(model)
    for node in model.graph.node:
        reader.read(node)
    return reader.groups()


class _Reader:
    """Ties what goes together: tensors by their names, and axes of stored ones."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._shapes = tensor_shapes(model)
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._parents: dict[Any, Any] = {}

    def read(self, node: onnx.NodeProto) -> None:
        x, y = node.input[0] if node.input else "", node.output[0]
        if x in self._stored and node.op_type not in _BINARY:
            self._refuse(node, "reads a stored tensor")
        if node.op_type == "Conv":
            self._convolution(node)
        elif node.op_type == "Gemm":
            self._product(node, transposed=_attribute(node, "transB", 0) == 1)
        elif node.op_type == "MatMul":
            self._product(node, transposed=False)
        elif node.op_type == "BatchNormalization":
            self._tie(x, y, *((name, 0) for name in node.input[1:]))
        elif node.op_type in _BINARY:
            self._binary(node)
        elif node.op_type in _UNARY:
            self._tie_unary(node)
        elif node.op_type == "Resize":
            if len(node.input) > _SIZES and node.input[_SIZES]:
                self._refuse(node, "has sizes, and not factors")
            self._tie(x, y)
        elif node.op_type in _FLAT:
            self._flat(node)
        elif node.op_type == "ReduceMean":
            before, after = self._shape(x), self._shape(y)
            if after[:2] != before[:2]:
                self._refuse(node, "takes a mean over channels")
            self._tie(x, y)
        else:
            self._refuse(node, "is not known here")

    def groups(self) -> ChannelGroups:
        """Return what goes together, numbered in the order of the graph."""
        graph = self._model.graph
        numbers: dict[Any, int] = {}
        counts: dict[int, int] = {}
        tensors, axes = {}, {}
        items: list[Any] = [value.name for value in graph.input if value.name not in self._stored]
        items += [name for node in graph.node for name in node.output if name]
        items += [item for item in self._parents if isinstance(item, tuple)]
        for item in items:
            number = numbers.setdefault(self._root(item), len(numbers))
            if isinstance(item, tuple):
                axes[item] = number
                count = self._stored[item[0]].dims[item[1]]
            else:
                tensors[item] = number
                shape = self._shape(item)
                count = shape[_CHANNELS] if len(shape) > _CHANNELS else 1
            if counts.setdefault(number, count) != count:
                raise UntiedError(f"{item!r} has {count} channels, and others {counts[number]}")
        given = [value.name for value in graph.input if value.name not in self._stored]
        return ChannelGroups(tensors, axes, counts, frozenset(tensors[name] for name in given))

    def _convolution(self, node: onnx.NodeProto) -> None:
        x, weights, *bias = node.input
        tensor = self._stored.get(weights)
        if tensor is None or len(tensor.dims) != _IMAGE:
            self._refuse(node, "has no stored weights of two axes")
        groups, channels = _attribute(node, "group", 1), self._shape(x)[_CHANNELS]
        y = node.output[0]
        if groups == 1:
            self._tie((weights, 1), x)
            self._tie((weights, 0), y)
        elif groups == channels == tensor.dims[0] and tensor.dims[1] == 1:
            self._tie(x, y, (weights, 0))
        else:
            self._refuse(node, f"has {groups} groups")
        self._tie(y, *((name, 0) for name in bias if name))

    def _product(self, node: onnx.NodeProto, *, transposed: bool) -> None:
        x, weights, *bias = node.input
        tensor = self._stored.get(weights)
        if tensor is None or len(tensor.dims) != 2 or len(self._shape(x)) != 2:
            self._refuse(node, "is no product of vectors by stored weights")
        if _attribute(node, "transA", 0):
            self._refuse(node, "takes its input transposed")
        self._tie((weights, 1 if transposed else 0), x)
        self._tie((weights, 0 if transposed else 1), node.output[0])
        for name in bias:
            self._tie_stored(node, name, node.output[0])

    def _binary(self, node: onnx.NodeProto) -> None:
        y = node.output[0]
        for name in node.input:
            if name in self._stored:
                self._tie_stored(node, name, y)
            elif len(self._shape(name)) != len(self._shape(y)):
                self._refuse(node, "has operands of several ranks")
            elif self._shape(name)[_CHANNELS] == self._shape(y)[_CHANNELS]:
                self._tie(name, y)
            else:
                self._refuse(node, "repeats one channel")

    def _tie_stored(self, node: onnx.NodeProto, name: str, y: str) -> None:
        """Tie the axis of a stored operand, if it has one number per channel."""
        tensor, rank = self._stored.get(name), len(self._shape(y))
        if tensor is None:
            self._refuse(node, "reads a computed bias")
        if prod(tensor.dims) == 1:
            return
        axis = len(tensor.dims) - rank + _CHANNELS
        if axis < 0 or prod(tensor.dims) != tensor.dims[axis]:
            self._refuse(node, "reads stored numbers that are not one per channel")
        self._tie((name, axis), y)

    def _tie_unary(self, node: onnx.NodeProto) -> None:
        for name in node.input[1:]:
            if name and (name not in self._stored or prod(self._stored[name].dims) > 1):
                self._refuse(node, "reads more than one number beside its input")
        if any(name for name in node.output[1:]):
            self._refuse(node, "has several results")
        self._tie(node.input[0], node.output[0])

    def _flat(self, node: onnx.NodeProto) -> None:
        before, after = self._shape(node.input[0]), self._shape(node.output[0])
        shape = self._stored.get(node.input[1]) if node.op_type == "Reshape" else None
        named = shape is not None and set(numpy_helper.to_array(shape).tolist()) - {0, 1, -1}
        if len(after) < 2 or before[:2] != after[:2] or named or prod(before) != prod(before[:2]):
            self._refuse(node, "moves numbers between channels and places")
        self._tie(node.input[0], node.output[0])

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise UntiedError(f"the shape of {name!r} is not known")
        return self._shapes[name]

    def _refuse(self, node: onnx.NodeProto, why: str) -> NoReturn:
        raise UntiedError(f"{node.op_type} ({node.name or node.output[0]}) {why}")

    def _tie(self, *items: Any) -> None:
        first, *others = (self._root(item) for item in items)
        for other in others:
            self._parents[other] = first

    def _root(self, item: Any) -> Any:
        parent = self._parents.setdefault(item, item)
        if parent != item:
            parent = self._parents[item] = self._root(parent)
        return parent


def distinct_counts(groups: ChannelGroups, taken: Iterable[int], grain: int = 8) -> dict[int, int]:
    """Return a count for each group that no other has, nor is among `taken`, near to its own.

    The counts of fixed groups stay; all others are multiples of `grain`, from two grains on.
    """
    counts = {number: groups.counts[number] for number in groups.fixed}
    used = {*taken, *counts.values()}
    for number, count in groups.counts.items():
        if number in groups.fixed:
            continue
        nearest = max(2, round(count / grain))
        steps = (nearest + sign * away for away in range(1 << 16) for sign in (1, -1))
        chosen = next(at * grain for at in steps if at >= 2 and at * grain not in used)
        counts[number] = chosen
        used.add(chosen)
    return counts


def with_counts(
    model: onnx.ModelProto, groups: ChannelGroups, counts: Mapping[int, int]
) -> onnx.ModelProto:
    """Return a copy of a graph whose groups have other counts; its weights are drawn.

    Raises:
        UntiedError: the counts do not go together.
    """
    axes: dict[str, list[int]] = {}
    for name, axis in groups.axes:
        axes.setdefault(name, []).append(axis)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for tensor in graph.initializer:
        if tensor.name in axes:
            shape = list(tensor.dims)
            for axis in axes[tensor.name]:
                shape[axis] = counts[groups.axes[tensor.name, axis]]
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            array = _stored(tensor.name, shape, dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "group" and attribute.i > 1:
                attribute.i = shapes[node.input[1]][0]
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        return shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        raise UntiedError(f"the counts do not go together: {str(error).strip()}") from error


def fitted(model: onnx.ModelProto, sizes: Mapping[int, int]) -> onnx.ModelProto:
    """Return a copy in which every extent that is a key of `sizes` is its value.

    Stored numbers are repeated, or left out. The groups of depthwise convolutions follow.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for tensor in graph.initializer:
        if set(tensor.dims) & sizes.keys():
            array = repeated(numpy_helper.to_array(tensor), sizes)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "group":
                attribute.i = sizes.get(attribute.i, attribute.i)
    for value in (*graph.input, *graph.value_info, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_value = sizes.get(dim.dim_value, dim.dim_value)
    return copy


def repeated(array: NDArray[Any], sizes: Mapping[int, int]) -> NDArray[Any]:
    """Return an array in which every axis of an extent among `sizes` is repeated or cut to fit."""
    for axis, extent in enumerate(array.shape):
        if extent in sizes:
            array = array.take(np.arange(sizes[extent]) % extent, axis)
    return np.ascontiguousarray(array)


def extents(model: onnx.ModelProto) -> Iterator[int]:
    """Yield every extent of every tensor of a graph."""
    for shape in tensor_shapes(model).values():
        yield from shape


def drawn_weights(name: str, shape: Sequence[int]) -> NDArray[np.float64]:
    """Draw weights by the name of their tensor, of about the variance 1.

    What an NPU reads of weights depends on how well they compress. Those of trained networks have
    longer tails than a normal distribution, and of numbers without tails vela's encoder takes at
    random two sizes that are 5 % apart; so it is Student's distribution with 30 degrees.
    """
    return np.random.default_rng(list(name.encode())).standard_t(30, tuple(shape))


def _stored(name: str, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """Draw weights that keep the size of what they are multiplied with; biases are small."""
    vector = len(shape) < 2
    scale = 0.1 if vector else np.sqrt(2 / max(1, prod(shape[1:])))
    return (scale * drawn_weights(name, shape)).astype(dtype)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    values = (helper.get_attribute_value(a) for a in node.attribute if a.name == name)
    return next(values, default)
