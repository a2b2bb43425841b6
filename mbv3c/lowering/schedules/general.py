"""One schedule for all kernels that TVM writes.

TVM's operators are a few blocks, one after another, each with loops of its own. A block is inlined
into the block that reads it if that is the only one and has no more turns. Of every other block,
the loops over the output are shared among the cores, and the innermost loop is cut into vectors. A
reduction runs around the vectors and keeps its sums in registers; a reduction along the innermost
axis keeps a vector of sums.

A block that none of this fits stays as TVM wrote it.
"""

from collections.abc import Callable
from math import gcd, prod
from typing import Any

import numpy as np
import tvm
from tvm.s_tir import Schedule, ScheduleError
from tvm.sym import detect_linear_equation
from tvm.tirx import IntImm, PrimFunc, Var

Block = Any  # a block of a schedule; TVM has no types for mypy
Loop = Any  # a loop of a schedule

_VECTOR_BYTES = 64  # a whole number of vectors of every processor
_LEAST_PART = 4  # a loop must fill a quarter of _VECTOR_BYTES, which is a vector of NEON
_SUMS_BYTES = 512  # sums that a reduction keeps in registers
_LONG_SUM = 1024  # numbers
_LEAST_PARTS, _MOST_PARTS = 8, 129
_PARALLEL_TURNS = 50_000  # with fewer turns of all loops, waking other cores costs too much
_SPATIAL, _REDUCTION = 0, 2  # TVM's numbers for what an iteration variable is


def schedule(function: PrimFunc, target: tvm.target.Target) -> PrimFunc:
    """Return the function with loops in vectors and on all cores, as far as the rules fit."""
    if not function.attrs or not function.attrs.get("s_tir", False):
        return function  # its loops are in their final form
    return arranged(with_partial_sums(function), cores_of(target))


def cores_of(target: tvm.target.Target) -> int:
    """Return how many cores a target has."""
    return int(target.attrs.get("num-cores", 1))


def arranged(function: PrimFunc, cores: int) -> PrimFunc:
    """Return a function whose long sums are in parts as `schedule` does."""
    plan = Schedule(function)
    for block in _blocks(plan):
        plan = _attempt(plan, _inline, block)
    for block in _blocks(plan):
        plan = _attempt(plan, _arrange, block, cores)
    return plan.mod["main"]


def with_partial_sums(function: PrimFunc, *, in_order: bool = False) -> PrimFunc:
    """Return the function with long sums in parts; the loops are as they were otherwise.

    With `in_order` the loops of what became parts are in the order of the blocks' variables, as
    dlight takes them for granted.
    """
    if not function.attrs or not function.attrs.get("s_tir", False):
        return function
    plan = Schedule(function)
    for block in _blocks(plan):
        plan = _attempt(plan, _in_partial_sums, block, in_order)
    return plan.mod["main"]


def turns(function: PrimFunc) -> int:
    """Return how many turns the loops of all blocks of a function take; 0 without blocks."""
    plan = Schedule(function)
    return sum(_turns(plan, block) for block in _blocks(plan))


def is_worth_sharing(turns: int, cores: int) -> bool:
    """Say whether a function with so many turns of loops gains by other cores."""
    return cores > 1 and turns >= _PARALLEL_TURNS


def _in_partial_sums(plan: Schedule, block: Block, in_order: bool) -> None:
    """Reduce along one long axis in parts, and then the parts.

    One sum of thousands of numbers in fp32 loses three digits, and every step waits for the one
    before. What fills vectors is left to `_arrange`.
    """
    statement = plan.get(block)
    loops = plan.get_loops(block)
    kinds = [variable.iter_type for variable in statement.iter_vars]
    if kinds.count(_REDUCTION) != 1 or len(loops) != len(kinds) or len(statement.writes) != 1:
        return
    at = kinds.index(_REDUCTION)
    extent = int(statement.iter_vars[at].dom.extent)
    parts = max((n for n in range(_LEAST_PARTS, _MOST_PARTS) if extent % n == 0), default=0)
    if extent < _LONG_SUM or not parts or _lanes(plan, block, at):
        return
    _, inner = plan.split(loops[at], [None, parts])
    partial = plan.rfactor(inner, factor_axis=len(statement.writes[0].region))
    if in_order:
        *others, inner = plan.get_loops(partial)
        plan.reorder(inner, *(loop for n, loop in enumerate(others) if n != at), others[at])
        *others, inner = plan.get_loops(block)
        plan.reorder(inner, *others)


