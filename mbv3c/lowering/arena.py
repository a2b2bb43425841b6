"""Where each value lies: a few blocks of memory that values share one after another.

Values that are alive at the same time need blocks of their own. They are placed one by one, each
in a block that is free for as long as the value lives. Several orders are tried, and the plan that
takes the least memory is kept; one of them is "greedy by size" for shared objects, by Pisarchyk
and Lee, "Efficient Memory Management for Deep Neural Net Inference" (arXiv:2001.03288). Every
value begins where its block begins, as TVM's kernels want it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mbv3c.lowering.plan import Plan

ALIGNMENT = 64  # what TVM's kernels may assume of a tensor


@dataclass(frozen=True)
class Lifetime:
    """A value in the arena.

    Attributes:
        value: name of the value.
        block: number of the block in which the value lies.
        bytes: size of the value.
        first, last: the steps that touch the value first and last.
    """

    value: str
    block: int
    bytes: int
    first: int
    last: int

    def meets(self, other: "Lifetime") -> bool:
        """Say whether both are alive at the same time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """The plan of the arena.

    Attributes:
        blocks: bytes of each block.
        lower_bound: the largest sum of values alive at one step: no arena can be smaller.
        lifetimes: every value of the arena, by first use.
    """

    blocks: tuple[int, ...]
    lower_bound: int
    lifetimes: tuple[Lifetime, ...]

    @property
    def bytes(self) -> int:
        return sum(self.blocks)


# Which value comes first, and which of several free blocks it takes.
_ORDERS: tuple[Callable[[Lifetime], tuple[int, int]], ...] = (
    lambda lifetime: (-lifetime.bytes, lifetime.first),
    lambda lifetime: (-lifetime.bytes, -lifetime.first),
    lambda lifetime: (lifetime.first, -lifetime.bytes),
)
_CHOICES: tuple[Callable[[Iterable[list[Lifetime]]], list[Lifetime]], ...] = (
    lambda blocks: min(blocks, key=_size),
    lambda blocks: max(blocks, key=_size),
)


def plan_arena(plan: Plan) -> Arena:
    """Place all values but the network's input and outputs, which are the caller's."""
    waiting = [
        Lifetime(name, -1, aligned(plan.values[name].bytes, ALIGNMENT), *span)
        for name, span in spans_of(plan).items()
    ]
    plans = (
        _place(sorted(waiting, key=order), choose) for order in _ORDERS for choose in _CHOICES
    )
    blocks = min(plans, key=lambda blocks: sum(map(_size, blocks)))
    placed = [
        Lifetime(lifetime.value, number, lifetime.bytes, lifetime.first, lifetime.last)
        for number, block in enumerate(blocks)
        for lifetime in block
    ]
    alive = [
        sum(lifetime.bytes for lifetime in placed if lifetime.first <= at <= lifetime.last)
        for at in range(len(plan.steps))
    ]
    return Arena(
        blocks=tuple(map(_size, blocks)),
        lower_bound=max(alive, default=0),
        lifetimes=tuple(sorted(placed, key=lambda lifetime: (lifetime.first, lifetime.block))),
    )


def _place(
    values: Iterable[Lifetime], choose: Callable[[Iterable[list[Lifetime]]], list[Lifetime]]
) -> list[list[Lifetime]]:
    blocks: list[list[Lifetime]] = []
    for value in values:
        free = [block for block in blocks if not any(value.meets(other) for other in block)]
        if free:
            choose(free).append(value)
        else:
            blocks.append([value])
    return blocks


def _size(block: list[Lifetime]) -> int:
    return max(value.bytes for value in block)


def spans_of(plan: Plan) -> dict[str, tuple[int, int]]:
    """Return the steps that touch each value first and last, but for inputs and outputs."""
    spans: dict[str, tuple[int, int]] = {}
    for at, step in enumerate(plan.steps):
        for name in step.values:
            spans[name] = (spans.get(name, (at, at))[0], at)
    for name in (*plan.inputs, *plan.outputs):
        spans.pop(name, None)
    return spans


def aligned(size: int, alignment: int) -> int:
    """Return a size that is a multiple of the alignment."""
    return -(-size // alignment) * alignment
