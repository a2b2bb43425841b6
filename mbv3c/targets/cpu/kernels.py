"""Kernels for the cores of a CPU, and which of them computes each node of a rewritten graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
import tvm
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering import traced
from mbv3c.lowering.choosing import chosen
from mbv3c.lowering.plan import (
    NO_CHOICES,
    Array,
    Choices,
    Convolution,
    Depthwise,
    Elementwise,
    Floats,
    GlobalPool,
    Kernel,
    Plan,
    Pointwise,
    Transpose,
    pack_depthwise,
)
from mbv3c.lowering.qdq import QuantizedGraph
from mbv3c.lowering.schedules import general
from mbv3c.lowering.select import selection as rules
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.memory import Memory
from mbv3c.lowering.select.nodes import attribute_of, branch_of, product_of
from mbv3c.lowering.select.normalized import normalization
from mbv3c.lowering.select.selection import Rule, Selection, run_rules
from mbv3c.lowering.select.transposed import transposed
from mbv3c.lowering.traced import Operator
from mbv3c.precision import BF16, FP32
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import (
    bfloats,
    convolution,
    depthwise,
    elementwise,
    pointwise,
    pooling,
    squeeze_excite,
    stored_pointwise,
    stored_squeeze_excite,
    upsample,
)
from mbv3c.targets.cpu.schedules.bfloats import BfloatPointwise
from mbv3c.targets.cpu.schedules.integer import convolution as integer_convolution
from mbv3c.targets.cpu.schedules.integer import depthwise as integer_depthwise
from mbv3c.targets.cpu.schedules.integer import pointwise as integer_pointwise
from mbv3c.targets.cpu.schedules.integer.convolution import IntegerConvolution
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise
from mbv3c.targets.cpu.schedules.operands import in_pairs
from mbv3c.targets.cpu.schedules.squeeze_excite import SqueezeExcite
from mbv3c.targets.cpu.schedules.stored_pointwise import StoredPointwise
from mbv3c.targets.cpu.schedules.stored_squeeze_excite import StoredSqueezeExcite
from mbv3c.targets.cpu.schedules.upsample import Upsample
from mbv3c.targets.cpu.select_frames import frame_rule
from mbv3c.targets.cpu.select_stored import (
    NOTHING,
    StoredLayers,
    squeeze_excite_kernel,
    stored_pointwise_rule,
)
from mbv3c.targets.cpu.select_top import write_top

# Counts up when a kernel's code changes though shape and knobs do not: what was measured of the
# old code says nothing about the new. A test compares it with a digest of some kernels.
VERSION = 1

Integers = NDArray[Any]  # of int8, or of nine bits in int16
_SCALES = 2  # the input of Resize that says them


@dataclass(frozen=True)
class CpuKernels:
    """Kernels for the cores of a CPU.

    Integer kernels take weights of int8, or of nine bits in int16, laid out as in ONNX, and
    `rounding`: for every output an int32 bias and an fp32 factor, then a table if the kernel looks
    its results up.

    Attributes:
        processor: the processor that runs the kernels.
        choices: the knobs that were measured to be best on that processor.
        products: the type to which factors of products of matrices are rounded.
    """

    processor: Processor
    choices: Choices = NO_CHOICES
    products: str = FP32.products

    def pointwise(self, shape: Pointwise, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("pointwise", shape, weights)
        packed = pointwise.pack(shape, tile, self.processor, weights)
        function = pointwise.generate(shape, tile, self.processor)
        return Kernel(function, (packed, bias), tile, shape, origin)

    def bfloat_pointwise(self, shape: BfloatPointwise, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("bfloat_pointwise", shape, weights)
        packed = bfloats.pack(shape, tile, self.processor, weights)
        function = bfloats.generate(shape, tile, self.processor)
        return Kernel(function, (packed, in_pairs(bias)), tile, shape, origin)

    def depthwise(self, shape: Depthwise, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("depthwise", shape)
        function = depthwise.generate(shape, tile, self.processor)
        return Kernel(function, (pack_depthwise(weights), bias), tile, shape, origin)

    def convolution(self, shape: Convolution, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("convolution", shape, weights)
        packed = convolution.pack(shape, tile, self.processor, weights)
        function = convolution.generate(shape, tile, self.processor)
        return Kernel(function, (packed, bias), tile, shape, origin)

    def squeeze_excite(
        self, shape: SqueezeExcite, w1: Floats, b1: Floats, w2: Floats, b2: Floats
    ) -> Kernel:
        tile, origin = self._choose("squeeze_excite", shape, w1)
        first, second = (
            squeeze_excite.pack(w, tile, self.processor, shape.dtype) for w in (w1, w2)
        )
        function = squeeze_excite.generate(shape, tile, self.processor)
        return Kernel(function, (first, b1, second, b2), tile, shape, origin)

    def stored_pointwise(self, shape: StoredPointwise, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("stored_pointwise", shape, weights)
        packed = stored_pointwise.pack(shape, tile, self.processor, weights)
        function = stored_pointwise.generate(shape, tile, self.processor)
        return Kernel(function, (*packed, bias), tile, shape, origin)

    def stored_squeeze_excite(
        self, shape: StoredSqueezeExcite, w1: Floats, b1: Floats, w2: Floats, b2: Floats
    ) -> Kernel:
        tile, origin = self._choose("stored_squeeze_excite", shape, w1)
        first, second = (
            stored_squeeze_excite.pack(shape, tile, self.processor, w) for w in (w1, w2)
        )
        function = stored_squeeze_excite.generate(shape, tile, self.processor)
        return Kernel(function, (*first, b1, *second, b2), tile, shape, origin)

    def global_pool(self, shape: GlobalPool) -> Kernel:
        tile, origin = self._choose("global_pool", shape)
        return Kernel(pooling.generate(shape, tile, self.processor), (), tile, shape, origin)

    def integer_pointwise(
        self, shape: IntegerPointwise, weights: Integers, *rounding: Array
    ) -> Kernel:
        tile, origin = self._choose("integer_pointwise", shape, weights)
        packed = integer_pointwise.pack(shape, tile, self.processor, weights)
        bias, scale = (integer_pointwise.pad(shape, self.processor, row) for row in rounding[:2])
        function = integer_pointwise.generate(shape, tile, self.processor)
        return _of_integers(function, (packed, bias, scale, *rounding[2:]), tile, shape, origin)

    def integer_depthwise(
        self, shape: IntegerDepthwise, weights: Integers, *rounding: Array
    ) -> Kernel:
        tile, origin = self._choose("integer_depthwise", shape)
        packed = integer_depthwise.pack(shape, self.processor, weights)
        rows = (integer_depthwise.arrange(shape, self.processor, row) for row in rounding[:2])
        function = integer_depthwise.generate(shape, tile, self.processor)
        return _of_integers(function, (packed, *rows, *rounding[2:]), tile, shape, origin)

    def integer_convolution(
        self, shape: IntegerConvolution, weights: Integers, *rounding: Array
    ) -> Kernel:
        tile, origin = self._choose("integer_convolution", shape)
        packed = integer_convolution.pack(shape, weights)
        function = integer_convolution.generate(shape, tile, self.processor)
        return _of_integers(function, (packed, *rounding), tile, shape, origin)

    def elementwise(self, shape: Elementwise) -> Kernel:
        return Kernel(elementwise.generate_elementwise(shape, self.processor))

    def transpose(self, shape: Transpose) -> Kernel:
        return Kernel(elementwise.generate_transpose(shape, self.processor))

    def schedule(self, function: PrimFunc, target: tvm.target.Target) -> PrimFunc:
        return general.schedule(function, target)

    def operator(
        self,
        function: PrimFunc,
        target: tvm.target.Target,
        tunable: bool,
    ) -> Kernel:
        shape = traced.operator_of(function, target) if tunable else None
        return self.traced(shape) if shape is not None else Kernel(self.schedule(function, target))

    def traced(self, shape: Operator, *constants: Array) -> Kernel:
        """Write one of TVM's operators as it was measured to be best."""
        return traced.write(shape, self.choices, constants)

    def _choose(self, kind: str, shape: Any, weights: Array | None = None) -> tuple[Any, str]:
        """Return the knobs for a shape, and where they come from.

        `weights` are those that lie in panels of so many vectors.
        """
        schedule = SCHEDULES[kind]
        tile, origin = chosen(schedule, self.choices, kind, shape, self.processor, weights)
        if weights is not None:
            self.choices.note(weights, {"vectors": tile.vectors})
        return tile, origin


