"""ONNX to a module of scheduled TensorIR kernels."""

from dataclasses import dataclass

import tvm

from mbv3c.lowering.arena import Arena, plan_arena
from mbv3c.lowering.assemble import assemble
from mbv3c.lowering.plan import Plan


@dataclass(frozen=True)
class Lowered:
    """A lowered network.

    Attributes:
        plan: the steps and their values.
        arena: the places of the values in memory.
        module: the kernels, and `main`, which calls them.
        kernels: the name in `module` of each step's kernel.
    """

    plan: Plan
    arena: Arena
    module: tvm.IRModule
    kernels: tuple[str, ...]


def assembled(plan: Plan) -> Lowered:
    """Lay the memory of a plan out and assemble a module."""
    arena = plan_arena(plan)
    module, kernels = assemble(plan, arena)
    return Lowered(plan, arena, module, kernels)
