"""ONNX to a module of scheduled TensorIR kernels."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import tvm

from mbv3c.lowering.arena import Arena, plan_arena
from mbv3c.lowering.assemble import assemble
from mbv3c.lowering.gpu import Gpu
from mbv3c.lowering.kernels import NO_CHOICES, Choices
from mbv3c.lowering.limits import check_limits
from mbv3c.lowering.machine import PRECISIONS, Machine
from mbv3c.lowering.onnx_import import check_operators
from mbv3c.lowering.plan import Plan
from mbv3c.lowering.quantized import read_pairs
from mbv3c.lowering.select_cpu import select
from mbv3c.lowering.select_gpu import select_gpu
from mbv3c.lowering.select_quantized import select_quantized


@dataclass(frozen=True)
class Lowered:
    """A lowered network.

    Attributes:
        plan: what runs.
        arena: where its values lie.
        module: the kernels, and `main`, which calls them.
        kernels: the name in `module` of every step's kernel.
    """

    plan: Plan
    arena: Arena
    module: tvm.IRModule
    kernels: tuple[str, ...]


def lower(
    model: onnx.ModelProto,
    machine: Machine,
    target: tvm.target.Target,
    precision: str = "fp32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
) -> Lowered:
    """Lower a rewritten graph with fixed shapes to kernels of a precision of `PRECISIONS`.

    For int8 the graph is one with pairs of QuantizeLinear and DequantizeLinear. For fp16, nodes
    whose names match a pattern of `keep_float` stay in fp32. Kernels that `choices` knows
    are as it says.

    Raises:
        UnknownOperatorsError: TVM has no importer for some operators.
        ModelError: a node has no known shape, or TVM cannot lower it.
    """
    check_operators(model)
    if PRECISIONS[precision] == "int8":
        plan = select_quantized(read_pairs(model), machine, target, choices)
    else:
        plan = select(model, machine, target, PRECISIONS[precision], keep_float, choices)
    return assembled(plan)


def lower_for_gpu(
    model: onnx.ModelProto,
    gpu: Gpu,
    device: str,
    target: tvm.target.Target,
    precision: str = "fp32",
    keep_float: Sequence[str] = (),
    choices: Choices = NO_CHOICES,
) -> Lowered:
    """Lower a rewritten graph with fixed shapes to the kernels of a GPU, in fp32 or fp16.

    `device` is what messages call it. For fp16, nodes whose names match a pattern of `keep_float`
    stay in fp32. Kernels that `choices` knows are as it says.

    Raises:
        UnknownOperatorsError: TVM has no importer for some operators.
        ModelError: a node has no known shape, or TVM cannot lower it.
        LimitError: a kernel asks for more than the GPU has.
    """
    check_operators(model)
    plan = select_gpu(model, gpu, target, PRECISIONS[precision], keep_float, choices)
    check_limits(plan, gpu, device)
    return assembled(plan)


def assembled(plan: Plan) -> Lowered:
    """Return a plan with its memory laid out, as a module."""
    arena = plan_arena(plan)
    module, kernels = assemble(plan, arena)
    return Lowered(plan, arena, module, kernels)
