"""Read off an ONNX graph which channels belong together.

A dense Conv or Gemm reads one group and writes another. Whatever works on each channel by itself
(depthwise convolutions, BatchNormalization, activations, pools, sums and products of maps, the
gate of squeeze-and-excite) ties its inputs and outputs together. A node that does neither locks
the groups that it touches: their channels stay, and the reason is kept. So do the channels of
inputs, of outputs, of weights that layers share, and what a Softmax compares; these are followed
all the same, and a graph in which nothing else is locked can be given other counts.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import onnx
from onnx import helper, numpy_helper, shape_inference

from mbv3c.graphs.count import tensors_read
from mbv3c.graphs.groups import Extent, Groups, Layer, Part, View
from mbv3c.graphs.load import static_shape

_ELEMENTWISE = {
    *("Relu", "Clip", "HardSigmoid", "HardSwish", "Sigmoid", "LeakyRelu", "Elu", "Selu", "Celu"),
    *("ThresholdedRelu", "Softplus", "Softsign", "Tanh", "Erf", "Gelu", "Mish", "Swish"),
    *("Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round"),
}
_PASSES = {"Identity", "Dropout", "Cast"}
_JOINING = {"Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Sum", "Mean", "PRelu"}
_SUMS = {"Add", "Sub", "Sum", "Mean"}
_POOLS = {"GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "LpPool"}
_REDUCTIONS = {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceProd"}


class _LockedError(Exception):
    """A node does something to channels that no cut can follow; the message says what."""


class Ties:
    """The groups of a graph.

    Attributes:
        model: the model, to which all names and positions belong.
        groups: its groups.
        layers: its dense layers, in graph order.
        lost: why channels were not followed through nodes, node by node.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.groups, self.layers, self.lost = Groups(), list[Layer](), list[str]()
        self._shapes = _fixed_shapes(self.model)
        graph = self.model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._views: dict[str, View] = {}
        self._shared = _shared_weights(graph)
        for value in graph.input:
            if value.name in self._constants:
                continue
            self._begin(value.name, f"it is the model's input {value.name!r}")
        for position, node in enumerate(graph.node):
            self._read(position, node)
        for value in graph.output:
            self._lock(value.name, f"it is the model's output {value.name!r}")
        outputs = {value.name for value in graph.output}
        for _, group in self.groups.items():
            shown = [part.tensor for part in group.parts if part.tensor in outputs]
            if shown:
                group.locked = group.locked or f"it is in the model's output {shown[0]!r}"

    def _read(self, position: int, node: onnx.NodeProto) -> None:
        rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        try:
            if rule is None or inner:
                raise _LockedError(_mixes(node))
            rule(self, position, node)
        except _LockedError as locked:
            self.lost.append(str(locked))
            names = tensors_read(node) if inner else node.input
            for name in names:
                self._lock(name, str(locked))
            for name in node.output:
                self._begin(name, str(locked))

    def _begin(self, name: str, locked: str = "") -> None:
        """Begin a group of the channels of a tensor: those of its second axis."""
        shape = self._shapes.get(name, ())
        if len(shape) > 1:
            self._views[name] = View(self.groups.new(shape[1], locked), 1)

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise _LockedError(f"the shape of {name!r} is not fixed")
        return self._shapes[name]

    def _lock(self, name: str, reason: str) -> None:
        view = self._views.get(name)
        if view is not None:
            group = self.groups[view.group]
            group.locked = group.locked or reason

    def view(self, name: str) -> View | None:
        """Return where the channels of a computed tensor are; None if that is not known."""
        return self._views.get(name)

    def _view(self, name: str) -> View:
        view = self._views.get(name)
        if view is None:
            raise _LockedError(f"where the channels of {name!r} are is not known")
        return view

    def _at_second(self, node: onnx.NodeProto) -> View:
        """Return the view of the first input, whose second axis must be its channels."""
        view = self._view(node.input[0])
        if view.axis != 1 or view.inner != 1:
            raise _LockedError(f"{node.op_type} {label(node)} does not have channels second")
        return view

    def _numbers(self, node: onnx.NodeProto, at: int, attribute: str) -> list[int] | None:
        """Return whole numbers that a node has as an attribute or as a constant input."""
        given = _attribute(node, attribute, None)
        if given is not None:
            return [int(number) for number in given]
        if len(node.input) <= at or not node.input[at]:
            return None
        tensor = self._constants.get(node.input[at])
        if tensor is None:
            raise _LockedError(
                f"{node.op_type} {label(node)} has computed {attribute}: `mbv3c optimize` "
                "computes what is constant"
            )
        return [int(number) for number in numpy_helper.to_array(tensor).reshape(-1)]

    def _follow(self, group: int, name: str, axis: int, inner: int = 1) -> None:
        """Note an axis of a constant that has entries for the channels of a group."""
        tensor = self._constants.get(name)
        if tensor is None:
            raise _LockedError(f"{name!r} is computed")
        self.groups[group].parts.append(Part(name, axis, inner))

    def _join(self, group: int, other: int, node: onnx.NodeProto) -> None:
        tied = self.groups.tie(group, other)
        if tied and node.op_type in _SUMS:
            self.groups[group].joined = True

    # Rules: one for each kind of node.

    def _dense(self, position: int, node: onnx.NodeProto, x: View, axes: tuple[int, int]) -> None:
        """Read a layer whose weight has input and output channels on two axes."""
        weight, (read, written) = node.input[1], axes
        tensor = self._constants.get(weight)
        if tensor is None:
            raise _LockedError(f"the weight of {label(node)} is computed")
        channels = tensor.dims[written]
        bias = node.input[2] if len(node.input) > 2 else ""
        dims: Sequence[int] = self._constants[bias].dims if bias in self._constants else ()
        if bias and bias not in self._constants:
            raise _LockedError(f"the bias of {label(node)} is computed")
        y = self.groups.new(channels, self._lock_shared(x, weight))
        if dims and dims[-1] == channels:
            self._follow(y, bias, len(dims) - 1)
        part = Part(weight, read, x.inner)
        self.groups[x.group].parts.append(part)
        self._follow(y, weight, written)
        self.layers.append(Layer(position, x.group, y, weight, part, written, x.pooled))
        rank = len(self._shape(node.output[0]))
        axis = rank - 1 if node.op_type in ("Gemm", "MatMul") else 1
        self._views[node.output[0]] = View(y, axis, pooled=x.pooled)

    def _conv(self, position: int, node: onnx.NodeProto) -> None:
        x, weight = self._at_second(node), node.input[1]
        groups = _attribute(node, "group", 1)
        dims: Sequence[int] = self._constants[weight].dims if weight in self._constants else ()
        if groups == 1:
            self._dense(position, node, x, (1, 0))
            return
        if len(dims) < 2 or dims[1] != 1 or dims[0] != groups:
            raise _LockedError(
                f"{label(node)} has {groups} groups and is not depthwise with one filter a channel"
            )
        self._lock_shared(x, weight)
        self._per_channel(node, x)
        self.groups[x.group].depthwise.append(position)

    def _lock_shared(self, x: View, weight: str) -> str:
        """Lock what a layer reads whose weight others read, too; return why, or nothing."""
        if weight not in self._shared:
            return ""
        reason, group = f"the weight {weight!r} belongs to several layers", self.groups[x.group]
        group.locked = group.locked or reason
        return reason

    def _transposed(self, position: int, node: onnx.NodeProto) -> None:
        if _attribute(node, "group", 1) != 1:
            raise _LockedError(f"the transposed convolution {label(node)} has groups")
        self._dense(position, node, self._at_second(node), (0, 1))

    def _gemm(self, position: int, node: onnx.NodeProto) -> None:
        x = self._view(node.input[0])
        if _attribute(node, "transA", 0) or x.axis != 1:
            raise _LockedError(f"Gemm {label(node)} has its input transposed")
        self._dense(position, node, x, (1, 0) if _attribute(node, "transB", 0) else (0, 1))

    def _matmul(self, position: int, node: onnx.NodeProto) -> None:
        x, last = self._view(node.input[0]), len(self._shape(node.input[0])) - 1
        weight = self._constants.get(node.input[1])
        if weight is None or len(weight.dims) != 2 or x.axis != last:
            raise _LockedError(f"MatMul {label(node)} is no dense layer over channels")
        self._dense(position, node, x, (0, 1))

    def _per_channel(self, node: onnx.NodeProto, x: View | None = None) -> None:
        """Read a node each of whose other inputs has an entry for each channel."""
        x = x or self._view(node.input[0])
        if x.axis != 1:
            raise _LockedError(f"{node.op_type} {label(node)} does not have channels second")
        for name in node.input[1:]:
            if name:
                self._follow(x.group, name, 0, x.inner)
        self._views[node.output[0]] = x

    def _elementwise(self, position: int, node: onnx.NodeProto) -> None:
        x = self._view(node.input[0])
        self.groups[x.group].nonlinear |= node.op_type in _ELEMENTWISE
        self._views[node.output[0]] = x

    def _softmax(self, position: int, node: onnx.NodeProto) -> None:
        """Read what compares channels, and leaves them where they are."""
        self._views[node.output[0]] = self._view(node.input[0])
        self._lock(node.input[0], _mixes(node))

    def _joining(self, position: int, node: onnx.NodeProto) -> None:
        """Read a sum, a product or the like of maps and constants, which broadcast."""
        computed = [name for name in node.input if name not in self._constants]
        if not computed:
            raise _LockedError(f"{node.op_type} {label(node)} computes a constant")
        views = [(self._view(name), self._shape(name)) for name in computed]
        wide, shape = max(views, key=lambda each: each[1][each[0].axis])
        behind = len(shape) - wide.axis  # broadcasting counts axes from the end
        size = shape[wide.axis]
        for view, other in views:
            if len(other) - view.axis != behind or (
                other[view.axis] not in (1, size) or view.inner != wide.inner
            ):
                raise _LockedError(f"{node.op_type} {label(node)} takes channels of two kinds")
            if other[view.axis] == size:
                self._join(wide.group, view.group, node)
        output = self._shape(node.output[0])
        if len(output) < behind or output[-behind] != size:
            raise _LockedError(f"{node.op_type} {label(node)} makes more channels than it takes")
        for name in set(node.input) - set(computed):
            dims = self._constants[name].dims
            if len(dims) >= behind and dims[-behind] > 1:
                self._follow(wide.group, name, len(dims) - behind, wide.inner)
        pooled = all(view.pooled for view, _ in views)
        axis = len(output) - behind
        self._views[node.output[0]] = View(wide.group, axis, wide.inner, pooled)

    def _pool(self, position: int, node: onnx.NodeProto) -> None:
        x = self._at_second(node)
        pooled = prod(self._shape(node.output[0])[2:]) == 1
        self._views[node.output[0]] = View(x.group, 1, pooled=pooled)

    def _reduction(self, position: int, node: onnx.NodeProto) -> None:
        x, rank = self._view(node.input[0]), len(self._shape(node.input[0]))
        axes = {axis % rank for axis in self._numbers(node, 1, "axes") or range(rank)}
        if x.axis in axes:
            raise _LockedError(f"{node.op_type} {label(node)} is over channels")
        gone = 0 if _attribute(node, "keepdims", 1) else sum(axis < x.axis for axis in axes)
        self._views[node.output[0]] = View(x.group, x.axis - gone, x.inner, pooled=True)

    def _pad(self, position: int, node: onnx.NodeProto) -> None:
        x, pads = self._view(node.input[0]), self._numbers(node, 1, "pads") or []
        rank = len(self._shape(node.input[0]))
        if len(node.input) > 3 or len(pads) != 2 * rank or any(pads[x.axis :: rank]):
            raise _LockedError(f"Pad {label(node)} adds channels")
        self._views[node.output[0]] = x

    def _resize(self, position: int, node: onnx.NodeProto) -> None:
        x = self._view(node.input[0])
        if _attribute(node, "axes", None) is not None:
            raise _LockedError(f"{node.op_type} {label(node)} names its axes")
        if self._shape(node.output[0])[x.axis] != self._shape(node.input[0])[x.axis]:
            raise _LockedError(f"{node.op_type} {label(node)} makes other channels")
        if len(node.input) > 3 and node.input[3]:
            self._numbers(node, 3, "sizes")
            self.groups[x.group].extents.append(Extent(node.input[3], x.axis, x.inner))
        self._views[node.output[0]] = x

    def _flatten(self, position: int, node: onnx.NodeProto) -> None:
        x, shape = self._view(node.input[0]), self._shape(node.input[0])
        if x.axis != 1 or _attribute(node, "axis", 1) % len(shape) != 1:
            raise _LockedError(f"Flatten {label(node)} mixes channels with images")
        self._views[node.output[0]] = View(x.group, 1, x.inner * prod(shape[2:]), x.pooled)

    def _reshape(self, position: int, node: onnx.NodeProto) -> None:
        """Read a Reshape that leaves the channels on an axis, alone or with all behind them."""
        x, shape = self._view(node.input[0]), self._shape(node.input[0])
        made, wanted = self._shape(node.output[0]), self._numbers(node, 1, "shape") or []
        size, rest = shape[x.axis], prod(shape[x.axis + 1 :])
        for axis, entry in enumerate(made):
            before = prod(made[:axis]) == prod(shape[: x.axis])
            if not before or entry not in (size, size * rest):
                continue
            inner = x.inner * (1 if entry == size else rest)
            if wanted[axis] > 0:
                self.groups[x.group].extents.append(Extent(node.input[1], axis, inner))
            elif wanted[axis] == 0 and axis != x.axis:
                break
            self._views[node.output[0]] = View(x.group, axis, inner, x.pooled)
            return
        raise _LockedError(f"Reshape {label(node)} mixes channels with something else")

    def _squeeze(self, position: int, node: onnx.NodeProto) -> None:
        x, rank = self._view(node.input[0]), len(self._shape(node.input[0]))
        ones = [axis for axis, size in enumerate(self._shape(node.input[0])) if size == 1]
        axes = {axis % rank for axis in self._numbers(node, 1, "axes") or ones}
        if x.axis in axes:
            raise _LockedError(f"Squeeze {label(node)} is over channels")
        axis = x.axis - sum(each < x.axis for each in axes)
        self._views[node.output[0]] = View(x.group, axis, x.inner, x.pooled)

    def _unsqueeze(self, position: int, node: onnx.NodeProto) -> None:
        x, rank = self._view(node.input[0]), len(self._shape(node.output[0]))
        added = {axis % rank for axis in self._numbers(node, 1, "axes") or ()}
        kept = [axis for axis in range(rank) if axis not in added]
        self._views[node.output[0]] = View(x.group, kept[x.axis], x.inner, x.pooled)

    def _transpose(self, position: int, node: onnx.NodeProto) -> None:
        x, rank = self._view(node.input[0]), len(self._shape(node.input[0]))
        order = list(_attribute(node, "perm", range(rank)[::-1]))
        self._views[node.output[0]] = View(x.group, order.index(x.axis), x.inner, x.pooled)


