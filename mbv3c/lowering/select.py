"""Choose a kernel for every node of a rewritten graph.

A convolution takes the activation and the residual sum after it along, a squeeze-and-excitation
branch is one kernel, and what no kernel covers goes to the fallback in regions as large as can be.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np
import onnx
import tvm
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference
from tvm.tirx import PrimFunc

from mbv3c.errors import ModelError
from mbv3c.graphs.load import model_input
from mbv3c.lowering import fallback
from mbv3c.lowering.kernels import Kernel, Kernels
from mbv3c.lowering.plan import Array, Plan, Step, Value
from mbv3c.lowering.schedules.epilogue import HARD_SWISH, LINEAR, RELU, Activation
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.lowering.shapes import (
    Convolution,
    Depthwise,
    Elementwise,
    GlobalPool,
    Pointwise,
    Transpose,
)

RENAMES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout")
ARITHMETIC = {"Add": "add", "Mul": "multiply"}
_ACTIVATIONS = ("Relu", "Clip", "HardSigmoid", "HardSwish")
IMAGE = 4  # rank of [N, C, H, W]

Rule = Callable[[onnx.NodeProto], bool]
_Form = tuple[bool, str]  # of a tensor: whether the channels are last, and the type


@dataclass(frozen=True)
class Branch:
    """A squeeze-and-excitation branch.

    Attributes:
        nodes: pool → 1x1 → activation → 1x1 → activation → Mul with what was pooled.
        w1, b1: weights [squeezed, channels] and bias of the first product.
        w2, b2: weights [gates, squeezed] and bias of the second one.
        reduce, gate: the activations after them.
    """

    nodes: list[onnx.NodeProto]
    w1: NDArray[np.float32]
    b1: NDArray[np.float32]
    w2: NDArray[np.float32]
    b2: NDArray[np.float32]
    reduce: Activation
    gate: Activation


class Selector:
    """Goes through the nodes once; what it has planned so far is in `_plan`.

    A tensor of the graph is held by one value of the plan or by several: laid out as in ONNX, or
    with the channels last; in its own type, or in that of the kernels.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        kernels: Kernels,
        target: tvm.target.Target,
        dtype: str,
        keep_float: Sequence[str] = (),
    ) -> None:
        self._model = shape_inference.infer_shapes(model)
        self._kernels, self._target, self._kernel_type = kernels, target, dtype
        self._narrow_type, self._keep_float = dtype, keep_float
        graph = self._model.graph
        self._stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._types = {
            value.name: value.type.tensor_type
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in filter(None, node.input):
                self._users.setdefault(name, []).append(node)
        self._outputs = [value.name for value in graph.output]
        self._held: dict[str, dict[_Form, str]] = {}
        self._done: set[str] = set()  # first outputs of nodes that are covered
        self._pending: list[onnx.NodeProto] = []  # for the fallback
        given = model_input(self._model).name
        self._plan = Plan(given, self._shape(given))
        self._plan.values[given] = Value(self._shape(given), self._dtype(given))
        self._hold(given, given, channels_last=False)

    def run(self) -> Plan:
        rules = self._rules()
        for node in self._model.graph.node:
            self._kernel_type = self._type_for(node)
            if node.output[0] not in self._done and not any(rule(node) for rule in rules):
                self._postpone(node)
        for name in self._outputs:
            if name in self._stored:
                value = self._copy(name, self._stored[name])
            else:
                value = self._value(name, channels_last=False, dtype=self._dtype(name))
            if value in (self._plan.input, *self._plan.outputs):
                value = self._copy(name, value)
                self._plan.hold(name, value, channels_last=False)
            self._plan.outputs += (value,)
            self._plan.output_shapes += (self._shape(name),)
        return self._plan

    def _type_for(self, node: onnx.NodeProto) -> str:
        """Return the type in which the kernel that begins with a node stores and computes."""
        kept = any(fnmatchcase(node.name, pattern) for pattern in self._keep_float)
        return "float32" if kept else self._narrow_type

    def _rules(self) -> tuple[Rule, ...]:
        return (
            self._rename,
            self._convolve,
            self._multiply_matrix,
            self._squeeze_excite,
            self._pool,
            self._elementwise,
        )

    # ---- rules: each takes a node, and perhaps some after it, or leaves it ----

    def _rename(self, node: onnx.NodeProto) -> bool:
        """Take what changes the shape and not the memory."""
        if node.op_type not in RENAMES or not self._is_value(node.input[0]):
            return False
        if any(self._users.get(name) or name in self._outputs for name in node.output[1:]):
            return False  # a Dropout's mask
        if self._is_pending(node.input[0]):
            return False
        dtype = self._held_type(node.input[0])
        value = self._value(node.input[0], channels_last=False, dtype=dtype)
        self._hold(node.output[0], value, channels_last=False)
        self._done.add(node.output[0])
        return True

    def _convolve(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Conv" or not self._has_stored_weights(node):
            return False
        weights = self._stored[node.input[1]]
        axes = axes_of(node, self._shape(node.input[0]), weights.shape)
        if axes is None or weights.dtype != np.float32:
            return False
        batch, channels, *_ = self._shape(node.input[0])
        groups = attribute_of(node, "group", 1)
        bias = self._bias(node, 2, weights.shape[0])
        if groups == channels == weights.shape[0] > 1:
            covered, activation = self._activation_after(node)
            shape = Depthwise(batch, channels, *axes, activation, self._kernel_type)
            self._emit_depthwise(covered, shape, weights, bias)
            return True
        if groups != 1:
            return False
        if all(axis == Axis(axis.size, 1, 1, axis.dilation, 0, 0) for axis in axes):
            rows = batch * prod(axis.size for axis in axes)
            self._emit_pointwise(node, rows, weights[:, :, 0, 0], bias, channels_last=True)
            return True
        covered, activation = self._activation_after(node)
        first = not self._has(node.input[0], channels_last=True)
        source = self._image_type(node.input[0]) if first else self._kernel_type
        dense = Convolution(
            batch,
            channels,
            weights.shape[0],
            *axes,
            activation,
            channels_first=first,
            dtype=self._kernel_type,
            source=source,
        )
        kernel = self._kernels.convolution(dense, weights, bias)
        x = self._value(node.input[0], channels_last=not first, dtype=source)
        self._emit_kernel("convolution", covered, kernel, (x,), dense.madds)
        return True

    def _multiply_matrix(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in ("Gemm", "MatMul"):
            return False
        if not self._is_value(node.input[0]) or node.input[1] not in self._stored:
            return False
        if len(self._shape(node.input[0])) == IMAGE:
            return False
        weights = self._stored[node.input[1]]
        if weights.ndim != 2 or weights.dtype != np.float32:
            return False
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        if any(attribute_of(node, name, value) != value for name, value in plain.items()):
            return False
        if not attribute_of(node, "transB", 0):
            weights = weights.T
        bias = [name for name in node.input[2:] if name]
        if not all(self._is_row(name, weights.shape[0]) for name in bias):
            return False
        rows = prod(self._shape(node.input[0])[:-1])
        added = self._bias(node, 2, weights.shape[0])
        self._emit_pointwise(node, rows, weights, added, channels_last=False)
        return True

    def _squeeze_excite(self, node: onnx.NodeProto) -> bool:
        """Take a squeeze-and-excitation branch, if there are kernels for it as a whole."""
        return False

    def _pool(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "GlobalAveragePool" or len(self._shape(node.input[0])) != IMAGE:
            return False
        if not self._is_value(node.input[0]) or not self._is_float(node.input[0]):
            return False
        batch, channels, *sides = self._shape(node.input[0])
        shape = GlobalPool(batch, prod(sides), channels, self._kernel_type)
        x = self._value(node.input[0], channels_last=True)
        self._emit_kernel("global_pool", [node], self._kernels.global_pool(shape), (x,))
        return True

    def _elementwise(self, node: onnx.NodeProto) -> bool:
        alone = activation_of(node, self._stored)
        if alone is None and node.op_type not in ARITHMETIC:
            return False
        operands = [name for name in node.input if name] if alone is None else [node.input[0]]
        result = node.output[0]
        if not all(self._is_value(name) and self._is_float(name) for name in operands):
            return False
        if any(self._is_pending(name) for name in operands):
            return False
        if len(operands) == 2 and self._shape(operands[0]) != self._shape(result):
            operands.reverse()
        shapes = [self._shape(name) for name in operands]
        if shapes[0] != self._shape(result):
            return False
        image = len(shapes[0]) == IMAGE
        per_channel = len(shapes) > 1 and shapes[1] != shapes[0]
        if per_channel and not (image and shapes[1] == (*shapes[0][:2], 1, 1)):
            return False
        batch, channels, places = 1, prod(shapes[0]), 1
        last = image and (per_channel or any(self._has(x, channels_last=True) for x in operands))
        if last:
            batch, channels, *sides = shapes[0]
            places = prod(sides)
        covered, activation = ([node], alone) if alone else self._activation_after(node)
        operator = "" if alone else ARITHMETIC[node.op_type]
        shape = Elementwise(
            batch, places, channels, operator, per_channel, activation, self._kernel_type
        )
        inputs = tuple(self._value(name, channels_last=last) for name in operands)
        kernel = self._kernels.elementwise(shape)
        self._emit_kernel("elementwise", covered, kernel, inputs, channels_last=last)
        return True

    # ---- what the rules share ----

    def _emit_depthwise(
        self, covered: Sequence[onnx.NodeProto], shape: Depthwise, weights: Array, bias: Array
    ) -> None:
        kernel = self._kernels.depthwise(shape, weights, bias)
        x = self._value(covered[0].input[0], channels_last=True)
        self._emit_kernel("depthwise", covered, kernel, (x,), shape.madds)

    def _emit_pointwise(
        self,
        node: onnx.NodeProto,
        rows: int,
        weights: Array,
        bias: Array,
        *,
        channels_last: bool,
    ) -> None:
        x = self._value(node.input[0], channels_last=channels_last)
        covered, shape, added = self._product_at(node, rows, weights)
        kernel = self._kernels.pointwise(shape, weights, bias)
        self._emit_kernel("pointwise", covered, kernel, (x,), shape.madds, after=added)

    def _product_at(
        self, node: onnx.NodeProto, rows: int, weights: Array
    ) -> tuple[list[onnx.NodeProto], Pointwise, tuple[str, ...]]:
        """Return what a product covers, its shape, and the value that it adds, if any."""
        covered, activation = self._activation_after(node)
        residual = self._residual_after(covered[-1])
        outputs, inputs = weights.shape
        shape = Pointwise(
            rows, inputs, outputs, activation, residual is not None, self._kernel_type
        )
        if residual is None:
            return covered, shape, ()
        return [*covered, residual[0]], shape, (residual[1],)

    def _emit_kernel(
        self,
        kind: str,
        covered: Sequence[onnx.NodeProto],
        kernel: Kernel,
        inputs: tuple[str, ...],
        madds: int = 0,
        *,
        after: tuple[str, ...] = (),
        channels_last: bool = True,
        dtype: str = "",
    ) -> None:
        """Append a kernel that reads `inputs`, its constants and what comes `after` them."""
        arguments: tuple[str | Array, ...] = (*inputs, *kernel.constants, *after)
        self._emit(
            kind,
            covered,
            kernel.function,
            arguments,
            madds,
            kernel.knobs,
            channels_last=channels_last,
            dtype=dtype,
        )
        self._note(kernel)

    def _note(self, kernel: Kernel) -> None:
        """Remember of the last step for what shape its kernel was chosen, and by what."""
        self._plan.steps[-1] = replace(
            self._plan.steps[-1], shape=kernel.shape, origin=kernel.origin
        )

    def _emit(
        self,
        kind: str,
        covered: Sequence[onnx.NodeProto],
        function: PrimFunc,
        inputs: tuple[str | Array, ...],
        madds: int,
        tile: Any = None,
        *,
        channels_last: bool = True,
        dtype: str = "",
    ) -> None:
        """Append a step whose last argument is the output of the last node it covers."""
        result = covered[-1].output[0]
        shape = self._shape(result)
        last = channels_last and not self._is_flat(result)
        memory = (shape[0], *shape[2:], shape[1]) if last else shape
        self._plan.values[result] = Value(memory, dtype or self._kernel_type)
        self._append(kind, covered, function, (*inputs, result), result, madds, tile)
        self._hold(result, result, channels_last=last)

    def _append(
        self,
        kind: str,
        covered: Sequence[onnx.NodeProto],
        function: PrimFunc,
        arguments: tuple[str | Array, ...],
        written: str | tuple[str, ...],
        madds: int,
        tile: Any,
    ) -> None:
        names = tuple(node.name or f"→ {node.output[0]}" for node in covered)
        knobs = {} if tile is None else asdict(tile)
        given = tuple(
            one if isinstance(one, str) else _converted(one, str(parameter.dtype), names)
            for one, parameter in zip(arguments, function.params, strict=True)
        )
        writes = (written,) if isinstance(written, str) else written
        self._plan.steps.append(Step(kind, names, function, given, writes, madds, knobs))
        self._done.update(node.output[0] for node in covered)

    def _activation_after(self, node: onnx.NodeProto) -> tuple[list[onnx.NodeProto], Activation]:
        """Return the node, with its only user if that is an activation."""
        user = self._only_user(node.output[0])
        activation = activation_of(user, self._stored) if user is not None else None
        if user is None or activation is None:
            return [node], LINEAR
        return [node, user], activation

    def _residual_after(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, str] | None:
        """Return the Add that is the only user, and the value that it adds, if that is ready."""
        result = node.output[0]
        user = self._only_user(result)
        if (
            user is None
            or user.op_type != "Add"
            or self._shape(user.output[0]) != self._shape(result)
        ):
            return None
        others = [name for name in user.input if name != result]
        if len(others) != 1 or not self._is_value(others[0]) or others[0] not in self._held:
            return None
        if self._shape(others[0]) != self._shape(result):
            return None
        return user, self._value(others[0], channels_last=True)

    def _branch(self, pool: onnx.NodeProto) -> Branch | None:
        """Return the squeeze-and-excitation branch that begins with `pool`."""
        chain = [pool]
        if pool.op_type != "GlobalAveragePool" or len(self._shape(pool.input[0])) != IMAGE:
            return None
        for wanted in (("Conv",), _ACTIVATIONS, ("Conv",), _ACTIVATIONS, ("Mul",)):
            user = self._only_user(chain[-1].output[0])
            if user is None or user.op_type not in wanted:
                return None
            if user.op_type == "Conv" and not self._is_plain_1x1(user):
                return None
            chain.append(user)
        _, reduce, act1, expand, act2, scale = chain
        if set(scale.input) != {pool.input[0], act2.output[0]}:
            return None
        activations = [activation_of(one, self._stored) for one in (act1, act2)]
        if None in activations:
            return None
        (w1, b1), (w2, b2) = (self._matrix(one) for one in (reduce, expand))
        first, second = (one for one in activations if one is not None)
        return Branch(chain, w1, b1, w2, b2, first, second)

    def _matrix(self, node: onnx.NodeProto) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the weights [N, K] and the bias [N] of a 1x1 convolution."""
        weights = self._stored[node.input[1]][:, :, 0, 0]
        return weights, self._bias(node, 2, weights.shape[0])

    def _is_plain_1x1(self, node: onnx.NodeProto) -> bool:
        if not self._has_stored_weights(node):
            return False
        weights = self._stored[node.input[1]]
        return (
            weights.shape[2:] == (1, 1)
            and weights.dtype == np.float32
            and attribute_of(node, "group", 1) == 1
            and not any(attribute_of(node, "pads", [0]))
        )

    def _has_stored_weights(self, node: onnx.NodeProto) -> bool:
        return self._is_value(node.input[0]) and all(
            name in self._stored for name in node.input[1:] if name
        )

    def _only_user(self, name: str) -> onnx.NodeProto | None:
        users = self._users.get(name, [])
        return users[0] if len(users) == 1 and name not in self._outputs else None

    def _bias(self, node: onnx.NodeProto, at: int, size: int) -> Array:
        if len(node.input) <= at or not node.input[at]:
            return np.zeros(size, np.float32)
        return np.broadcast_to(self._stored[node.input[at]].reshape(-1), (size,))

    def _is_row(self, name: str, size: int) -> bool:
        """Say whether a stored bias is the same for every row of a product."""
        stored = self._stored.get(name)
        return stored is not None and stored.shape in ((), (1,), (1, 1), (size,), (1, size))

    # ---- tensors and their memory ----

    def _shape(self, name: str) -> tuple[int, ...]:
        known = self._types.get(name)
        if known is None or not known.HasField("shape"):
            raise ModelError(f"the shape of {name!r} is not known; fix it with --input-shape")
        if not all(dim.HasField("dim_value") for dim in known.shape.dim):
            raise ModelError(f"the shape of {name!r} is dynamic; fix it with --input-shape")
        return tuple(dim.dim_value for dim in known.shape.dim)

    def _dtype(self, name: str) -> str:
        return helper.tensor_dtype_to_np_dtype(self._types[name].elem_type).name

    def _is_value(self, name: str) -> bool:
        return bool(name) and name not in self._stored

    def _is_float(self, name: str) -> bool:
        return name in self._types and self._types[name].elem_type == TensorProto.FLOAT

    def _is_flat(self, name: str) -> bool:
        """Say whether both layouts of a tensor are the same memory."""
        shape = self._shape(name)
        return len(shape) != IMAGE or shape[1] == 1 or prod(shape[2:]) == 1

    def _is_pending(self, name: str) -> bool:
        return any(name in node.output for node in self._pending)

    def _postpone(self, node: onnx.NodeProto) -> None:
        """Leave a node to the fallback, with those after it that have no kernel either."""
        self._pending.append(node)

    def _is_shared(self, value: str, name: str) -> bool:
        """Say whether another tensor than `name` is held by a value and still wanted."""
        return any(
            value in held.values() and self._is_wanted(other)
            for other, held in self._held.items()
            if other != name
        )

    def _is_wanted(self, name: str) -> bool:
        users = self._users.get(name, [])
        return name in self._outputs or any(user.output[0] not in self._done for user in users)

    def _has(self, name: str, *, channels_last: bool) -> bool:
        if self._is_pending(name):
            return not channels_last
        return self._is_flat(name) or any(last == channels_last for last, _ in self._held[name])

    def _hold(self, name: str, value: str, *, channels_last: bool) -> None:
        """Remember which value holds a tensor that none holds so far."""
        self._held[name] = {(channels_last, self._plan.values[value].dtype): value}
        self._plan.hold(name, value, channels_last=channels_last)

    def _held_type(self, name: str) -> str:
        """Return the type in which a tensor was made."""
        if self._is_pending(name):
            self._flush()
        return next(dtype for _, dtype in self._held[name])

    def _image_type(self, name: str) -> str:
        """Return the type in which the first convolution reads its image."""
        return self._held_type(name)

    def _value(self, name: str, *, channels_last: bool, dtype: str = "") -> str:
        """Return the value that holds a tensor in the wanted form; make it where needed.

        Without `dtype` that of the kernels is wanted.
        """
        made = self._held_type(name)
        held, dtype = self._held[name], dtype or self._kernel_type
        if self._is_flat(name):
            channels_last = next(last for last, _ in held)
        if (channels_last, dtype) not in held:
            # What has the layout already is only converted.
            last = channels_last if (channels_last, made) in held else not channels_last
            held[channels_last, dtype] = (
                self._convert(name, held[last, made], dtype)
                if last == channels_last
                else self._transpose(name, held[last, made], channels_last, dtype)
            )
            self._plan.hold(name, held[channels_last, dtype], channels_last=channels_last)
        return held[channels_last, dtype]

    def _transpose(self, name: str, source: str, channels_last: bool, dtype: str) -> str:
        batch, channels, *sides = self._shape(name)
        rows, columns = (channels, prod(sides)) if channels_last else (prod(sides), channels)
        result = self._new_name(f"{name}.{'nhwc' if channels_last else 'nchw'}")
        memory = (batch, *sides, channels) if channels_last else (batch, channels, *sides)
        given = self._plan.values[source].dtype
        self._plan.values[result] = Value(memory, dtype)
        shape = Transpose(batch, rows, columns, given, dtype)
        function = self._kernels.transpose(shape).function
        self._append("transpose", (), function, (source, result), result, 0, None)
        return result

    def _convert(self, name: str, source: str, dtype: str) -> str:
        """Convert a tensor, laid out as it is."""
        given = self._plan.values[source]
        result = self._new_name(f"{name}.{dtype}")
        self._plan.values[result] = Value(given.shape, dtype)
        return self._pass_on("cast", source, result, given.dtype)

    def _copy(self, name: str, source: str | Array) -> str:
        """Copy a tensor that lies in another's memory, or is constant, to its own."""
        dtype = self._dtype(name) if isinstance(source, str) else source.dtype.name
        result = self._new_name(f"{name}.copy")
        self._plan.values[result] = Value(self._shape(name), dtype)
        return self._pass_on("copy", source, result, dtype)

    def _pass_on(self, kind: str, source: str | Array, result: str, given: str) -> str:
        """Copy values of the type `given` to `result`, in its type, and return that."""
        made = self._plan.values[result]
        shape = Elementwise(1, 1, prod(made.shape), "", False, LINEAR, given, made.dtype)
        function = self._kernels.elementwise(shape).function
        self._append(kind, (), function, (source, result), result, 0, None)
        return result

    def _new_name(self, name: str) -> str:
        """Return a name with which no tensor of the graph and no value begins."""
        while any(known.startswith(name) for known in (*self._types, *self._plan.values)):
            name += "'"
        return name

    def _flush(self) -> None:
        """Lower what is pending by the fallback."""
        nodes, self._pending = self._pending, []
        made = {name for node in nodes for name in node.output}
        inside = {id(node) for node in nodes}
        read = dict.fromkeys(
            name
            for node in nodes
            for name in node.input
            if self._is_value(name) and name not in made
        )
        outputs = [
            name
            for node in nodes
            for name in node.output
            if name in self._outputs
            or any(id(user) not in inside for user in self._users.get(name, []))
        ]
        values = {
            name: self._value(name, channels_last=False, dtype=self._dtype(name)) for name in read
        }
        inputs, wanted = (
            {name: (self._shape(name), self._types[name].elem_type) for name in names}
            for names in (read, outputs)
        )
        prefix = self._new_name(f"region.{len(self._plan.steps)}.")
        lowered = fallback.lower_region(
            self._model, nodes, inputs, wanted, prefix, self._target, self._kernels.schedule
        )
        for step in lowered.steps:
            arguments = tuple(
                values.get(one, one) if isinstance(one, str) else one for one in step.arguments
            )
            self._plan.steps.append(replace(step, arguments=arguments))
        self._plan.values.update(lowered.values)
        self._check_types(wanted, lowered)
        self._done.update(node.output[0] for node in nodes)
        for name, value in lowered.held.items():
            if isinstance(value, str):
                self._hold(name, values.get(value, value), channels_last=False)
            else:
                self._hold(name, self._copy(name, value), channels_last=False)

    def _check_types(
        self, wanted: dict[str, tuple[tuple[int, ...], int]], lowered: fallback.LoweredRegion
    ) -> None:
        """Make sure that TVM's operators return what ONNX says that they return."""
        for name, (shape, _) in wanted.items():
            value = lowered.held[name]
            made = lowered.values.get(value) if isinstance(value, str) else None
            if made is not None and made != Value(shape, self._dtype(name)):
                raise ModelError(
                    f"TVM {tvm.__version__} makes {made.dtype} {made.shape} of {name!r}, which is "
                    f"{self._dtype(name)} {shape}"
                )


def _converted(weights: Array, dtype: str, names: tuple[str, ...]) -> Array:
    """Return the weights of some nodes in the type in which their kernel reads them."""
    with np.errstate(over="ignore"):
        converted = weights.astype(dtype, copy=False)
    if not np.isfinite(converted[np.isfinite(weights)]).all():
        raise ModelError(
            f"{names[0]!r} has weights beyond what {dtype} holds; compile with --precision fp32"
        )
    return converted


def activation_of(node: onnx.NodeProto, stored: dict[str, NDArray[Any]]) -> Activation | None:
    """Return what an activation computes, or None if it is none, or its bounds are computed."""
    match node.op_type:
        case "Relu":
            return RELU
        case "HardSwish":
            return HARD_SWISH
        case "HardSigmoid":
            alpha, beta = attribute_of(node, "alpha", 0.2), attribute_of(node, "beta", 0.5)
            return Activation(0.0, 1.0, scale=alpha, shift=beta)
        case "Clip":
            bounds = [name for name in node.input[1:] if name]
            if node.attribute or any(name not in stored for name in bounds):
                return None  # before opset 11 the bounds were attributes
            low, high = (
                stored[node.input[at]].item()
                if node.input[at : at + 1] not in ([], [""])
                else None
                for at in (1, 2)
            )
            if low is not None and high is not None:
                low = min(low, high)  # ONNX: where they are crossed, all values are `max`
            return Activation(low=low, high=high)
    return None


def axes_of(
    node: onnx.NodeProto, image: Sequence[int], weights: Sequence[int]
) -> tuple[Axis, Axis] | None:
    """Return how a convolution lies on a two-dimensional image, or None if it is another one."""
    if len(image) != IMAGE or attribute_of(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        return None
    pads = attribute_of(node, "pads", [0, 0, 0, 0])
    strides = attribute_of(node, "strides", [1, 1])
    dilations = attribute_of(node, "dilations", [1, 1])
    down, right = (
        Axis(image[2 + i], weights[2 + i], strides[i], dilations[i], pads[i], pads[2 + i])
        for i in range(2)
    )
    return down, right


def attribute_of(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or its default."""
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
