"""Choose a kernel for every node of a rewritten graph that a CPU runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import onnx
import tvm

from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.lowering.plan import Array, Plan
from mbv3c.lowering.qdq import QuantizedGraph
from mbv3c.lowering.select import rules
from mbv3c.lowering.select.graph import Graph
from mbv3c.lowering.select.memory import Memory
from mbv3c.lowering.select.nodes import branch_of
from mbv3c.lowering.select.selection import Rule, Selection, run_rules
from mbv3c.targets.cpu.kernels import CpuKernels
from mbv3c.targets.cpu.processor import Processor
from mbv3c.targets.cpu.schedules.squeeze_excite import SqueezeExcite


def select(
    model: onnx.ModelProto,
    processor: Processor,
    target: tvm.target.Target,
    dtype: str = "float32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
) -> Plan:
    """Return the plan of a rewritten graph with fixed shapes.

    The kernels hold and compute what is float32 in the graph as `dtype`. Inputs, outputs and what
    the fallback computes keep their types; so do nodes whose names match a pattern of
    `keep_float`. Kernels that `choices` knows are as it says.

    Raises:
        ModelError: a node has no known shape, the fallback cannot lower it, or `dtype` cannot
            hold its weights.
    """
    graph, kernels = Graph(QuantizedGraph(model)), CpuKernels(processor, choices)
    memory = Memory(graph, kernels)
    return run_rules(CpuSelection(graph, kernels, memory, target, dtype, keep_float), RULES)


@dataclass
class CpuSelection(Selection):
    """What a rule for CPUs works with."""

    kernels: CpuKernels


def squeeze_excite(node: onnx.NodeProto, selection: CpuSelection) -> bool:
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
    if value == memory.plan.input or memory.is_shared(value, x):
        return False  # it is overwritten
    shape = SqueezeExcite(
        batch,
        prod(sides),
        channels,
        len(branch.w1),
        branch.reduce,
        branch.gate,
        selection.dtype,
    )
    kernel = selection.kernels.squeeze_excite(shape, branch.w1, branch.b1, branch.w2, branch.b2)
    arguments: tuple[str | Array, ...] = (value, *kernel.constants)
    memory.append("squeeze_excite", branch.nodes, kernel, arguments, (value,), shape.madds)
    memory.hold(branch.nodes[-1].output[0], value, channels_last=not graph.is_flat(x))
    return True


# The first that takes a node plans its kernel.
RULES: tuple[Rule[CpuSelection], ...] = (
    rules.rename,
    rules.depthwise,
    rules.pointwise,
    rules.convolution,
    squeeze_excite,
    rules.global_pool,
    rules.elementwise,
)
