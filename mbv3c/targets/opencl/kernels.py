"""Kernels for GPUs, and which of them computes each node of a rewritten graph.

Of a squeeze-and-excitation branch only the gates are computed. The depthwise convolution before it
writes sums beside its map, and the pointwise convolution after it multiplies the map by the gates
as it reads it. A map that anything else reads is scaled by a kernel of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import onnx
import tvm
from tvm.s_tir import dlight
from tvm.tirx import PrimFunc

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
from mbv3c.lowering.schedules.emit import LINEAR
from mbv3c.lowering.select import selection as rules
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.memory import Deferred, Memory
from mbv3c.lowering.select.nodes import (
    Branch,
    branch_of,
    convolution_of,
    product_of,
    with_activation,
)
from mbv3c.lowering.select.normalized import normalization
from mbv3c.lowering.select.selection import Rule, Selection, run_rules
from mbv3c.lowering.select.transposed import transposed
from mbv3c.targets.opencl.gpus import Gpu
from mbv3c.targets.opencl.schedules import convolution, depthwise, gates, launch, pointwise, simple
from mbv3c.targets.opencl.schedules.depthwise import DepthwiseMap
from mbv3c.targets.opencl.schedules.gates import Gates
from mbv3c.targets.opencl.schedules.pointwise import Product

# Counts up when a kernel's code changes though shape and knobs do not, as
# `mbv3c.targets.cpu.kernels.VERSION` does for CPUs.
VERSION = 1


@dataclass(frozen=True)
class GpuKernels:
    """Kernels for a GPU.

    Attributes:
        gpu: the GPU that runs the kernels.
        choices: the knobs that were measured to be best on that GPU.
    """

    gpu: Gpu
    choices: Choices = NO_CHOICES

    def product(self, product: Product, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("pointwise", product)
        constants = (pointwise.pack(weights), bias)
        return Kernel(pointwise.generate(product, tile), constants, tile, product, origin)

    def pointwise(self, shape: Pointwise, weights: Floats, bias: Floats) -> Kernel:
        return self.product(Product(shape), weights, bias)

    def depthwise_map(self, shape: DepthwiseMap, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("depthwise", shape)
        constants = (pack_depthwise(weights), bias)
        return Kernel(depthwise.generate(shape, tile), constants, tile, shape, origin)

    def depthwise(self, shape: Depthwise, weights: Floats, bias: Floats) -> Kernel:
        return self.depthwise_map(DepthwiseMap(shape), weights, bias)

    def convolution(self, shape: Convolution, weights: Floats, bias: Floats) -> Kernel:
        tile, origin = self._choose("convolution", shape)
        constants = (convolution.pack(weights), bias)
        return Kernel(convolution.generate(shape, tile), constants, tile, shape, origin)

    def gates(self, shape: Gates, w1: Floats, b1: Floats, w2: Floats, b2: Floats) -> Kernel:
        tile, origin = self._choose("gates", shape)
        constants = (gates.pack(w1), b1, gates.pack(w2), b2)
        function = gates.generate(shape, tile, self.gpu.language)
        return Kernel(function, constants, tile, shape, origin)

    def global_pool(self, shape: GlobalPool) -> Kernel:
        return Kernel(simple.generate_pool(shape, self.gpu))

    def elementwise(self, shape: Elementwise) -> Kernel:
        return Kernel(simple.generate_elementwise(shape, self.gpu))

    def scale(self, shape: Elementwise, gates: str) -> Kernel:
        """Write the product of a map and gates; `gates` is the gates' element type."""
        return Kernel(simple.generate_elementwise(shape, self.gpu, gates))

    def transpose(self, shape: Transpose) -> Kernel:
        return Kernel(simple.generate_transpose(shape, self.gpu))

    def schedule(self, function: PrimFunc, target: tvm.target.Target) -> PrimFunc:
        """Bind the outputs of TVM's own operators to work-items, by dlight's general rule.

        Its rules for reductions stage values in local memory, which Mali does not have. With
        apache-tvm 0.27 they also make a Small for Adreno that computes something else.
        """
        with target:
            apply = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())
            parts = general.with_partial_sums(function, in_order=True)
            return apply(tvm.IRModule({"main": parts}))["main"]

    def operator(
        self,
        function: PrimFunc,
        target: tvm.target.Target,
        tunable: bool,
    ) -> Kernel:
        """Write one of TVM's operators; a search has nothing to choose.

        MetaSchedule's space for GPUs stages what is read in local memory, see `schedule`.
        """
        return Kernel(self.schedule(function, target))

    def _choose(self, kind: str, shape: Any) -> tuple[Any, str]:
        """Return the knobs for a shape, and where they come from."""
        return chosen(SCHEDULES[kind], self.choices, kind, shape, self.gpu)


