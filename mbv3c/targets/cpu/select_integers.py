"""Choose a kernel for every node of a quantized graph: integers where all tensors have steps.

What has no integer kernel, or reads or makes a tensor without steps, takes the way of the fp32
network; `_hold` rounds what comes out of it, and `_convert` gives it what it reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import tvm
from numpy.typing import NDArray

from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.lowering.plan import Array, Plan, Value
from mbv3c.lowering.qdq import PAIR, QuantizedGraph, Steps, Weights
from mbv3c.lowering.schedules.epilogue import Activation
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.lowering.select import (
    ARITHMETIC,
    IMAGE,
    RENAMES,
    Rule,
    activation_of,
    attribute_of,
    axes_of,
)
from mbv3c.targets.cpu.processor import Processor
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer import convolution as integer_convolution
from mbv3c.targets.cpu.schedules.integer import depthwise as integer_depthwise
from mbv3c.targets.cpu.schedules.integer import elementwise as integer_elementwise
from mbv3c.targets.cpu.schedules.integer import pointwise as integer_pointwise
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP, Requantization
from mbv3c.targets.cpu.schedules.integer.elementwise import Operand
from mbv3c.targets.cpu.select import CpuSelector

_INT8 = "int8"


def select_quantized(
    quantized: QuantizedGraph,
    machine: Processor,
    target: tvm.target.Target,
    choices: Choices = NO_CHOICES,
) -> Plan:
    """Return the plan of a quantized graph with fixed shapes.

    Inputs and outputs keep their types, as does what no integer kernel covers. Kernels that
    `choices` knows are as it says.

    Raises:
        ModelError: a node has no known shape, or the fallback cannot lower it.
    """
    return _QuantizedSelector(quantized, machine, target, choices).run()


@dataclass(frozen=True)
class _Ending:
    """What a kernel does to its sums.

    Attributes:
        covered: the node that makes them, and what follows it.
        scale: of one step of what is rounded.
        output: how it is rounded.
        table: what follows in 8 bits.
    """

    covered: tuple[onnx.NodeProto, ...]
    scale: float
    output: Requantization
    table: tuple[Array, ...]


@dataclass(frozen=True)
class _IntegerConvolution:
    """A convolution from integers to integers, as the graph has it."""

    weights: Weights
    ending: _Ending
    axes: tuple[Axis, Axis]
    groups: int


class _QuantizedSelector(CpuSelector):
    """Goes through the nodes once, as the selector of the fp32 network does."""

    def __init__(
        self,
        quantized: QuantizedGraph,
        machine: Processor,
        target: tvm.target.Target,
        choices: Choices,
    ) -> None:
        self._steps = dict(quantized.activations)
        self._weights = quantized.weights
        self._images: dict[str, str] = {}  # inputs with four channels
        super().__init__(quantized.model, machine, target, "float32", choices=choices)

    def _rules(self) -> tuple[Rule, ...]:
        return (
            self._image,
            self._convolve_integers,
            self._multiply_integers,
            self._pool_integers,
            self._combine_integers,
            self._look_up,
            *super()._rules(),
        )

    # ---- rules ----

    def _image(self, node: onnx.NodeProto) -> bool:
        """Quantize an image of at most four channels for the convolutions that read it."""
        x, y = node.input[0], node.output[0]
        if node.op_type != PAIR or y not in self._steps or x in self._steps:
            return False
        if not self._is_value(x) or not self._is_float(x) or len(self._shape(x)) != IMAGE:
            return False
        users = self._users.get(y, [])
        batch, channels, *sides = self._shape(x)
        if channels > GROUP or y in self._outputs or not users:
            return False
        if any(self._dense(user, self._integer_convolution(user)) is None for user in users):
            return False
        steps = self._steps[y]
        shape = integer_elementwise.QuantizeImage(
            batch, channels, prod(sides), steps.scale, Requantization(steps.zero)
        )
        function = integer_elementwise.generate_quantize_image(shape, self._machine)
        source = self._value(x, channels_last=False)
        self._plan.values[y] = Value((batch, *sides, GROUP), _INT8)
        self._append("quantize", [node], function, (source, y), y, 0, None)
        self._plan.hold(y, y, channels_last=True)
        self._images[y] = y
        return True

    def _rename(self, node: onnx.NodeProto) -> bool:
        x, y = node.input[0], node.output[0]
        if node.op_type not in RENAMES or x not in self._steps:
            return super()._rename(node)
        if self._steps.setdefault(y, self._steps[x]) == self._steps[x]:
            return super()._rename(node)
        value = self._value(x, channels_last=False)
        self._hold(y, value, channels_last=False)
        self._done.add(y)
        return True

    def _convolve_integers(self, node: onnx.NodeProto) -> bool:
        read = self._integer_convolution(node)
        if read is None:
            return False
        x, weights, ending = node.input[0], read.weights, read.ending
        batch, channels, *_ = self._shape(x)
        if read.groups == channels == len(weights.integers) > 1:
            narrow = integer_depthwise.IntegerDepthwise(
                batch, channels, *read.axes, self._steps[x].zero, ending.output
            )
            rows = self._rows(node, weights, ending, offset=False)
            kernel = self._cpu_kernels.integer_depthwise(
                narrow, weights.integers, *rows, *ending.table
            )
            source = self._integers(x)
            self._emit_kernel(
                "integer_depthwise", ending.covered, kernel, (source,), narrow.madds, dtype=_INT8
            )
            return True
        if read.groups != 1:
            return False
        if x not in self._images and _is_plain(read.axes):
            places = batch * prod(axis.size for axis in read.axes)
            return self._emit_product(node, ending, places, weights, weights.integers[:, :, 0, 0])
        dense = self._dense(node, read)
        if dense is None or (x not in self._images and channels % GROUP):
            return False
        rows = self._rows(node, weights, ending)
        kernel = self._cpu_kernels.integer_convolution(
            dense, weights.integers, *rows, *ending.table
        )
        source = self._images[x] if x in self._images else self._integers(x)
        self._emit_kernel(
            "integer_convolution", ending.covered, kernel, (source,), dense.madds, dtype=_INT8
        )
        return True

    def _multiply_integers(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in ("Gemm", "MatMul") or node.input[0] not in self._steps:
            return False
        if node.input[1] not in self._stored or len(self._shape(node.input[0])) == IMAGE:
            return False
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        if any(attribute_of(node, name, value) != value for name, value in plain.items()):
            return False
        transposed = attribute_of(node, "transB", 0)
        weights, ending = self._weights_of(node, 0 if transposed else 1), self._ending(node)
        if weights is None or ending is None or weights.integers.ndim != 2:
            return False
        matrix = weights.integers if transposed else weights.integers.T
        if not all(self._is_row(name, len(matrix)) for name in node.input[2:] if name):
            return False
        rows = prod(self._shape(node.input[0])[:-1])
        return self._emit_product(node, ending, rows, weights, matrix, image=False)

    def _pool_integers(self, node: onnx.NodeProto) -> bool:
        x, y = node.input[0], node.output[0]
        if node.op_type != "GlobalAveragePool" or x not in self._steps or y not in self._steps:
            return False
        if len(self._shape(x)) != IMAGE:
            return False
        batch, channels, *sides = self._shape(x)
        steps, made = self._steps[x], self._steps[y]
        shape = integer_elementwise.IntegerPool(
            batch,
            prod(sides),
            channels,
            steps.scale / made.scale,
            steps.zero,
            Requantization(made.zero),
        )
        function = integer_elementwise.generate_pool(shape, self._machine)
        ending = _Ending((node,), made.scale, shape.output, ())
        self._emit_integers("global_pool", ending, function, (self._integers(x),))
        return True

    def _combine_integers(self, node: onnx.NodeProto) -> bool:
        """Take sums and products of two tensors of one shape, or of an image and its gates."""
        if node.op_type not in ARITHMETIC or any(one not in self._steps for one in node.input):
            return False
        ending = self._ending(node)
        operands, result = list(node.input), node.output[0]
        if ending is None:
            return False
        if self._shape(operands[0]) != self._shape(result):
            operands.reverse()
        shapes = [self._shape(name) for name in operands]
        image, per_channel = len(shapes[0]) == IMAGE, shapes[1] != shapes[0]
        if shapes[0] != self._shape(result):
            return False
        if per_channel and not (image and shapes[1] == (*shapes[0][:2], 1, 1)):
            return False
        last = image and (per_channel or any(self._has(x, channels_last=True) for x in operands))
        batch, channels, places = 1, prod(shapes[0]), 1
        if last and per_channel:
            batch, channels, *sides = shapes[0]
            places = prod(sides)
        first, second = (_operand(self._steps[name]) for name in operands)
        shape = integer_elementwise.IntegerElementwise(
            batch,
            places,
            channels,
            ARITHMETIC[node.op_type],
            per_channel,
            first,
            second,
            ending.scale,
            ending.output,
        )
        function = integer_elementwise.generate(shape, self._machine)
        inputs = [self._integers(name, channels_last=last) for name in operands]
        self._emit_integers(
            "elementwise", ending, function, (*inputs, *ending.table), channels_last=last
        )
        return True

    def _look_up(self, node: onnx.NodeProto) -> bool:
        """Take an activation that stands alone."""
        if not node.input or node.input[0] not in self._steps:
            return False
        x, y = node.input[0], node.output[0]
        activation = activation_of(node, self._stored)
        if activation is None or y not in self._steps or x in self._images:
            return False
        last = len(self._shape(x)) == IMAGE and self._has(x, channels_last=True)
        table = _table(activation, self._steps[x], self._steps[y])
        shape = integer_elementwise.LookUp(prod(self._shape(x)))
        function = integer_elementwise.generate_look_up(shape, self._machine)
        ending = _Ending((node,), 1.0, Requantization(0), (table,))
        inputs = (self._integers(x, channels_last=last), table)
        self._emit_integers("elementwise", ending, function, inputs, channels_last=last)
        return True

    # ---- what the rules share ----

    def _emit_product(
        self,
        node: onnx.NodeProto,
        ending: _Ending,
        rows: int,
        weights: Weights,
        matrix: NDArray[np.int8],
        *,
        image: bool = True,
    ) -> bool:
        shape = integer_pointwise.IntegerPointwise(
            rows, matrix.shape[1], len(matrix), ending.output
        )
        if not integer_pointwise.covers(shape):
            return False
        rounding = self._rows(node, weights, ending)
        kernel = self._cpu_kernels.integer_pointwise(shape, matrix, *rounding, *ending.table)
        x = self._integers(node.input[0], channels_last=image)
        self._emit_kernel(
            "integer_pointwise", ending.covered, kernel, (x,), shape.madds, dtype=_INT8
        )
        return True

    def _emit_integers(
        self,
        kind: str,
        ending: _Ending,
        function: tvm.tirx.PrimFunc,
        inputs: tuple[str | Array, ...],
        *,
        channels_last: bool = True,
    ) -> None:
        """Append a kernel that has no knobs."""
        covered = list(ending.covered)
        self._emit(kind, covered, function, inputs, 0, channels_last=channels_last, dtype=_INT8)

    def _integers(self, name: str, *, channels_last: bool = True) -> str:
        return self._value(name, channels_last=channels_last, dtype=_INT8)

    def _weights_of(self, node: onnx.NodeProto, axis: int) -> Weights | None:
        """Return the weights of a node if their scales are those of its outputs."""
        weights = self._weights.get(node.input[1])
        return weights if weights is not None and weights.axis in (axis, None) else None

    def _rows(
        self, node: onnx.NodeProto, weights: Weights, ending: _Ending, *, offset: bool = True
    ) -> tuple[Array, Array]:
        """Return bias and factor of each output.

        Args:
            node: the convolution or product.
            weights: its weights.
            ending: what is rounded.
            offset: whether the kernel takes inputs as the machine's dot products want them.
        """
        transposed = node.op_type != "Conv" and not attribute_of(node, "transB", 0)
        integers = weights.integers.T if transposed else weights.integers
        outputs, steps = len(integers), self._steps[node.input[0]]
        step = np.broadcast_to(weights.scales.astype(np.float64) * steps.scale, (outputs,))
        bias = np.rint(self._bias(node, 2, outputs) / step)
        sums = integers.reshape(outputs, -1).sum(1, dtype=np.int64)
        bias = bias + (
            integer.correction(steps.zero, sums, self._machine) if offset else -steps.zero * sums
        )
        limits = np.iinfo(np.int32)
        clipped = np.clip(bias, limits.min, limits.max).astype(np.int32)
        return clipped, (step / ending.scale).astype(np.float32)

    def _integer_convolution(self, node: onnx.NodeProto) -> _IntegerConvolution | None:
        """Return a convolution of an image that is integers, and becomes integers."""
        if node.op_type != "Conv" or not self._has_stored_weights(node):
            return None
        x, weights, ending = node.input[0], self._weights_of(node, 0), self._ending(node)
        if weights is None or ending is None or x not in self._steps:
            return None
        axes = axes_of(node, self._shape(x), weights.integers.shape)
        if axes is None:
            return None
        return _IntegerConvolution(weights, ending, axes, attribute_of(node, "group", 1))

    def _dense(
        self, node: onnx.NodeProto, read: _IntegerConvolution | None
    ) -> integer_convolution.IntegerConvolution | None:
        """Return a convolution that the dense kernel covers."""
        if read is None or read.groups != 1:
            return None
        batch, channels, *_ = self._shape(node.input[0])
        shape = integer_convolution.IntegerConvolution(
            batch,
            -(-channels // GROUP) * GROUP,
            len(read.weights.integers),
            *read.axes,
            self._steps[node.input[0]].zero,
            read.ending.output,
        )
        return shape if integer_convolution.covers(shape, self._machine) else None

    def _ending(self, node: onnx.NodeProto) -> _Ending | None:
        """Return how the sums of a node become int8; None if they do not."""
        covered, name = [node], node.output[0]
        low, high = -128, 127
        if name not in self._steps:
            user = super()._only_user(name)
            clamp = activation_of(user, self._stored) if user is not None else None
            if user is None or clamp is None or not _is_clamp(clamp):
                return None
            covered, name = [node, user], user.output[0]
            if name not in self._steps:
                return None
            steps = self._steps[name]
            low, high = (
                default if bound is None else int(steps.quantize(np.float32(bound)))
                for bound, default in ((clamp.low, low), (clamp.high, high))
            )
        steps = self._steps[name]
        user = super()._only_user(name)
        activation = activation_of(user, self._stored) if user is not None else None
        if user is None or activation is None or user.output[0] not in self._steps:
            return _Ending(tuple(covered), steps.scale, Requantization(steps.zero, low, high), ())
        table = _table(activation, steps, self._steps[user.output[0]])
        output = Requantization(steps.zero, low, high, lookup=True)
        return _Ending((*covered, user), steps.scale, output, (table,))

    # ---- tensors and their memory ----

    def _only_user(self, name: str) -> onnx.NodeProto | None:
        """Return the only user, unless the tensor is rounded before: fp32 would not do that."""
        return None if name in self._steps else super()._only_user(name)

    def _postpone(self, node: onnx.NodeProto) -> None:
        super()._postpone(node)
        if any(name in self._steps for name in node.output):
            self._flush()  # what is rounded is no part of a larger region

    def _image_type(self, name: str) -> str:
        return self._kernel_type

    def _hold(self, name: str, value: str, *, channels_last: bool) -> None:
        steps = self._steps.get(name)
        if steps is not None and self._plan.values[value].dtype != _INT8:
            value = self._quantize(name, value, steps)
        super()._hold(name, value, channels_last=channels_last)

    def _quantize(self, name: str, source: str, steps: Steps) -> str:
        shape = self._plan.values[source].shape
        result = self._new_name(f"{name}.int8")
        self._plan.values[result] = Value(shape, _INT8)
        work = integer_elementwise.Quantize(prod(shape), steps.scale, Requantization(steps.zero))
        function = integer_elementwise.generate_quantize(work, self._machine)
        self._append("quantize", (), function, (source, result), result, 0, None)
        return result

    def _convert(self, name: str, source: str, dtype: str) -> str:
        if self._plan.values[source].dtype != _INT8 or name not in self._steps:
            return super()._convert(name, source, dtype)
        shape = self._plan.values[source].shape
        result = self._new_name(f"{name}.{dtype}")
        self._plan.values[result] = Value(shape, dtype)
        work = integer_elementwise.Dequantize(prod(shape), _operand(self._steps[name]))
        function = integer_elementwise.generate_dequantize(work, self._machine)
        self._append("dequantize", (), function, (source, result), result, 0, None)
        return result

    def _transpose(self, name: str, source: str, channels_last: bool, dtype: str) -> str:
        if self._plan.values[source].dtype == _INT8 and dtype != _INT8:
            source = self._convert(name, source, dtype)
        return super()._transpose(name, source, channels_last, dtype)


def _operand(steps: Steps) -> Operand:
    return Operand(steps.scale, steps.zero)


def _is_plain(axes: Sequence[Axis]) -> bool:
    """Say whether every window is one place."""
    return all(axis == Axis(axis.size, 1, 1, axis.dilation, 0, 0) for axis in axes)


def _is_clamp(activation: Activation) -> bool:
    return activation.scale == 1.0 and activation.shift == 0.0 and not activation.gated


def _table(activation: Activation, given: Steps, made: Steps) -> NDArray[np.int8]:
    """Return an activation between two tensors of int8."""

    def function(integers: NDArray[np.int8]) -> NDArray[np.int8]:
        x = given.dequantize(integers)
        y = x * np.float32(activation.scale) + np.float32(activation.shift)
        if activation.low is not None or activation.high is not None:
            y = np.clip(y, activation.low, activation.high)
        return made.quantize(x * y if activation.gated else y)

    return integer.table_of(function)
