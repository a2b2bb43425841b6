"""Write operators on integers as operators on floats between QuantizeLinear and its inverse.

    QLinearConv(x, xs, xz, w, ws, wz, ys, yz, b)  ⇒  Conv(DQ(x), DQ(w), DQ(b)) → Q(ys, yz)
    QLinearAdd(a, as, az, b, bs, bz, ys, yz)      ⇒  Add(DQ(a), DQ(b)) → Q(ys, yz)
    Flatten(q), Reshape(q), MaxPool(q), …         ⇒  DQ(q) → Flatten → Q

QLinearMul, QLinearMatMul, QGemm, QLinearConcat, QLinearSigmoid, QLinearSoftmax, QLinearLeakyRelu
and the QLinear pools are taken apart in the same way. onnxruntime's quantizer writes the first
form as QuantFormat.QOperator. In a file that it optimised images have channels last: they are
written with channels first, as far as all that reads them allows. Both forms stand for the same
values; a result in the middle of two steps may be rounded to the other one, since a QLinear
operator multiplies its sums once more.
Source: ONNX operator QLinearConv-10; onnxruntime's docs/ContribOperators.md.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbv3c.passes.names import FreeNames, inner_reads
from mbv3c.passes.report import PassReport, Refusal
from mbv3c.passes.undo_fusions import DOMAIN
from mbv3c.passes.upgrade_opset import DEFAULT_DOMAINS, opset_of

NAME = "split_qoperators"

# What moves or compares integers without computing with them.
_MOVING = (
    *("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Identity"),
    *("Slice", "Gather", "DepthToSpace", "SpaceToDepth", "Expand", "Tile", "Resize"),
)
# What computes each value by itself, with one step for all where it is a pair's.
_STEPS = ("QuantizeLinear", "DequantizeLinear")
_OF_ONE_VALUE = (
    *_STEPS,
    *("HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Relu", "Clip", "LeakyRelu", "Elu"),
)
_OF_TWO_VALUES = ("Add", "Sub", "Mul", "Div")
_LAST = "NhwcMaxPool"
_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_IMAGE = 4  # rank
_WITH_AXES = 13  # DequantizeLinear has an axis from this opset on
_WITH_AXIS = ("Softmax", "AveragePool", "GlobalAveragePool")  # or with a layout of its own
_Ends = tuple[str, str]  # names of scale and zero point


def split_qoperators(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Take apart every operator on integers whose steps are constant."""
    before = len(model.graph.node)
    if not has_qoperators(model):
        return model, PassReport(NAME, (), (), before, before, False)
    splitting = _Splitting(model)
    after = len(splitting.model.graph.node)
    matched, refused = tuple(splitting.matched), tuple(splitting.refused)
    report = PassReport(NAME, matched, refused, before, after, bool(matched))
    return (splitting.model if matched else model), report


def has_qoperators(model: onnx.ModelProto) -> bool:
    """Say whether a model has operators that compute with integers, outside of its functions."""
    return any(node.op_type in (*_SPLIT, _LAST) for node in model.graph.node)


