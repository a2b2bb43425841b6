"""Labels, masks and other whole numbers: which answers are as right as the reference's.

    scores → ArgMax → label        also the second best class, if it is as good
    scores → TopK → positions      also the position before and after, if it is as good
    x → Round → Cast → number      also what a little more or less than x gives
    x, y → Greater → mask          also what a little more or less than x gives

What decides about such an output is found in the graph, changed by what a tolerance allows, and
what follows it, the tail, is run once more in onnxruntime. An answer is right if it is the
reference's or one of these.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

from mbv3c.feeds import Array
from mbv3c.graphs.constants import constants_of

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_BEST = ("ArgMax", "ArgMin")
_CLAMPING = ("Clip", "Relu")
_ROUNDING = ("Ceil", "Floor", "Round", "Sign")
# What may follow a decision in floats without making an ordinary float of it.
_PASSING = (
    *("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"),
    *("Add", "Div", "Mul", "Sub", "Neg", "Cast", "Clip", "Concat", "Gather", "OneHot", "Where"),
)
_EXACT = ("Cast", "Flatten", "Identity", "Neg", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_BOTH_SIDES = (1.0, -1.0)
_MOST_SIDES = 2  # tensors that are changed independently of each other


@dataclass(frozen=True)
class Leaf:
    """Where the tail of an output begins.

    Attributes:
        name: the tensor that is changed.
        scores: for ArgMax and TopK, the tensor that decides; empty if `name` itself is changed.
        node: the ArgMax or TopK; None for others.
    """

    name: str
    scores: str = ""
    node: onnx.NodeProto | None = None

    @property
    def deciding(self) -> str:
        return self.scores or self.name


@dataclass(frozen=True)
class Decision:
    """What decides about an output of whole numbers.

    Attributes:
        leaves: where its tail begins; none if nothing may differ.
        tail: what computes the output from the leaves; None if nothing may differ.
        ordered: whether the numbers have an order, as those of a picture.
    """

    leaves: tuple[Leaf, ...] = ()
    tail: onnx.ModelProto | None = None
    ordered: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors whose values must be known."""
        names = (name for leaf in self.leaves for name in (leaf.name, leaf.scores) if name)
        return tuple(dict.fromkeys(names))


class Answers(Protocol):
    """Knows which answers are as right as the reference's."""

    @property
    def ordered(self) -> bool:
        """Whether the numbers have an order, as those of a picture."""

    def others(self, allowed: float) -> Sequence[Array]:
        """Return the output as it may be, too, where errors of that fraction are allowed."""


@dataclass(frozen=True)
class KnownAnswers:
    """Answers that were found before.

    Attributes:
        known: the output as it may be, too.
        ordered: whether the numbers have an order.
    """

    known: tuple[Array, ...]
    ordered: bool

    def others(self, allowed: float) -> Sequence[Array]:
        return self.known


def alternatives(leaf: Leaf, values: Mapping[str, Array], error: float) -> tuple[Array, Array]:
    """Return what a leaf may be, on either side, where what decides may err by so much."""
    if leaf.node is None:
        x = values[leaf.name]
        more, less = (x.astype(np.float64) + side * 2 * error for side in _BOTH_SIDES)
        return more.astype(x.dtype), less.astype(x.dtype)
    labels, scores = values[leaf.name], np.asarray(values[leaf.scores], np.float64)
    if leaf.node.op_type in _BEST:
        second, third = (_ranked(leaf.node, labels, scores, error, rank) for rank in (1, 2))
        return second, third
    return _neighbours(leaf.node, labels, scores, error)


def _ranked(node: onnx.NodeProto, labels: Array, scores: Array, error: float, rank: int) -> Array:
    """Return the class at a rank behind the best, where its score is as near as errors may be."""
    axis, keeps = attribute(node, "axis", 0), attribute(node, "keepdims", 1)
    ordered = np.moveaxis(scores if node.op_type == "ArgMax" else -scores, axis, -1)
    if ordered.shape[-1] <= rank:
        return labels
    best = (np.squeeze(labels, axis) if keeps else labels)[..., None]
    score = np.take_along_axis(ordered, best, -1)[..., 0]
    rest = ordered.copy()
    np.put_along_axis(rest, best, -np.inf, -1)
    for _ in range(rank - 1):
        np.put_along_axis(rest, rest.argmax(-1)[..., None], -np.inf, -1)
    near = score - rest.max(-1) <= 2 * error
    made = np.where(near, rest.argmax(-1), best[..., 0]).astype(labels.dtype)
    return np.expand_dims(made, axis) if keeps else made


def _neighbours(
    node: onnx.NodeProto, labels: Array, scores: Array, error: float
) -> tuple[Array, Array]:
    axis = attribute(node, "axis", -1)
    sign = -1.0 if attribute(node, "largest", 1) else 1.0
    ordered = sign * np.moveaxis(scores, axis, -1)
    order = np.argsort(ordered, axis=-1, kind="stable")
    ranked = np.take_along_axis(ordered, order, -1)
    count = labels.shape[axis]
    gaps = np.diff(ranked, axis=-1) <= 2 * error
    end = np.zeros((*gaps.shape[:-1], 1), bool)
    given = np.moveaxis(labels, axis, -1)
    after = np.concatenate([gaps, end], -1)[..., :count]
    before = np.concatenate([end, gaps], -1)[..., :count]
    nexts = np.roll(order, -1, -1)[..., :count]
    lasts = np.roll(order, 1, -1)[..., :count]
    made = (np.where(after, nexts, given), np.where(before, lasts, given))
    later, earlier = (np.moveaxis(each, -1, axis).astype(labels.dtype) for each in made)
    return later, earlier


