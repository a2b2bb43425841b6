"""What the arguments of a plan's steps are."""

import onnx

from mbv3c.lowering.plan import HeldTensor, Plan, Step, Value
from mbv3c.passes import run_pipeline
from mbv3c.targets import find_target
from mbv3c.targets.cpu.kernels import select
from mbv3c.targets.cpu.schedules.integer.arithmetic import has_dot
from mbv3c.targets.library.target import resolve, tvm_target
from tests.quantized_networks import HOST, plan_for
from tests.quantized_networks import network as quantized_network


def check_read_as_written(plan: Plan) -> int:
    """What a step reads is what the last step that wrote the value made; return how many."""
    held: dict[str, HeldTensor | None] = {name: HeldTensor(name, False) for name in plan.inputs}
    compared = 0
    for row in plan.arguments():
        for one in row:
            if one is not None and one.reads is not None:
                assert held[one.value] in (None, one.reads)
                compared += 1
        held.update({one.value: one.writes for one in row if one is not None and one.writes})
    return compared


def test_a_kernel_in_place_reads_one_tensor_and_writes_another(small: onnx.ModelProto) -> None:
    rewritten, _ = run_pipeline(small)
    target = tvm_target(resolve(find_target("host_cpu")))
    plan = select(rewritten, HOST, target)
    assert check_read_as_written(plan) > len(plan.steps) / 2
    gated = [
        row[0]
        for row, step in zip(plan.arguments(), plan.steps, strict=True)
        if step.kind == "squeeze_excite"
    ]
    assert len(gated) == 9
    for one in gated:
        assert one is not None
        assert one.reads is not None
        assert one.writes is not None
        assert one.reads.tensor != one.writes.tensor


def test_every_argument_of_a_quantized_network_is_known() -> None:
    plan = plan_for(quantized_network(), HOST)
    rows = plan.arguments()
    # Without dot products the stem is computed in fp32, and what it writes is rounded next.
    stems = (step.writes for step in plan.steps if step.kind == "convolution")
    unrounded = {name for writes in stems for name in writes if not has_dot(HOST)}
    assert check_read_as_written(plan) >= len(plan.steps)
    for row, step in zip(rows, plan.steps, strict=True):
        for one, given in zip(row, step.arguments, strict=True):
            assert (one is None) != isinstance(given, str)
            if one is not None and one.value not in unrounded:
                assert (one.writes is not None) == (one.value in step.writes)
                assert (one.reads is None) == (one.value in step.writes)


def test_what_is_no_tensor_of_the_graph_is_not_known() -> None:
    plan = Plan(("x",), ((1,),), values={name: Value((1,)) for name in "xab"})
    plan.hold("x", "x", channels_last=False)
    plan.steps.append(Step("copy", (), None, ("x", "a"), ("a",)))  # type: ignore[arg-type]
    plan.steps.append(Step("copy", (), None, ("a", "b"), ("b",)))  # type: ignore[arg-type]
    plan.hold("y", "b", channels_last=False)
    plan.hold("renamed", "b", channels_last=False)
    (x, a), (again, b) = plan.arguments()
    assert x is not None and x.reads == HeldTensor("x", False) and x.writes is None
    assert a is not None and a.reads is None and a.writes is None
    assert again is not None and again.reads is None and again.writes is None
    assert b is not None and b.reads is None and b.writes == HeldTensor("y", False)
