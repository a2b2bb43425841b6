"""Libraries in which kernels of networks run once each, one after the other, to count them.

    def main(x):
        kernel_1(a, weights, b)
        kernel_2(c, weights, d)
        …
        return copy(x)

What a kernel reads is memory that holds anything, as nothing that our kernels do depends on it.
TVM's own operators may, as a search for the largest does: they read numbers that were drawn.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mbv3c import bundle as bundles
from mbv3c.feeds import save_array
from mbv3c.lowering.lower import assembled
from mbv3c.lowering.plan import Array, Elementwise, Plan, Step, Value
from mbv3c.lowering.schedules.emit import LINEAR
from mbv3c.tuning.contest import TunableKernels
from mbv3c.tuning.database import draw

_INPUT, _OUTPUT = "x", "y"
_ANYTHING = frozenset({"float32", "float16", "int8", "uint8"})  # types whose values do not matter


def write_steps(steps: Sequence[Step], kernels: TunableKernels, folder: Path) -> tuple[str, ...]:
    """Build a library in which every step runs once, into a folder that is laid out as a bundle.

    Returns:
        The name of each step's kernel; equal kernels have one.

    Raises:
        Mbv3cError: it cannot be built or linked.
    """
    lowered = assembled(plan_of(steps, kernels))
    golden = folder / bundles.GOLDEN_INPUT
    golden.parent.mkdir(parents=True)
    save_array(golden, np.zeros((1,), np.float32))
    kernels.build(lowered.module, folder / bundles.LIBRARY)
    return lowered.kernels[: len(steps)]


def plan_of(steps: Sequence[Step], kernels: TunableKernels) -> Plan:
    """Return a plan that runs every step once, and copies its input to its output."""
    random = np.random.default_rng(0)
    plan = Plan((_INPUT,), ((1,),), (_OUTPUT,), ((1,),))
    plan.values |= {_INPUT: Value((1,)), _OUTPUT: Value((1,))}
    for number, step in enumerate(steps):
        renamed: dict[str, str | Array] = {}
        for parameter, argument in zip(step.function.params, step.arguments, strict=True):
            if not isinstance(argument, str) or argument in renamed:
                continue
            shape = tuple(int(extent) for extent in parameter.shape)
            dtype = str(parameter.dtype)
            is_read = argument not in step.writes
            if is_read and (step.operator or dtype not in _ANYTHING):
                renamed[argument] = draw(random, shape).astype(dtype)
            else:
                renamed[argument] = f"{number}.{argument}"
                plan.values[f"{number}.{argument}"] = Value(shape, dtype)
        plan.steps.append(
            Step(
                step.kind,
                step.nodes,
                step.function,
                tuple(renamed[each] if isinstance(each, str) else each for each in step.arguments),
                tuple(str(renamed[each]) for each in step.writes),
            )
        )
    copy = kernels.elementwise(Elementwise(1, 1, 1, "", False, LINEAR))
    plan.steps.append(Step("copy", (), copy, (_INPUT, _OUTPUT), (_OUTPUT,)))
    return plan