def _blocks(plan: Schedule) -> list[Block]:
    try:
        return list(plan.get_child_blocks(plan.get_sblock("root")))
    except ScheduleError:
        return []  # TVM wrote an operator (scatter, say) as plain loops, which has no blocks


def _attempt(plan: Schedule, change: Callable[..., None], *arguments: Any) -> Schedule:
    """Return the changed plan, or the plan as it was if a step of the change is not legal."""
    changed = plan.copy()
    try:
        change(changed, *arguments)
    except ScheduleError:
        return plan
    return changed


def _inline(plan: Schedule, block: Block) -> None:
    """Compute a block inside its only user, unless something would be computed twice."""
    consumers = plan.get_consumers(block)
    if len(consumers) != 1 or not (_is_injective(plan, block) and _is_injective(plan, *consumers)):
        return
    if _turns(plan, consumers[0]) <= _turns(plan, block):
        plan.compute_inline(block)


def _arrange(plan: Schedule, block: Block, cores: int) -> None:
    """Cut a block into vectors, keep its sums in registers, and share it among the cores."""
    loops = plan.get_loops(block)
    statement = plan.get(block)
    kinds = [variable.iter_type for variable in statement.iter_vars]
    if len(loops) != len(kinds) or not set(kinds) <= {_SPATIAL, _REDUCTION}:
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _SPATIAL]
    reduction = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _REDUCTION]
    if not spatial or not statement.writes:
        return
    worth = cores > 1 and _turns(plan, block) >= _PARALLEL_TURNS
    if any(str(read.source.dtype) == "bool" for read in statement.reads):
        # TVM loads vectors of masks as bytes: LLVM refuses them beside what it compares, and
        # `not` makes 254 of 1. One by one they are right, and LLVM makes vectors of that.
        if worth:
            _share(plan, spatial)
        return
    lanes = _lanes(plan, block, loops.index(spatial[-1]))
    if not reduction:
        if not lanes and _is_flat(statement):
            spatial = [plan.fuse(*spatial)]
            lanes = gcd(_turns(plan, block), _most_lanes(plan, block))
        if lanes > 1:
            *outer, inner = spatial
            inner, vector = plan.split(inner, [None, lanes])
            plan.vectorize(vector)
            spatial = [*outer, inner]
        else:
            spatial = _gather(plan, block, spatial)
    elif lanes:
        spatial[-1] = _reduce_around(plan, block, spatial[-1], reduction, lanes)
    elif lanes := _lanes(plan, block, loops.index(reduction[-1])):
        _, vector = plan.split(reduction[-1], [None, lanes])
        block = plan.rfactor(vector, factor_axis=len(statement.writes[0].region))
        loops = plan.get_loops(block)
        reduction = loops[len(spatial) : -1]
        spatial = [
            *loops[: len(spatial)],
            _reduce_around(plan, block, loops[-1], reduction, lanes),
        ]
    if worth:
        _share(plan, spatial)
    if reduction:
        plan.decompose_reduction(block, reduction[0])