def _of_integers(
    function: PrimFunc,
    constants: tuple[Array, ...],
    tile: Any,
    shape: IntegerPointwise | IntegerDepthwise | IntegerConvolution,
    origin: str,
) -> Kernel:
    """Return a kernel of integers. Weights of nine bits use the knobs of eight: none are tuned."""
    if shape.terms > 1:
        return Kernel(function, constants)
    return Kernel(function, constants, tile, shape, origin)


# The modules of `schedules` that have knobs, by the kind of their steps.
SCHEDULES: dict[str, Any] = {
    "pointwise": pointwise,
    "bfloat_pointwise": bfloats,
    "depthwise": depthwise,
    "convolution": convolution,
    "squeeze_excite": squeeze_excite,
    "stored_pointwise": stored_pointwise,
    "stored_squeeze_excite": stored_squeeze_excite,
    "global_pool": pooling,
    "integer_pointwise": integer_pointwise,
    "integer_depthwise": integer_depthwise,
    "integer_convolution": integer_convolution,
}


def select(
    model: onnx.ModelProto,
    processor: Processor,
    target: tvm.target.Target,
    dtype: str = "float32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
    written: Callable[[Processor, Choices], CpuKernels] = CpuKernels,
    layers: StoredLayers = NOTHING,
) -> Plan:
    """Return the plan of a rewritten graph with fixed shapes.

    The kernels hold and compute what is float32 in the graph as `dtype`. Inputs, outputs and what
    the fallback computes keep their types; so do nodes whose names match a pattern of
    `keep_float`. Kernels that `choices` knows are as it says; `written` writes them. `layers`
    have weights that are stored in another type.

    Raises:
        ModelError: a node has no known shape, the fallback cannot lower it, or `dtype` cannot
            hold its weights.
    """
    graph, kernels = Graph(QuantizedGraph(model)), written(processor, choices)
    memory = Memory(graph, kernels)
    selection = CpuSelection(graph, kernels, memory, target, dtype, keep_float, layers=layers)
    return run_rules(selection, RULES)


