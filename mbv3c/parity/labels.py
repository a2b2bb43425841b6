"""Labels, masks and other whole numbers: how near they are to being others.

    scores → ArgMax → label        the margin is the best score less the second
    scores → TopK → positions      the gap to the scores before and after
    x → Round → Cast → number      the distance of x from where rounding goes the other way
    x, y → Greater → mask          the distance of x and y

Such outputs are equal to the reference's or not. Where the margin is within the tolerance of what
decides, either answer is right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, shape_inference

from mbv3c.feeds import Array
from mbv3c.graphs.constants import constants_of

Doubles = NDArray[np.float64]

_FLOATS = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
)
_RESHAPING = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_COMPARING = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_ROUNDING = ("Ceil", "Floor", "Round")
_SCALING = ("Add", "Div", "Mul", "Sub")
_CLAMPING = ("Clip", "Relu", "Max", "Min")


@dataclass(frozen=True)
class Decision:
    """What decides about the whole numbers of an output.

    Attributes:
        tensors: the names of the tensors of floats that decide; none if nothing may differ.
        margins: function from these tensors to the margin of every number of the output, in the
            tensors' own units.
        rounded: whether the numbers are rounded floats, of which a neighbour is the other answer.
    """

    tensors: tuple[str, ...] = ()
    margins: Callable[[Mapping[str, Array]], Doubles] | None = None
    rounded: bool = False


def decisions_of(model: onnx.ModelProto) -> dict[str, Decision]:
    """Return what decides about the outputs that hold whole numbers, by name.

    Outputs of ordinary floats are left out.
    """
    reader, decisions = _Reader(model), {}
    for output in model.graph.output:
        decision = reader.decision(output.name)
        if decision is None and reader.kind(output.name) not in _FLOATS:
            decision = Decision()
        if decision is not None:
            decisions[output.name] = decision
    return decisions


class _Reader:
    """Follows an output back to what decides about it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = shape_inference.infer_shapes(model).graph
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._constants = constants_of(graph)
        self._types = {
            value.name: value.type.tensor_type
            for value in (*graph.input, *graph.value_info, *graph.output)
        }

    def kind(self, name: str) -> int:
        """Return the element type of a tensor; 0 if it is not known."""
        return self._types[name].elem_type if name in self._types else 0

    def decision(self, name: str) -> Decision | None:
        node = self._makers.get(name)
        if node is None:
            return None
        if node.op_type in ("ArgMax", "ArgMin"):
            return _best(node)
        if node.op_type == "TopK":
            return _order(node, self._extent(node)) if name == node.output[1] else None
        if node.op_type in _COMPARING and self.kind(node.input[0]) in _FLOATS:
            a, b = node.input[:2]
            return self._known((a, b), lambda of: np.abs(_double(of[a]) - of[b]))
        if node.op_type in _ROUNDING:
            return self._rounded(node.input[0], node.op_type)
        if node.op_type == "Cast":
            return self._cast(node)
        if node.op_type == "Concat":
            return self._joined(node)
        return self._passed_on(node)

    def _joined(self, node: onnx.NodeProto) -> Decision | None:
        parts = [self.decision(name) for name in node.input]
        known = [part for part in parts if part is not None and part.margins is not None]
        if not parts or len(known) < len(parts):
            return None
        tensors = tuple(dict.fromkeys(name for part in known for name in part.tensors))
        each, axis = [part.margins for part in known if part.margins], _axis(node, 0)
        return Decision(
            tensors, lambda of: np.concatenate([margins(of) for margins in each], axis=axis)
        )

    def _passed_on(self, node: onnx.NodeProto) -> Decision | None:
        """Follow a node that changes no label into another one, but perhaps its place."""
        others = [name for name in node.input if name not in self._constants]
        scaled = node.op_type in _SCALING and len(others) == 1
        if not (scaled or node.op_type in (*_RESHAPING, "Transpose", "Not")):
            return None
        before = self.decision(others[0])
        if before is None or before.margins is None:
            return before
        margins, shape = before.margins, self._shape(node.output[0])
        if node.op_type == "Transpose":
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            return replace(before, margins=lambda of: np.transpose(margins(of), perm))
        if node.op_type in _RESHAPING:
            if shape is None:
                return Decision()
            return replace(before, margins=lambda of: margins(of).reshape(shape))
        return before

    def _cast(self, node: onnx.NodeProto) -> Decision | None:
        source = node.input[0]
        to = next(a.i for a in node.attribute if a.name == "to")
        if self.kind(source) not in _FLOATS or to in _FLOATS:
            return self.decision(source)
        if to == TensorProto.BOOL:
            return Decision((source,), lambda of: np.abs(_double(of[source])))
        maker = self._makers.get(source)
        while maker is not None and maker.op_type in _CLAMPING:
            maker = self._makers.get(maker.input[0])
        if maker is not None and maker.op_type in _ROUNDING:
            return self._rounded(maker.input[0], maker.op_type)
        cut_off = Decision((source,), lambda of: _truncated(of[source]), rounded=True)
        return self.decision(source) or cut_off

    def _rounded(self, source: str, operator: str) -> Decision:
        def margins(of: Mapping[str, Array]) -> Doubles:
            x = _double(of[source])
            from_whole = np.abs(x - np.rint(x))
            return 0.5 - from_whole if operator == "Round" else from_whole

        return replace(self._known((source,), margins), rounded=True)

    def _known(
        self, tensors: tuple[str, ...], margins: Callable[[Mapping[str, Array]], Doubles]
    ) -> Decision:
        """Return a decision over tensors of which some may be constants."""
        stored = {
            name: numpy_helper.to_array(self._constants[name])
            for name in tensors
            if name in self._constants
        }
        computed = tuple(name for name in tensors if name not in stored)
        return Decision(computed, lambda of: margins({**stored, **of}))

    def _shape(self, name: str) -> tuple[int, ...] | None:
        if name not in self._types or not self._types[name].HasField("shape"):
            return None
        dims = self._types[name].shape.dim
        known = all(dim.HasField("dim_value") for dim in dims)
        return tuple(dim.dim_value for dim in dims) if known else None

    def _extent(self, node: onnx.NodeProto) -> int | None:
        shape = self._shape(node.output[0])
        return None if shape is None else shape[_axis(node, -1)]