def _gather(plan: Schedule, block: Block, loops: list[Loop]) -> list[Loop]:
    """Compute the places that a resize reads as vectors, once for all channels.

    Returns:
        The loops that may share the cores.
    """
    statement = plan.get(block)
    computed = [read for read in statement.reads if any(int(r.extent) != 1 for r in read.region)]
    variables = [variable.var for variable in statement.iter_vars]
    free = [
        loop
        for loop, variable in zip(loops, variables, strict=False)
        if all(any(r.min.same_as(variable) for r in read.region) for read in computed)
    ]
    lanes = gcd(int(plan.get(loops[-1]).extent), _most_lanes(plan, block))
    others = [read for read in statement.reads if read not in computed]
    if (
        not computed
        or not free
        or free[-1] is loops[-1]
        or lanes * _LEAST_PART < _most_lanes(plan, block)
        or not all(_is_adjacent(read, variables[-1]) for read in others)
    ):
        return loops
    inner, vector = plan.split(loops[-1], [None, lanes])
    outer = [loop for loop in loops[:-1] if loop not in free]
    plan.reorder(*outer, inner, *free, vector)
    plan.vectorize(vector)
    return [*outer, inner]


def _reduce_around(
    plan: Schedule, block: Block, inner: Loop, reduction: list[Loop], lanes: int
) -> Loop:
    """Reduce several vectors of outputs at once, in registers; return the loop around them."""
    most = _SUMS_BYTES // (lanes * _item_bytes(plan, block))
    vectors = int(plan.get(inner).extent) // lanes
    count = max(n for n in range(1, max(1, most) + 1) if vectors % n == 0)
    outer, several, vector = plan.split(inner, [None, count, lanes])
    plan.reorder(outer, *reduction, several, vector)
    plan.vectorize(vector)
    plan.unroll(several)
    stored = plan.cache_write(block, 0, "local")
    plan.reverse_compute_at(stored, outer)
    several, vector = plan.split(plan.get_loops(stored)[-1], [None, lanes])
    plan.unroll(several)
    plan.vectorize(vector)
    return outer


def _share(plan: Schedule, loops: list[Loop]) -> None:
    plan.parallel(plan.fuse(*loops) if len(loops) > 1 else loops[0])


def _lanes(plan: Schedule, block: Block, at: int) -> int:
    """Return how many turns of a block's loop make a vector; 0 for none."""
    statement = plan.get(block)
    if len(statement.writes) > 1:
        return 0  # two results, as of a TopK: sums in registers are for one
    if not all(_is_adjacent(read, statement.iter_vars[at].var) for read in statement.reads):
        return 0
    most = _most_lanes(plan, block)
    lanes = gcd(int(statement.iter_vars[at].dom.extent), most)
    return lanes if lanes * _LEAST_PART >= most else 0


def _most_lanes(plan: Schedule, block: Block) -> int:
    return _VECTOR_BYTES // _item_bytes(plan, block)


def _is_flat(statement: Any) -> bool:
    """Say whether a block reads only the places that it writes."""
    variables = [variable.var for variable in statement.iter_vars]
    return all(
        len(read.region) == len(variables)
        and all(place.min.same_as(var) for place, var in zip(read.region, variables, strict=True))
        for read in statement.reads
    )


def _is_adjacent(read: Any, variable: Var) -> bool:
    """Say whether consecutive turns of a variable read adjacent places, or one place."""
    *outer, last = [_step(place, variable) for place in read.region] or [0]
    return last in (0, 1) and all(step == 0 for step in outer)


def _step(place: Any, variable: Var) -> int | None:
    """Return by how much an index grows with a variable; None if that is not constant."""
    if int(place.extent) != 1:
        return None  # an index that is computed may be anywhere
    factor = detect_linear_equation(place.min, [variable])
    return int(factor[0]) if factor and isinstance(factor[0], IntImm) else None


def _is_injective(plan: Schedule, block: Block) -> bool:
    return all(variable.iter_type == _SPATIAL for variable in plan.get(block).iter_vars)


def _turns(plan: Schedule, block: Block) -> int:
    return prod(int(variable.dom.extent) for variable in plan.get(block).iter_vars)


def _item_bytes(plan: Schedule, block: Block) -> int:
    return np.dtype(str(plan.get(block).writes[0].source.dtype)).itemsize
