"""Lower and build a network for whatever processor a target has: a CPU, or a GPU beside one."""

from collections.abc import Sequence
from pathlib import Path

import onnx
import tvm

from mbv3c.lowering.gpu import Gpu
from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.lowering.lower import Lowered, lower, lower_for_gpu
from mbv3c.lowering.machine import Machine
from mbv3c.targets import cpu, opencl
from mbv3c.targets.cores import machine
from mbv3c.targets.gpus import GPUS
from mbv3c.targets.table import Target


def processor_of(target: Target) -> Machine | Gpu:
    """Return what kernels must know of the processor that runs them; `target` must be resolved."""
    if target.gpu:
        return GPUS[target.gpu].gpu
    return machine(target, cpu.tvm_target(target))


def lower_for(
    model: onnx.ModelProto,
    target: Target,
    precision: str = "fp32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
) -> Lowered:
    """Lower a rewritten graph for a resolved target, as `lower` and `lower_for_gpu` do.

    Raises:
        UnknownOperatorsError: TVM has no importer for some operators.
        ModelError: a node has no known shape, or TVM cannot lower it.
        LimitError: a kernel asks for more than the GPU has.
    """
    processor = processor_of(target)
    if isinstance(processor, Gpu):
        goal = opencl.tvm_target(target)
        return lower_for_gpu(model, processor, target.name, goal, precision, keep_float, choices)
    return lower(model, processor, cpu.tvm_target(target), precision, keep_float, choices)


def build(
    module: tvm.IRModule, target: Target, output: Path, *, symbols: bool = False
) -> dict[str, str]:
    """Build a module for a resolved target; return the source of every kernel of a GPU by name.

    Raises:
        ToolError: the linker failed.
    """
    if target.gpu:
        return opencl.build(module, target, output, symbols=symbols)
    cpu.build(module, target, output, symbols=symbols)
    return {}