# The modules of `schedules` that have knobs, by the kind of their steps.
SCHEDULES: dict[str, Any] = {
    "pointwise": pointwise,
    "depthwise": depthwise,
    "convolution": convolution,
    "gates": gates,
}


def select_gpu(
    model: onnx.ModelProto,
    gpu: Gpu,
    target: tvm.target.Target,
    dtype: str = "float32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
) -> Plan:
    """Return the plan of a rewritten graph with fixed shapes.

    The kernels store what is float32 in the graph as `dtype`, and add in single precision. Inputs,
    outputs and what the fallback computes keep their types; so do nodes whose names match a
    pattern of `keep_float`. Kernels that `choices` knows are as it says.

    Raises:
        ModelError: a node has no known shape, the fallback cannot lower it, or `dtype` cannot
            hold its weights.
    """
    graph, kernels = Graph(QuantizedGraph(model)), GpuKernels(gpu, choices)
    memory = Memory(graph, kernels)
    return run_rules(GpuSelection(graph, kernels, memory, target, dtype, keep_float), RULES)


@dataclass(frozen=True)
class Sums:
    """Sums of a map by channel.

    Attributes:
        value: the value [batch, parts, channels] that holds them.
        parts: number of sums per channel.
        places: number of places of the map that a mean divides all sums of a channel by.
    """

    value: str
    parts: int
    places: int


@dataclass
class GpuSelection(Selection):
    """What a rule for GPUs works with.

    Attributes:
        sums: sums that lie beside a map, by the map's name.
        unscaled: by name of a scaled map, the map that it is made of, and the value of its gates.
    """

    kernels: GpuKernels
    sums: dict[str, Sums] = field(default_factory=dict, init=False)
    unscaled: dict[str, tuple[str, str]] = field(default_factory=dict, init=False)


def depthwise_with_sums(node: onnx.NodeProto, selection: GpuSelection) -> bool:
    """Take a depthwise convolution whose map goes into a squeeze-and-excitation branch."""
    graph, memory, conv = selection.graph, selection.memory, convolution_of(node, selection.graph)
    if conv is None or not conv.is_depthwise:
        return False
    covered, activation = with_activation(node, graph)
    result = covered[-1].output[0]
    if all(_gated_branch(user, graph) is None for user in graph.users(result)):
        return False
    plain = Depthwise(conv.batch, conv.inputs, *conv.axes, activation, selection.dtype)
    shape = DepthwiseMap(plain, sums=True)
    kernel = selection.kernels.depthwise_map(shape, conv.weights, conv.bias)
    parts = depthwise.parts(shape, kernel.knobs)
    extents = (conv.batch, parts, conv.inputs)
    sums = memory.add_value(f"{result}.sums", extents, launch.SUM)
    x = selection.value(node.input[0], channels_last=True)
    last = memory.add_result(result, selection.dtype)
    arguments = (x, *kernel.constants, result, sums)
    memory.append("depthwise", covered, kernel, arguments, (result, sums), plain.madds)
    memory.hold(result, result, channels_last=last)
    selection.sums[result] = Sums(sums, parts, prod(graph.shape(result)[2:]))
    return True