def sides(count: int) -> Iterator[tuple[int, ...]]:
    """Yield on which side each of so many leaves is changed: together, or each by itself."""
    if count <= _MOST_SIDES:
        yield from product((0, 1), repeat=count)
    else:
        yield from ((side,) * count for side in (0, 1))


def decisions_of(model: onnx.ModelProto) -> dict[str, Decision]:
    """Return what decides about the outputs that hold whole numbers, by name.

    Outputs of ordinary floats are left out.
    """
    reader = _Reader(model)
    found = ((output.name, reader.decision(output.name)) for output in model.graph.output)
    return {name: decision for name, decision in found if decision is not None}


class _Reader:
    """Follows an output back to what decides about it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = shape_inference.infer_shapes(model)
        graph = self._model.graph
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._constants = constants_of(graph)
        self._types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*graph.input, *graph.value_info, *graph.output)
        }

    def decision(self, name: str) -> Decision | None:
        leaves: dict[str, Leaf] = {}
        inside: list[str] = []
        if not self._collect(name, leaves, inside):
            return None
        if not inside and self._is_float(name):
            return None
        if not leaves:
            return None if self._is_float(name) else Decision()
        best = any(leaf.node is not None for leaf in leaves.values())
        ordered = not best and self._types.get(name) != TensorProto.BOOL
        found = tuple(leaves.values())
        return Decision(found, self._tail(name, found, {*inside}), ordered)

    def _collect(self, name: str, leaves: dict[str, Leaf], inside: list[str]) -> bool:
        """Collect the leaves behind a tensor; False if it is an ordinary float."""
        if name in leaves or name in inside or name in self._constants or not name:
            return True
        node = self._makers.get(name)
        if node is None:
            return not self._is_float(name)  # an input: of whole numbers it is what it is
        if node.op_type in _BEST or (node.op_type == "TopK" and name == node.output[1]):
            if not self._is_float(node.input[0]) or self._is_exact(node.input[0], inside):
                inside.append(name)
                self._collect(node.input[0], leaves, inside)
                return True
            leaves[name] = Leaf(name, node.input[0], node)
            return True
        computed = [each for each in node.input if each and each not in self._constants]
        floats = [each for each in computed if self._is_float(each)]
        decides = node.op_type in _ROUNDING or not self._is_float(name)
        if decides and floats:
            inside.append(name)
            for each in floats:
                self._decide(each, leaves, inside)
            return all(
                self._collect(each, leaves, inside) for each in computed if each not in floats
            )
        if self._is_float(name) and node.op_type not in _PASSING:
            return False
        inside.append(name)
        return all(self._collect(each, leaves, inside) for each in computed)

    def _decide(self, name: str, leaves: dict[str, Leaf], inside: list[str]) -> None:
        """Add what decides as a float: before a clamp, and not if it is exactly known."""
        before = len(leaves), len(inside)
        if self._collect(name, leaves, inside):
            return
        for key in list(leaves)[before[0] :]:
            del leaves[key]
        del inside[before[1] :]
        if self._is_exact(name, inside):
            return
        node = self._makers[name]
        while node.op_type in _CLAMPING and node.input[0] in self._makers:
            inside.append(name)
            name = node.input[0]
            node = self._makers[name]
        leaves[name] = Leaf(name)

    def _is_exact(self, name: str, inside: list[str]) -> bool:
        """Say whether a tensor is an input, or what no rounding changes; then note its makers."""
        way: list[str] = []
        while (node := self._makers.get(name)) is not None:
            others = [each for each in node.input[1:] if each and each not in self._constants]
            if node.op_type not in (*_CLAMPING, *_ROUNDING, *_EXACT) or others:
                return False
            way.append(name)
            name = node.input[0]
        inside += way
        return True

    def _is_float(self, name: str) -> bool:
        return self._types.get(name) in _FLOATS

    def _tail(self, name: str, leaves: Sequence[Leaf], inside: set[str]) -> onnx.ModelProto:
        given = {leaf.name for leaf in leaves}
        nodes = [
            node
            for node in self._model.graph.node
            if inside & {*node.output} and not given & {*node.output}
        ]
        read = {each for node in nodes for each in node.input if each} | {name}
        made = {each for node in nodes for each in node.output}
        inputs = [each for each in (*given, *sorted(read - made - given)) if each in read]
        graph = helper.make_graph(
            nodes,
            "tail",
            [
                helper.make_tensor_value_info(each, self._types.get(each, 0), None)
                for each in inputs
                if each not in self._constants
            ],
            [onnx.ValueInfoProto(name=name)],
            [self._stored(each) for each in inputs if each in self._constants],
        )
        tail = helper.make_model(graph, opset_imports=list(self._model.opset_import), ir_version=8)
        tail.functions.extend(self._model.functions)
        return tail

    def _stored(self, name: str) -> onnx.TensorProto:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(self._constants[name])
        tensor.name = name
        return tensor


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """Return a whole number among the attributes of a node, or its default."""
    return next((int(each.i) for each in node.attribute if each.name == name), default)
