"""Where values lie in one arena."""

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.c_library.memory import plan_flat_arena
from mbv3c.lowering.plan import Plan, Step, Value

ALIGNMENT = 16


def plan_of(spans: list[tuple[int, int, int]], steps: int) -> Plan:
    """Return a plan whose values have sizes, and are touched by steps from a first to a last."""
    plan = Plan(("x",), ((1,),), ("y",), ((1,),))
    plan.values = {"x": Value((1,)), "y": Value((1,))}
    touched: list[list[str]] = [["x"] for _ in range(steps)]
    for number, (size, first, last) in enumerate(spans):
        name = f"v{number}"
        plan.values[name] = Value((size,), "int8")
        for at in {first, last}:
            touched[at].append(name)
    plan.steps = [Step("k", (), None, tuple(names), ()) for names in touched]  # type: ignore[arg-type]
    return plan


@st.composite
def programs(draw: st.DrawFn) -> tuple[Plan, list[list[int]]]:
    steps = draw(st.integers(1, 8))
    span = st.tuples(st.integers(0, steps - 1), st.integers(0, steps - 1))
    spans = draw(st.lists(st.tuples(st.integers(1, 300), span), max_size=8))
    scratch = draw(
        st.lists(st.lists(st.integers(1, 300), max_size=2), min_size=steps, max_size=steps)
    )
    return plan_of([(size, *sorted(ends)) for size, ends in spans], steps), scratch


@given(programs())
def test_nothing_lies_on_what_is_in_use(program: tuple[Plan, list[list[int]]]) -> None:
    plan, scratch = program
    arena = plan_flat_arena(plan, scratch, ALIGNMENT)
    spans: dict[object, tuple[int, int, int]] = {}
    for at, step in enumerate(plan.steps):
        for name in step.values:
            if name != "x":
                spans[name] = (spans.get(name, (at,))[0], at, plan.values[name].bytes)
        spans |= {(at, number): (at, at, size) for number, size in enumerate(scratch[at])}
    assert arena.offsets.keys() == spans.keys()
    for one, other in combinations(spans, 2):
        if spans[one][0] <= spans[other][1] and spans[other][0] <= spans[one][1]:
            ends = [
                (arena.offsets[each], arena.offsets[each] + spans[each][2])
                for each in (one, other)
            ]
            assert ends[0][1] <= ends[1][0] or ends[1][1] <= ends[0][0]
    assert all(offset % ALIGNMENT == 0 for offset in arena.offsets.values())
    assert arena.lower_bound <= arena.bytes
    in_use = [
        sum(
            -(-size // ALIGNMENT) * ALIGNMENT
            for first, last, size in spans.values()
            if first <= at <= last
        )
        for at in range(len(plan.steps))
    ]
    assert arena.lower_bound == max(in_use)


def test_a_chain_takes_what_two_neighbours_take() -> None:
    sizes = [64, 256, 128, 192, 32]
    plan = plan_of([(size, at, at + 1) for at, size in enumerate(sizes)], 6)
    arena = plan_flat_arena(plan, [[] for _ in plan.steps], ALIGNMENT)
    assert arena.bytes == arena.lower_bound == 256 + 128
    assert np.all([offset >= 0 for offset in arena.offsets.values()])