Rule = Callable[[Ties, int, onnx.NodeProto], None]

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE | _PASSES, Ties._elementwise),
    **dict.fromkeys(_JOINING, Ties._joining),
    **dict.fromkeys(_POOLS, Ties._pool),
    **dict.fromkeys(_REDUCTIONS, Ties._reduction),
    **dict.fromkeys(("Softmax", "LogSoftmax"), Ties._softmax),
    "Conv": Ties._conv,
    "ConvTranspose": Ties._transposed,
    "Gemm": Ties._gemm,
    "MatMul": Ties._matmul,
    "BatchNormalization": lambda ties, _, node: ties._per_channel(node),
    "InstanceNormalization": lambda ties, _, node: ties._per_channel(node),
    "Pad": Ties._pad,
    "Resize": Ties._resize,
    "Flatten": Ties._flatten,
    "Reshape": Ties._reshape,
    "Squeeze": Ties._squeeze,
    "Unsqueeze": Ties._unsqueeze,
    "Transpose": Ties._transpose,
}


def label(node: onnx.NodeProto) -> str:
    """Return a node's name, or that of its output if it has none."""
    return node.name or node.output[0]


def _mixes(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {label(node)} mixes its channels, or may do so"


def _fixed_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes that are known, even if others are not."""
    graph = shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    known = [value for value in values if value.type.tensor_type.HasField("shape")]
    shapes = {value.name: static_shape(value) for value in known}
    return {name: shape for name, shape in shapes.items() if shape is not None}


def _shared_weights(graph: onnx.GraphProto) -> set[str]:
    """Return the names of weights that several nodes read."""
    seen: set[str] = set()
    shared: set[str] = set()
    for node in graph.node:
        for name in node.input:
            (shared if name in seen else seen).add(name)
    return shared


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    values: Sequence[Any] = [
        helper.get_attribute_value(each) for each in node.attribute if each.name == name
    ]
    return values[0] if values else default
