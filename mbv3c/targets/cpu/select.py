"""Choose a kernel for every node of a rewritten graph that a CPU runs."""

from collections.abc import Sequence
from math import prod

import onnx
import tvm

from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.lowering.plan import Array, Plan
from mbv3c.lowering.select import Selector
from mbv3c.targets.cpu.kernels import CpuKernels
from mbv3c.targets.cpu.processor import Processor
from mbv3c.targets.cpu.schedules.squeeze_excite import SqueezeExcite


def select(
    model: onnx.ModelProto,
    machine: Processor,
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
    return CpuSelector(model, machine, target, dtype, keep_float, choices).run()


class CpuSelector(Selector):
    """A squeeze-and-excitation branch is one kernel, which scales the map in place."""

    def __init__(
        self,
        model: onnx.ModelProto,
        machine: Processor,
        target: tvm.target.Target,
        dtype: str,
        keep_float: Sequence[str] = (),
        choices: Choices = NO_CHOICES,
    ) -> None:
        self._cpu_kernels = CpuKernels(machine, choices)
        super().__init__(model, self._cpu_kernels, target, dtype, keep_float)
        self._machine = machine

    def _squeeze_excite(self, node: onnx.NodeProto) -> bool:
        """Take pool → 1x1 → activation → 1x1 → activation → Mul with what was pooled."""
        branch = self._branch(node)
        if branch is None or len(self._users[node.input[0]]) != 2:
            return False
        x = node.input[0]
        if x in self._outputs or branch.w2.shape[0] != self._shape(x)[1]:
            return False  # is wanted as it is, or one gate is for all channels
        batch, channels, *sides = self._shape(x)
        shape = SqueezeExcite(
            batch,
            prod(sides),
            channels,
            branch.w1.shape[0],
            branch.reduce,
            branch.gate,
            self._kernel_type,
        )
        value = self._value(x, channels_last=True)
        if value == self._plan.input or self._is_shared(value, x):
            return False  # it is overwritten
        kernel = self._cpu_kernels.squeeze_excite(
            shape, branch.w1, branch.b1, branch.w2, branch.b2
        )
        arguments: tuple[str | Array, ...] = (value, *kernel.constants)
        self._append(
            "squeeze_excite",
            branch.nodes,
            kernel.function,
            arguments,
            value,
            shape.madds,
            kernel.knobs,
        )
        self._note(kernel)
        self._hold(branch.nodes[-1].output[0], value, channels_last=not self._is_flat(x))
        return True