def _best(node: onnx.NodeProto) -> Decision:
    x, axis = node.input[0], _axis(node, 0)
    keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
    sign = 1.0 if node.op_type == "ArgMax" else -1.0

    def margins(of: Mapping[str, Array]) -> Doubles:
        scores = np.moveaxis(sign * _double(of[x]), axis, -1)
        if scores.shape[-1] < 2:
            gap = np.full(scores.shape[:-1], np.inf)
        else:
            best = np.partition(scores, -2, axis=-1)
            gap = best[..., -1] - best[..., -2]
        return np.expand_dims(gap, axis) if keeps else gap

    return Decision((x,), margins)


def _order(node: onnx.NodeProto, count: int | None) -> Decision:
    x, axis = node.input[0], _axis(node, -1)
    if count is None:
        return Decision()
    largest = next((a.i for a in node.attribute if a.name == "largest"), 1)

    def margins(of: Mapping[str, Array]) -> Doubles:
        scores = np.sort(np.moveaxis(_double(of[x]), axis, -1), axis=-1)
        scores = scores[..., ::-1] if largest else scores
        gaps = np.abs(np.diff(scores, axis=-1))
        ends = np.full((*gaps.shape[:-1], 1), np.inf)
        before = np.concatenate([ends, gaps], axis=-1)
        after = np.concatenate([gaps, ends], axis=-1)
        return np.moveaxis(np.minimum(before, after)[..., :count], -1, axis)

    return Decision((x,), margins)


def _axis(node: onnx.NodeProto, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), default)


def _double(x: Array) -> Doubles:
    return np.asarray(x, np.float64)


def _truncated(x: Array) -> Doubles:
    """Return the distance from where a number becomes another one when its fraction is cut off."""
    values = _double(x)
    whole = np.rint(values)
    return np.where(whole == 0, 1 - np.abs(values), np.abs(values - whole))


def of_range(margins: Doubles, deciding: Array) -> Doubles:
    """Return margins as fractions of the range of what decides."""
    values = _double(deciding)
    finite = values[np.isfinite(values)]
    scale = float(np.ptp(finite) or np.abs(finite).max()) if finite.size else 0.0
    return margins / scale if scale > 0 else np.full(margins.shape, np.inf)