def pointwise_rule(node: onnx.NodeProto, selection: GpuSelection) -> bool:
    """Take a 1x1 convolution or a matrix product, with the gates of its map before it."""
    graph, product = selection.graph, product_of(node, selection.graph)
    if product is None:
        return False
    x = node.input[0]
    gates: tuple[str, ...] = ()
    if x in selection.unscaled and not selection.memory.is_ready(x):
        x, gate = selection.unscaled[x]
        gates = (gate,)
    covered, shape, addends = rules.fused_product(node, product, selection)
    result = covered[-1].output[0]
    leaves = result in graph.outputs and not graph.users(result) and graph.is_flat(result)
    dtype = graph.dtype(result) if leaves else selection.dtype
    images = graph.shape(x)[0] if gates else 1
    kernel = selection.kernels.product(
        Product(shape, images, bool(gates), dtype), product.weights, product.bias
    )
    value = selection.value(x, channels_last=product.channels_last)
    selection.emit("pointwise", covered, kernel, (value, *gates), shape.madds, after=addends)
    return True


def squeeze_excite_gates(node: onnx.NodeProto, selection: GpuSelection) -> bool:
    """Take a squeeze-and-excitation branch but for the product with what was pooled."""
    graph, memory = selection.graph, selection.memory
    branch = _gated_branch(node, graph)
    if branch is None or not graph.is_value(node.input[0]):
        return False
    x = node.input[0]
    result, (batch, channels) = branch.nodes[-1].output[0], graph.shape(x)[:2]
    sums = selection.sums[x] if x in selection.sums else _pooled(x, selection)
    shape = Gates(
        batch,
        sums.parts,
        sums.places,
        channels,
        len(branch.w1),
        branch.reduce,
        branch.gate,
        selection.dtype,
        memory.plan.values[sums.value].dtype,
    )
    kernel = selection.kernels.gates(shape, branch.w1, branch.b1, branch.w2, branch.b2)
    written = tuple(
        memory.add_value(f"{result}.{name}", (batch, extent), launch.SUM)
        for name, extent in (("gates", channels), ("means", channels), ("reduced", shape.squeezed))
    )
    arguments: tuple[str | Array, ...] = (sums.value, *kernel.constants, *written)
    memory.append("gates", branch.nodes, kernel, arguments, written, shape.madds)
    selection.unscaled[result] = (x, written[0])
    memory.deferred[result] = Deferred(partial(_scale, result, selection), channels_last=True)
    return True


# The first that takes a node plans its kernel.
RULES: tuple[Rule[GpuSelection], ...] = (
    rules.rename,
    depthwise_with_sums,
    rules.depthwise,
    pointwise_rule,
    rules.convolution,
    transposed,
    normalization,
    squeeze_excite_gates,
    rules.global_pool,
    rules.elementwise,
)


def _gated_branch(pool: onnx.NodeProto, graph: Graph) -> Branch | None:
    """Return the branch that begins with a node, if it has a gate for every channel."""
    branch = branch_of(pool, graph)
    if branch is None or len(branch.w2) != graph.shape(pool.input[0])[1]:
        return None
    return branch


def _pooled(x: str, selection: GpuSelection) -> Sums:
    """Pool a map that no kernel wrote sums of; its means are the sums of one place."""
    batch, channels, *sides = selection.graph.shape(x)
    source = selection.value(x, channels_last=True)
    shape = GlobalPool(batch, prod(sides), channels, selection.dtype)
    kernel = selection.kernels.global_pool(shape)
    means = selection.memory.add_value(f"{x}.means", (batch, channels), selection.dtype)
    selection.memory.append("global_pool", (), kernel, (source, means), (means,))
    return Sums(means, parts=1, places=1)


def _scale(name: str, selection: GpuSelection) -> None:
    """Multiply a map by its gates for what cannot do that as it reads it."""
    graph, memory, (source, gates) = selection.graph, selection.memory, selection.unscaled[name]
    batch, channels, *sides = graph.shape(name)
    shape = Elementwise(batch, prod(sides), channels, "multiply", True, LINEAR, selection.dtype)
    kernel = selection.kernels.scale(shape, memory.plan.values[gates].dtype)
    x = selection.value(source, channels_last=True)
    last = memory.add_result(name, selection.dtype)
    memory.append("elementwise", (), kernel, (x, gates, name), (name,))
    memory.hold(name, name, channels_last=last)
