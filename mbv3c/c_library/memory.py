"""Where values and scratch memory lie in one arena, by offsets.

The virtual machine wants a block for every group of values (`mbv3c.lowering.arena`). A C library
has one block of memory, in which a value may begin anywhere.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mbv3c.lowering.arena import aligned, spans_of
from mbv3c.lowering.plan import Plan

# Where each tenant begins, by its name.
Offsets = dict[str | tuple[int, int], int]

_EXCHANGES = 400


@dataclass(frozen=True)
class Tenant:
    """Bytes that are taken for some of the steps.

    Attributes:
        name: the name of a value, or the step and the number of a scratch buffer.
        bytes: the size, a multiple of the alignment.
        first, last: the steps that touch it first and last.
    """

    name: str | tuple[int, int]
    bytes: int
    first: int
    last: int

    def meets(self, other: "Tenant") -> bool:
        """Say whether both are in use at one time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class FlatArena:
    """The plan of an arena.

    Attributes:
        bytes: the size.
        lower_bound: the largest sum of what is in use at one step: no arena can be smaller.
        offsets: where each tenant begins, by its name.
    """

    bytes: int
    lower_bound: int
    offsets: Offsets


# Which tenant is placed first. The first order is "greedy by size" for offsets, by Pisarchyk and
# Lee, "Efficient Memory Management for Deep Neural Net Inference" (arXiv:2001.03288).
_ORDERS: tuple[Callable[[Tenant], tuple[int, int]], ...] = (
    lambda tenant: (-tenant.bytes, tenant.first),
    lambda tenant: (-tenant.bytes, -tenant.first),
    lambda tenant: (tenant.first, -tenant.bytes),
    lambda tenant: (-tenant.bytes * (tenant.last - tenant.first + 1), tenant.first),
    lambda tenant: (tenant.first - tenant.last, -tenant.bytes),
)


def plan_flat_arena(plan: Plan, scratch: Sequence[Sequence[int]], alignment: int) -> FlatArena:
    """Place all values but the network's inputs and outputs, which are the caller's.

    Args:
        plan: the steps.
        scratch: the bytes of each scratch buffer, for each step.
        alignment: of everything, in bytes.
    """
    return place(list(_tenants(plan, scratch, alignment)), len(plan.steps))


def place(tenants: Sequence[Tenant], steps: int) -> FlatArena:
    """Place what is taken for some of so many steps."""
    in_use = (
        sum(tenant.bytes for tenant in tenants if tenant.first <= at <= tenant.last)
        for at in range(steps)
    )
    bound = max(in_use, default=0)
    offsets = _best(tenants, bound)
    return FlatArena(_end(tenants, offsets), bound, offsets)


def _best(tenants: Sequence[Tenant], bound: int) -> Offsets:
    """Return the smallest plan that several orders give, and then exchanges of two tenants."""
    orders = [sorted(tenants, key=order) for order in _ORDERS]
    best = min(orders, key=lambda order: _end(tenants, _placed(order)))
    smallest = _end(tenants, _placed(best))
    dice = random.Random(0)  # noqa: S311 - equal plans give equal bytes
    for _ in range(_EXCHANGES if len(tenants) > 1 else 0):
        if smallest == bound:
            break
        order = list(best)
        one, other = dice.sample(range(len(order)), 2)
        order[one], order[other] = order[other], order[one]
        end = _end(tenants, _placed(order))
        if end <= smallest:
            best, smallest = order, end
    return _placed(best)


def _tenants(plan: Plan, scratch: Sequence[Sequence[int]], alignment: int) -> Iterable[Tenant]:
    for name, span in spans_of(plan).items():
        yield Tenant(name, aligned(plan.values[name].bytes, alignment), *span)
    for at, sizes in enumerate(scratch):
        for number, size in enumerate(sizes):
            yield Tenant((at, number), aligned(size, alignment), at, at)


def _placed(tenants: Iterable[Tenant]) -> Offsets:
    """Place tenants one by one, each in the smallest gap that is free for as long as it lives."""
    offsets: Offsets = {}
    placed: list[Tenant] = []
    for tenant in tenants:
        others = sorted(
            (offsets[other.name], other.bytes) for other in placed if other.meets(tenant)
        )
        best, gap, at = None, None, 0
        for offset, size in others:
            free = offset - at
            if free >= tenant.bytes and (gap is None or free < gap):
                best, gap = at, free
            at = max(at, offset + size)
        offsets[tenant.name] = at if best is None else best
        placed.append(tenant)
    return offsets


def _end(tenants: Sequence[Tenant], offsets: Offsets) -> int:
    return max((offsets[tenant.name] + tenant.bytes for tenant in tenants), default=0)
