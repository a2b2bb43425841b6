"""Schedule fused TensorIR for a target."""

from collections.abc import Callable

import tvm
from tvm.tirx import PrimFunc

# A rule schedules a function or returns None to leave it to the next one.
ScheduleRule = Callable[[PrimFunc, tvm.target.Target], PrimFunc | None]

RULES: tuple[ScheduleRule, ...] = ()


def schedule(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Apply the first rule that takes it to every TensorIR function of a lowered module.

    What no rule takes keeps the loops that TVM wrote: correct, not fast.
    """
    scheduled = tvm.IRModule(module.functions, attrs=module.attrs)
    for name, function in module.functions_items():
        if isinstance(function, PrimFunc):
            scheduled[name] = _first(function, target)
    return scheduled


def _first(function: PrimFunc, target: tvm.target.Target) -> PrimFunc:
    for rule in RULES:
        scheduled = rule(function, target)
        if scheduled is not None:
            return scheduled
    return function
