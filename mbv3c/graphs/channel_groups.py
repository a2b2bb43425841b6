"""Find out which channel counts of a graph depend on one another, and give the graph others.

    Conv(x, W[O, I, kh, kw]) → y      ⇒   O goes with y, I with x
    depthwise Conv(x, W[C, 1, kh, kw]) → y, Add(x, y), Relu(x) → y   ⇒   x and y go together

The graph is one that was rewritten for compilation, with images of N, C, H, W.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from mbv3c.graphs.count import tensor_shapes
from mbv3c.graphs.groups import Groups
from mbv3c.graphs.ties import Ties

_CHANNELS = 1  # axis

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
        UntiedError: an operator does to channels what is not known here, or they are not on the
            second axis of some tensor, alone.
    """
    ties = Ties(model)
    if ties.lost:
        raise UntiedError(ties.lost[0])
    _tie_shared(ties.groups)
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    given = [value.name for value in graph.input if value.name not in stored]
    numbers: dict[int, int] = {}
    tensors: dict[str, int] = {}
    for name in (*given, *(name for node in graph.node for name in node.output if name)):
        view = ties.view(name)
        if view is None or (view.axis, view.inner) != (_CHANNELS, 1):
            raise UntiedError(f"the second axis of {name!r} is not its channels alone")
        tensors[name] = numbers.setdefault(ties.groups.number(view.group), len(numbers))
    axes: dict[Axis, int] = {}
    for group, number in numbers.items():
        found = ties.groups[group]
        if found.extents:
            raise UntiedError(f"{found.extents[0].tensor!r} says how many channels there are")
        axes |= {(part.tensor, part.axis): number for part in found.parts}
    counts = {number: ties.groups[group].channels for group, number in numbers.items()}
    return ChannelGroups(tensors, axes, counts, frozenset(tensors[name] for name in given))


def _tie_shared(groups: Groups) -> None:
    """Make one of groups for which one stored tensor has entries on one axis."""
    holders: dict[Axis, int] = {}
    for number, group in list(groups.items()):
        for part in group.parts:
            groups.tie(holders.setdefault((part.tensor, part.axis), number), number)


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
        kind = output.type.tensor_type
        kind.ClearField("shape")
        if output.name in shapes:  # nothing infers the shape of what is stored
            kind.shape.SetInParent()
            kind.shape.dim.extend(_dim(extent) for extent in shapes[output.name])
    try:
        return shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        raise UntiedError(f"the counts do not go together: {str(error).strip()}") from error


def _dim(extent: int) -> onnx.TensorShapeProto.Dimension:
    return onnx.TensorShapeProto.Dimension(dim_value=extent)


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
