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
        plan: what runs.
        arena: where its values lie.
        module: the kernels, and `main`, which calls them.
        kernels: the name in `module` of every step's kernel.
    """

    plan: Plan
    arena: Arena
    module: tvm.IRModule
    kernels: tuple[str, ...]


def assembled(plan: Plan) -> Lowered:
    """Return a plan with its memory laid out, as a module."""
    arena = plan_arena(plan)
    module, kernels = assemble(plan, arena)
    return Lowered(plan, arena, module, kernels)