class _Splitting:
    """A copy of a model whose nodes are written anew, one by one.

    Attributes:
        model: the copy.
        matched: names of the nodes that were taken apart.
        refused: those that were not.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.matched: list[str] = []
        self.refused: list[Refusal] = []
        self._graph = self.model.graph
        self._stored = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self._graph.initializer
        }
        self._free, self._opset = FreeNames(self._graph).take, opset_of(model)
        self._ends: dict[str, _Ends] = {}  # of tensors of integers
        self._first: dict[str, str] = {}  # of images with channels last: with channels first
        self._nodes: list[onnx.NodeProto] = []
        for node in model.graph.node:
            self._write(node)
        del self._graph.node[:]
        self._graph.node.extend(self._read() if self._first else self._nodes)

    def _write(self, node: onnx.NodeProto) -> None:
        split = _SPLIT.get(node.op_type) if node.domain in (*DEFAULT_DOMAINS, DOMAIN) else None
        if split is not None:
            reason = self._why_not(node, split)
            if reason is not None:
                self.refused.append(Refusal(node.name or node.output[0], reason))
            else:
                split.write(self, node)
                self.matched.append(node.name or node.output[0])
                return
        elif self._turned(node):
            self.matched.append(node.name or node.output[0])
            return
        elif _moves(node) and node.input[0] in self._ends:
            ends = self._ends[node.input[0]]
            x = self.real(node.input[0], ends, f"{node.output[0]}.x")
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[0], copy.output[0] = x, self._free(f"{node.output[0]}.real")
            self._nodes.append(copy)
            self.rounded(copy.output[0], ends, node)
            if node.op_type == "Transpose" and _attributes(node).get("perm") == _TO_LAST:
                self._first[node.output[0]] = node.input[0]
            self.matched.append(node.name or node.output[0])
            return
        elif node.op_type == "QuantizeLinear" and self._is_plain(node.input):
            self._ends[node.output[0]] = (node.input[1], node.input[2])
        self._nodes.append(node)

    def _turned(self, node: onnx.NodeProto) -> bool:
        """Write what reads an image with channels last: each value, a pool, what turns it back."""
        x = node.input[0] if node.input else ""
        one_step = node.op_type not in _STEPS or self._is_plain(node.input)
        several = node.op_type in _OF_TWO_VALUES and self.is_last(*node.input)
        if several or (node.op_type in _OF_ONE_VALUE and x in self._first and one_step):
            output = node.output[0]
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [self._first.get(name, name) for name in node.input]
            copy.output[0] = self._free(f"{output}.first")
            turn = helper.make_node(
                "Transpose", [copy.output[0]], [output], f"{output}.last", perm=_TO_LAST
            )
            self._nodes += [copy, turn]
            self._first[output] = copy.output[0]
            if node.op_type == "QuantizeLinear":
                ends = node.input[1], node.input[2]
                self._ends[output] = self._ends[copy.output[0]] = ends
            return True
        turns = node.op_type == "Transpose" and _attributes(node).get("perm") == _TO_FIRST
        if turns and x in self._first:
            self._nodes.append(
                helper.make_node("Identity", [self._first[x]], node.output[:1], node.name)
            )
            if self._first[x] in self._ends:  # integers, not what they stand for
                self._ends[node.output[0]] = self._ends[self._first[x]]
            return True
        if node.op_type != _LAST or x not in self._ends:
            return False
        real = self.real(self.first(x), self._ends[x], f"{node.output[0]}.x")
        y = self.computed("MaxPool", [real], node, **_attributes(node))
        self.rounded(y, self._ends[x], node, last=True)
        return True

    def _read(self) -> list[onnx.NodeProto]:
        """Return the nodes that an output of the model needs."""
        needed = {value.name for value in self._graph.output} | inner_reads(self._graph)
        kept = []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        return kept[::-1]

    def first(self, x: str) -> str:
        """Return integers of an image with channels first, which has them last."""
        if x not in self._first:
            name = self._free(f"{x}.first")
            self._nodes.append(helper.make_node("Transpose", [x], [name], name, perm=_TO_FIRST))
            self._first[x] = name
        return self._first[x]

    def is_last(self, *names: str) -> bool:
        """Say whether all of these integers are known with channels first, too."""
        return all(name in self._first for name in names)

    def _why_not(self, node: onnx.NodeProto, split: "_Split") -> str | None:
        """Say why a node cannot be taken apart, if it cannot."""
        names = split.constants(node)
        if names is None or not all(names):
            return "it leaves out a zero point"
        for name in names:
            if name not in self._stored:
                return f"{name!r} of {node.op_type} is not a constant"
        attributes = _attributes(node)
        if attributes.get("channels_last") and not self._is_image(node):
            return "its channels are last, and it is no image"
        per_channel = any(self._stored[name].size > 1 for name in names if self._is_scale(name))
        if per_channel and self._opset < _WITH_AXES:
            return f"it has a step per channel, and the model has opset {self._opset}"
        if node.op_type == "QLinearSoftmax" and attributes.get("axis", -1) != -1:
            return "its axis is not the last"
        return None

    def _is_image(self, node: onnx.NodeProto) -> bool:
        """Say whether what computes with channels last has two axes beside them."""
        if node.op_type == "QLinearConv":
            return node.input[3] in self._stored and self._stored[node.input[3]].ndim == _IMAGE
        return len(_attributes(node).get("kernel_shape", (1, 1))) == _IMAGE - 2

    def _is_scale(self, name: str) -> bool:
        return self._stored[name].dtype == np.float32

    def _is_plain(self, inputs: Sequence[str]) -> bool:
        """Say whether a QuantizeLinear has one constant step for all, and a zero point."""
        return len(inputs) > 2 and all(
            name in self._stored and self._stored[name].size == 1 for name in inputs[1:]
        )

    def real(self, integers: str, ends: _Ends, name: str, axis: int | None = None) -> str:
        """Append what dequantizes integers; return its output."""
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        scale, zero = ends
        if axis is not None and self._stored[zero].size == 1:  # one for all channels
            zeros = np.full(self._stored[scale].shape, self._stored[zero].item())
            ends = scale, self.stored(zeros.astype(self._stored[zero].dtype), f"{name}.zeros")
        name = self._free(name)
        self._nodes.append(
            helper.make_node("DequantizeLinear", [integers, *ends], [name], name, **attributes)
        )
        return name

    def rounded(self, x: str, ends: _Ends, node: onnx.NodeProto, *, last: bool = False) -> None:
        """Append what makes a node's output of floats, which has channels first."""
        name, output = node.name or node.output[0], node.output[0]
        made = self._free(f"{output}.first") if last else output
        self._nodes.append(helper.make_node("QuantizeLinear", [x, *ends], [made], f"{name}.round"))
        self._ends[made] = self._ends[output] = ends
        if last:
            turn = helper.make_node("Transpose", [made], [output], f"{name}.last", perm=_TO_LAST)
            self._nodes.append(turn)
            self._first[output] = made

    def computed(self, op_type: str, inputs: list[str], node: onnx.NodeProto, **more: Any) -> str:
        """Append the operator on floats, under the node's name; return its output."""
        output = self._free(f"{node.output[0]}.real")
        self._nodes.append(
            helper.make_node(op_type, inputs, [output], node.name or node.output[0], **more)
        )
        return output

    def renamed(self, output: str) -> None:
        """Let the last node make a tensor of the model."""
        self._nodes[-1].output[0] = output

    def axis_of(self, scale: str, axis: int) -> int | None:
        """Return the axis of scales; None for one scale."""
        return axis if self._stored[scale].size > 1 else None

    def stored(self, array: NDArray[Any], name: str) -> str:
        """Store a constant."""
        free = self._free(name)
        self._graph.initializer.append(numpy_helper.from_array(array, free))
        self._stored[free] = array
        return free

    def bias(
        self, integers: str, scales: list[str], node: onnx.NodeProto, factor: float = 1.0
    ) -> str:
        """Dequantize a bias, whose step is the product of others and of a factor."""
        step = np.full(1, factor, np.float32)
        for scale in scales:
            step = step * self._stored[scale].reshape(-1)
        plain = step.size == 1
        name = f"{node.output[0]}.bias"
        ends = (
            self.stored(step.reshape(()) if plain else step, f"{name}.scale"),
            self.stored(np.zeros(() if plain else step.shape, np.int32), f"{name}.zero"),
        )
        return self.real(integers, ends, name, None if plain else 0)


