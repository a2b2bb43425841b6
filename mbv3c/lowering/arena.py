"""Where each value lies: a few blocks of memory that values share one after another.

Values that are alive at the same time need blocks of their own. Placing the largest first, each in
the smallest block that is free for as long as it lives, is the "greedy by size" for shared objects
of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference"
(arXiv:2001.03288). Every value begins where its block begins, as TVM's kernels want it.
"""

from dataclasses import dataclass

from mbv3c.lowering.plan import Plan

ALIGNMENT = 64  # what TVM's kernels may assume of a tensor


@dataclass(frozen=True)
class Lifetime:
    """A value in the arena.

    Attributes:
        value: its name.
        block: number of the block in which it lies.
        bytes: its size.
        first, last: the steps that touch it first and last.
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
        lifetimes: every value in it, by first use.
    """

    blocks: tuple[int, ...]
    lower_bound: int
    lifetimes: tuple[Lifetime, ...]

    @property
    def bytes(self) -> int:
        return sum(self.blocks)


def plan_arena(plan: Plan) -> Arena:
    """Place all values but the network's input and outputs, which are the caller's."""
    spans: dict[str, tuple[int, int]] = {}
    for at, step in enumerate(plan.steps):
        for name in step.values:
            spans[name] = (spans.get(name, (at, at))[0], at)
    for name in (plan.input, *plan.outputs):
        spans.pop(name, None)
    waiting = [
        Lifetime(name, -1, _aligned(plan.values[name].bytes), *span)
        for name, span in spans.items()
    ]
    blocks: list[list[Lifetime]] = []  # so the first of a block is its largest
    for one in sorted(waiting, key=lambda one: (-one.bytes, one.first)):
        free = [block for block in blocks if not any(one.meets(other) for other in block)]
        if free:
            min(free, key=lambda block: block[0].bytes).append(one)
        else:
            blocks.append([one])
    placed = [
        Lifetime(one.value, number, one.bytes, one.first, one.last)
        for number, block in enumerate(blocks)
        for one in block
    ]
    alive = [
        sum(one.bytes for one in placed if one.first <= at <= one.last)
        for at in range(len(plan.steps))
    ]
    return Arena(
        blocks=tuple(block[0].bytes for block in blocks),
        lower_bound=max(alive, default=0),
        lifetimes=tuple(sorted(placed, key=lambda one: (one.first, one.block))),
    )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