@dataclass
class CpuSelection(Selection):
    """What a rule for CPUs works with.

    Attributes:
        layers: the layers whose weights are stored in another type.
    """

    kernels: CpuKernels
    layers: StoredLayers = NOTHING


def bfloat_rule(node: onnx.NodeProto, selection: CpuSelection) -> bool:
    """Take a 1x1 convolution or a matrix product whose factors are to be rounded to bfloat16."""
    if selection.kernels.products != BF16.products:
        return False
    product = product_of(node, selection.graph)
    if product is None or not bfloats.suits(*product.weights.shape[::-1]):
        return False
    x = selection.value(node.input[0], channels_last=product.channels_last)
    covered, shape, addends = rules.fused_product(node, product, selection)
    rounded = BfloatPointwise(**vars(shape))
    kernel = selection.kernels.bfloat_pointwise(rounded, product.weights, product.bias)
    selection.emit("bfloat_pointwise", covered, kernel, (x,), shape.madds, after=addends)
    return True


def squeeze_excite_rule(node: onnx.NodeProto, selection: CpuSelection) -> bool:
    """Take a squeeze-and-excitation branch as one kernel, which scales the map in place."""
    graph, memory = selection.graph, selection.memory
    branch = branch_of(node, graph)
    if branch is None:
        return False
    x = node.input[0]
    if len(graph.users(x)) != 2 or x in graph.outputs:
        return False  # the map is wanted as it is
    batch, channels, *sides = graph.shape(x)
    if len(branch.w2) != channels:
        return False  # one gate is for all channels
    value = selection.value(x, channels_last=True)
    if value in memory.plan.inputs or memory.is_shared(value, x):
        return False  # it is overwritten
    shape = SqueezeExcite(
        batch, prod(sides), channels, len(branch.w1), branch.reduce, branch.gate, selection.dtype
    )
    kind, kernel = squeeze_excite_kernel(shape, branch, selection)
    arguments: tuple[str | Array, ...] = (value, *kernel.constants)
    memory.append(kind, branch.nodes, kernel, arguments, (value,), shape.madds)
    memory.hold(branch.nodes[-1].output[0], value, channels_last=not graph.is_flat(x))
    return True


def upsample_rule(node: onnx.NodeProto, selection: CpuSelection) -> bool:
    """Take a linear enlarging of an image by whole numbers."""
    graph = selection.graph
    if node.op_type != "Resize" or not graph.is_image(node.input[0]):
        return False
    x = node.input[0]
    enlarging = _enlarging_of(node, graph) if graph.is_value(x) and graph.is_float(x) else None
    processor = selection.kernels.processor
    if enlarging is None or not upsample.is_possible(enlarging, processor):
        return False
    weights = (enlarging.weights(factor) for factor in (enlarging.down, enlarging.across))
    kernel = Kernel(upsample.generate(enlarging, processor), tuple(weights))
    value = selection.memory.value(x, "float32", channels_last=False)
    selection.emit("upsample", [node], kernel, (value,), channels_last=False)
    return True


def top_rule(node: onnx.NodeProto, selection: CpuSelection) -> bool:
    """Take a TopK of a stored number."""
    return write_top(node, selection, selection.kernels.processor)


def _enlarging_of(node: onnx.NodeProto, graph: Graph) -> Upsample | None:
    """Return the shape of a linear enlarging by whole numbers, if a Resize is that.

    Opset 10 has other rules, and two inputs; `spell_resize` leaves other spellings to TVM.
    """
    rule = attribute_of(node, "coordinate_transformation_mode", b"half_pixel")
    centred = rule in (b"half_pixel", b"pytorch_half_pixel")
    if attribute_of(node, "mode", b"nearest") != b"linear" or len(node.input) <= _SCALES:
        return None
    if not (centred or rule == b"asymmetric") or attribute_of(node, "antialias", 0):
        return None
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    factors = [large / small for large, small in zip(after, before, strict=True)]
    if factors[:2] != [1.0, 1.0] or not all(factor.is_integer() for factor in factors):
        return None
    scales = graph.stored.get(node.input[_SCALES])
    if scales is not None and scales.size and scales.tolist() != factors:
        return None
    batch, channels, height, width = before
    return Upsample(batch * channels, height, width, int(factors[2]), int(factors[3]), centred)


# The first that takes a node plans its kernel.
RULES: tuple[Rule[CpuSelection], ...] = (
    frame_rule,
    rules.rename,
    rules.depthwise,
    bfloat_rule,
    stored_pointwise_rule,
    rules.pointwise,
    rules.convolution,
    transposed,
    normalization,
    squeeze_excite_rule,
    upsample_rule,
    top_rule,
    rules.global_pool,
    rules.elementwise,
)