class _Split:
    """How an operator is taken apart: which inputs are constants, and what to write."""

    def __init__(
        self,
        steps: Callable[[onnx.NodeProto], list[int]],
        write: Callable[[_Splitting, onnx.NodeProto], None],
    ) -> None:
        self._steps, self.write = steps, write

    def constants(self, node: onnx.NodeProto) -> list[str] | None:
        """Return the names of steps and zero points; None if some are left out."""
        places = self._steps(node)
        if max(places) >= len(node.input):
            return None
        return [node.input[place] for place in places]


def _moves(node: onnx.NodeProto) -> bool:
    nearest = node.op_type != "Resize" or _attributes(node).get("mode", b"nearest") == b"nearest"
    return node.op_type in _MOVING and nearest


def _attributes(node: onnx.NodeProto, *dropped: str) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in dropped}


def _conv(to: _Splitting, node: onnx.NodeProto) -> None:
    x, xs, xz, w, ws, wz, ys, yz, *bias = node.input
    attributes = _attributes(node)
    last = bool(attributes.pop("channels_last", 0))
    operands = [
        to.real(to.first(x) if last else x, (xs, xz), f"{node.output[0]}.x"),
        to.real(w, (ws, wz), f"{node.output[0]}.w", to.axis_of(ws, 0)),
        *([to.bias(bias[0], [xs, ws], node)] if bias and bias[0] else []),
    ]
    to.rounded(to.computed("Conv", operands, node, **attributes), (ys, yz), node, last=last)


