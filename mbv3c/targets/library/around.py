"""What TVM's runtime executes around the kernels of a network, from a few small programs.

It is a sum over calls of kernels, tensors and blocks of memory, whatever the kernels do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tvm.tirx import PrimFunc

from mbv3c.lowering.arena import plan_arena
from mbv3c.lowering.plan import Plan, Step, Value

_INPUT, _OUTPUT = "x", "y"
_MANY, _BLOCKS = 32, 8


@dataclass(frozen=True)
class Around:
    """What is executed around kernels.

    Attributes:
        start: of a network without kernels.
        call: of every call.
        tensor: of every tensor in the arena.
        block: of every block of the arena.
    """

    start: float
    call: float
    tensor: float
    block: float

    def of(self, plan: Plan) -> float:
        """Return what is executed around the kernels of a plan."""
        calls, tensors, blocks = _counts(plan)
        return self.start + self.call * calls + self.tensor * tensors + self.block * blocks


def around(copy: PrimFunc, count: Callable[[Sequence[Plan]], Sequence[float]]) -> Around:
    """Find out what is executed around kernels.

    Args:
        copy: a kernel that copies one number.
        count: returns what is executed around the kernels of each of some plans.
    """
    one, calls, tensors, blocks = count(_programs(copy))
    call = (calls - one) / _MANY
    # Tensors that follow one another share a block.
    both = (blocks - one - (2 * _BLOCKS - 1) * call, tensors - one - _MANY * call)
    tensor = (both[1] - both[0] / _BLOCKS) / (_MANY - 1)
    block = both[0] / _BLOCKS - tensor
    return Around(one - call, call, tensor, block)


def _programs(copy: PrimFunc) -> Sequence[Plan]:
    """Return programs of one call, of more calls, of more tensors, and of more blocks."""
    names = [f"v{number}" for number in range(_MANY)]
    return (
        _plan(copy, [(_INPUT, _OUTPUT)]),
        _plan(copy, [(_INPUT, _OUTPUT)] * (_MANY + 1)),
        _plan(copy, [*((_INPUT, name) for name in names), (_INPUT, _OUTPUT)]),
        _plan(
            copy,
            [
                *((_INPUT, name) for name in names[:_BLOCKS]),
                *((name, _OUTPUT) for name in names[:_BLOCKS]),
            ],
        ),
    )


def _plan(copy: PrimFunc, calls: Sequence[tuple[str, str]]) -> Plan:
    values: Mapping[str, Value] = {name: Value((1,)) for pair in calls for name in pair}
    steps = [Step("copy", (), copy, pair, pair[1:]) for pair in calls]
    return Plan((_INPUT,), ((1,),), (_OUTPUT,), ((1,),), dict(values), steps)


def _counts(plan: Plan) -> tuple[int, int, int]:
    """Return the number of calls, of tensors in the arena, and of its blocks."""
    arena = plan_arena(plan)
    inside = {lifetime.value for lifetime in arena.lifetimes}
    tensors = {
        (argument, tuple(int(extent) for extent in parameter.shape))
        for step in plan.steps
        for parameter, argument in zip(step.function.params, step.arguments, strict=True)
        if isinstance(argument, str) and argument in inside
    }
    return len(plan.steps), len(tensors), len(arena.blocks)
