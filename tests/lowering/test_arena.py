"""Where values lie: never two in one place at once, and little more memory than must be."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.lowering.arena import ALIGNMENT, plan_arena
from mbv3c.lowering.plan import Plan, Step, Value
from mbv3c.passes import run_pipeline
from mbv3c.targets.cpu.kernels import select
from tests.targets.cpu.networks import HOST, NEON


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw steps that write a new value or an old one, and read some of those there are."""
    plan = Plan(("x",), ((1,),), values={"x": Value((1,))})
    for at in range(draw(st.integers(1, 12))):
        reads = draw(st.lists(st.sampled_from(sorted(plan.values)), min_size=1, max_size=3))
        written = f"v{at}" if draw(st.integers(0, 4)) else reads[0]
        if written not in plan.values:
            plan.values[written] = Value((draw(st.integers(1, 400)),))
        plan.steps.append(Step("any", (), None, (*reads, written), (written,)))
    names = sorted(set(plan.values) - {"x"})
    plan.outputs = tuple(draw(st.sets(st.sampled_from(names)))) if names else ()
    return plan


@given(plan=plans())
def test_no_two_values_share_a_block_at_once(plan: Plan) -> None:
    arena = plan_arena(plan)
    alive: dict[int, tuple[str, ...]] = {}
    block = {one.value: one.block for one in arena.lifetimes}
    uses = {
        name: [at for at, step in enumerate(plan.steps) if name in step.values] for name in block
    }
    for at in range(len(plan.steps)):
        alive[at] = tuple(name for name in block if uses[name][0] <= at <= uses[name][-1])
        blocks = [block[name] for name in alive[at]]
        assert len(set(blocks)) == len(blocks)


@given(plan=plans())
def test_every_value_but_the_callers_has_room(plan: Plan) -> None:
    arena = plan_arena(plan)
    touched = {name for step in plan.steps for name in step.values}
    assert {one.value for one in arena.lifetimes} == touched - {*plan.inputs, *plan.outputs}
    for one in arena.lifetimes:
        assert plan.values[one.value].bytes <= one.bytes <= arena.blocks[one.block]
        assert one.bytes % ALIGNMENT == 0
    assert arena.lower_bound <= arena.bytes


@pytest.mark.parametrize(
    ("variant", "width", "resolution"),
    [("small", 0.75, 160), ("small", 1.0, 224), ("large", 0.75, 224), ("large", 1.0, 160)],
)
def test_networks_need_little_more_than_the_lower_bound(
    variant: str, width: float, resolution: int
) -> None:
    model = build_model(ModelSpec(variant, width=width, resolution=resolution, classes=10))
    arena = plan_arena(select(run_pipeline(model)[0], replace(NEON, cores=4), HOST))
    assert arena.bytes <= 1.3 * arena.lower_bound