def _gemm(to: _Splitting, node: onnx.NodeProto) -> None:
    a, as_, az, b, bs, bz, *rest = node.input
    bias, ys, yz = [*rest, "", "", ""][:3]
    attributes = _attributes(node)
    axis = to.axis_of(bs, 0 if attributes.get("transB") else 1)
    operands = [
        to.real(a, (as_, az), f"{node.output[0]}.a"),
        to.real(b, (bs, bz), f"{node.output[0]}.b", axis),
        *([to.bias(bias, [as_, bs], node, attributes.get("alpha", 1.0))] if bias else []),
    ]
    y = to.computed("Gemm", operands, node, **attributes)
    if ys:
        to.rounded(y, (ys, yz), node)
    else:
        to.renamed(node.output[0])


def _two(op_type: str) -> Callable[[_Splitting, onnx.NodeProto], None]:
    def write(to: _Splitting, node: onnx.NodeProto) -> None:
        a, as_, az, b, bs, bz, ys, yz = node.input
        last = op_type != "MatMul" and to.is_last(a, b)
        if last:
            a, b = to.first(a), to.first(b)
        operands = [
            to.real(a, (as_, az), f"{node.output[0]}.a"),
            to.real(b, (bs, bz), f"{node.output[0]}.b", to.axis_of(bs, 1)),
        ]
        to.rounded(to.computed(op_type, operands, node), (ys, yz), node, last=last)

    return write


def _one(op_type: str, *dropped: str, **more: int) -> Callable[[_Splitting, onnx.NodeProto], None]:
    def write(to: _Splitting, node: onnx.NodeProto) -> None:
        x, xs, xz, ys, yz = node.input
        pools = bool(_attributes(node).get("channels_last"))
        last = pools or (op_type not in _WITH_AXIS and to.is_last(x))
        operands = [to.real(to.first(x) if last else x, (xs, xz), f"{node.output[0]}.x")]
        attributes = _attributes(node, *dropped) | more
        to.rounded(to.computed(op_type, operands, node, **attributes), (ys, yz), node, last=last)

    return write


def _concat(to: _Splitting, node: onnx.NodeProto) -> None:
    ys, yz, *parts = node.input
    attributes = _attributes(node)
    last = to.is_last(*parts[::3])
    if last:
        attributes["axis"] = _TO_LAST[attributes["axis"]]
    operands = [
        to.real(
            to.first(parts[at]) if last else parts[at],
            (parts[at + 1], parts[at + 2]),
            f"{node.output[0]}.{at // 3}",
        )
        for at in range(0, len(parts), 3)
    ]
    to.rounded(to.computed("Concat", operands, node, **attributes), (ys, yz), node, last=last)


def _at(*places: int) -> Callable[[onnx.NodeProto], list[int]]:
    return lambda node: list(places)


def _of_concat(node: onnx.NodeProto) -> list[int]:
    return [at for at in range(len(node.input)) if at < 2 or (at - 2) % 3]


_SPLIT = {
    "QLinearConv": _Split(_at(1, 2, 3, 4, 5, 6, 7), _conv),
    "QLinearMatMul": _Split(_at(1, 2, 4, 5, 6, 7), _two("MatMul")),
    "QGemm": _Split(_at(1, 2, 4, 5), _gemm),
    "QLinearAdd": _Split(_at(1, 2, 4, 5, 6, 7), _two("Add")),
    "QLinearMul": _Split(_at(1, 2, 4, 5, 6, 7), _two("Mul")),
    "QLinearSigmoid": _Split(_at(1, 2, 3, 4), _one("Sigmoid")),
    "QLinearLeakyRelu": _Split(_at(1, 2, 3, 4), _one("LeakyRelu")),
    "QLinearSoftmax": _Split(_at(1, 2, 3, 4), _one("Softmax", "opset", axis=-1)),
    "QLinearGlobalAveragePool": _Split(
        _at(1, 2, 3, 4), _one("GlobalAveragePool", "channels_last")
    ),
    "QLinearAveragePool": _Split(_at(1, 2, 3, 4), _one("AveragePool", "channels_last")),
    "QLinearConcat": _Split(_of_concat, _concat),
}
