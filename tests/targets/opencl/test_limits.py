"""No kernel is beyond what its device launches, and one that were is refused with its numbers."""

from dataclasses import replace
from math import prod

import onnx
import pytest
import tvm
from tvm.script import tirx as T  # noqa: N812

from mbv3c.graphs.spec import ModelSpec
from mbv3c.job import Job
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.plan import Plan, Pointwise, Step
from mbv3c.lowering.schedules.emit import HARD_SIGMOID, HARD_SWISH, RELU
from mbv3c.precision import FP16, FP32, Precision
from mbv3c.targets.opencl.backend import lower_for_gpu
from mbv3c.targets.opencl.gpus import GPUS
from mbv3c.targets.opencl.limits import LimitError, check_limits, launch_of
from mbv3c.targets.opencl.schedules import gates, launch, pointwise
from mbv3c.targets.opencl.schedules.gates import Gates
from mbv3c.targets.opencl.schedules.pointwise import Product, Tile
from tests.onnx_text import graph
from tests.targets.opencl.networks import HERE, lowered_for, rewritten, target_for

MALI = GPUS["mali"].gpu
ADRENO = GPUS["adreno"].gpu

# Networks at the sizes that people deploy; the heads bring kernels that TVM wrote.
SPECS = {
    "small": ModelSpec("small"),
    "large": ModelSpec("large"),
    "lraspp": ModelSpec("small", head="lraspp", classes=21),
    "ssdlite": ModelSpec("small", head="ssdlite", resolution=320, classes=91),
}


@pytest.fixture(scope="module", params=SPECS)
def optimized(request: pytest.FixtureRequest) -> tuple[str, onnx.ModelProto]:
    return request.param, rewritten(SPECS[request.param])


@pytest.mark.parametrize("precision", [FP32, FP16], ids=str)
@pytest.mark.parametrize("device", GPUS)
def test_no_kernel_of_a_network_is_beyond_its_device(
    optimized: tuple[str, onnx.ModelProto], device: str, precision: Precision
) -> None:
    name, model = optimized
    lowered = lowered_for(model, device, precision)
    assert ("fallback" in _kinds(lowered)) == (name in ("lraspp", "ssdlite"))
    gpu = GPUS[device].gpu
    for step in lowered.plan.steps:
        one = launch_of(step.function)
        assert one.threads, step
        assert prod(one.group) <= gpu.group_items, step
        assert all(side <= most for side, most in zip(one.group, gpu.group_sides, strict=True))
        assert one.local_bytes == 0, step  # not even where there is some
        assert one.registers or step.kind == "fallback", step
        assert not gpu.registers or one.registers <= gpu.registers, step


def _kinds(lowered: Lowered) -> set[str]:
    return {step.kind for step in lowered.plan.steps}


# ---- what a launch is ----


def test_a_launch_is_read_from_what_a_schedule_wrote() -> None:
    shape = Pointwise(50, 16, 96, HARD_SWISH)
    one = launch_of(pointwise.generate(Product(shape), Tile(4, 2, 1, 8, 4)))
    assert one.group == (8, 4, 1)
    assert one.groups == (2, 4, 1)  # 12 columns of two vectors, 13 blocks of four rows
    assert one.registers == (4 * 2 + 1) * 4 + 4 * 4 + 12
    assert (one.local_bytes, one.threads) == (0, True)


def test_a_launch_is_read_from_bound_loops() -> None:
    one = launch_of(_staged(items=64, shared=100))
    assert (one.group, one.groups) == ((64, 1, 1), (2, 1, 1))
    assert one.local_bytes == 400
    assert one.registers == 0


def test_a_launch_of_the_widest_kernel_counts() -> None:
    """A function of TVM's may launch several, one after the other."""

    @T.prim_func
    def two(a: T.handle):
        x = T.match_buffer(a, (512,), "float32")
        for i in T.thread_binding(8, thread="blockIdx.x"):
            for j in T.thread_binding(64, thread="threadIdx.x"):
                x[i * 64 + j] = T.float32(0)
        for i in T.thread_binding(2, thread="blockIdx.x"):
            for j in T.thread_binding(256, thread="threadIdx.x"):
                x[i * 256 + j] = T.float32(1)

    one = launch_of(two)
    assert (one.group, one.groups) == ((256, 1, 1), (8, 1, 1))


def _staged(items: int, shared: int) -> tvm.tirx.PrimFunc:
    """Return a kernel that stages `shared` floats in local memory."""

    @T.prim_func
    def kernel(a: T.handle):
        x = T.match_buffer(a, (2 * items,), "float32")
        for i in T.thread_binding(2, thread="blockIdx.x"):
            local = T.alloc_buffer((shared,), "float32", scope="shared")
            for j in T.thread_binding(items, thread="threadIdx.x"):
                local[j] = x[i * items + j]
                x[i * items + j] = local[j]

    return kernel


def _unbound() -> tvm.tirx.PrimFunc:
    @T.prim_func
    def kernel(a: T.handle):
        x = T.match_buffer(a, (8,), "float32")
        for i in range(8):
            x[i] = T.float32(1)

    return kernel


# ---- oversized schedules ----


def _plan(function: tvm.tirx.PrimFunc, kind: str, *nodes: str) -> Plan:
    return Plan(("x",), ((1,),), steps=[Step(kind, nodes, function, (), ())])


def test_a_work_group_with_too_many_work_items_is_refused() -> None:
    product = Product(Pointwise(4096, 16, 256, RELU))
    plan = _plan(pointwise.generate(product, Tile(1, 1, 1, 64, 16)), "pointwise", "expand", "relu")
    with pytest.raises(LimitError) as caught:
        check_limits(plan, MALI, "mobile_gpu:mali")
    assert str(caught.value) == (
        "the pointwise kernel for expand, relu has work-groups of 64x16x1 = 1024, of at most 256: "
        "mobile_gpu:mali would refuse it; choose other knobs, or another device"
    )
    check_limits(plan, replace(MALI, group_items=1024), "another")


def test_a_work_group_with_a_side_that_is_too_long_is_refused() -> None:
    def body() -> None:
        launch.emit.argument("x", (1,), "float32")
        with launch.work_items((1, 1, 128), (1, 1, 128)):
            pass

    plan = _plan(launch.kernel("deep", body, 4), "transpose")
    message = r"the transpose kernel for a change of layout has work-groups of 1x1x128, of at most"
    with pytest.raises(LimitError, match=message + " 256x256x64: adreno would"):
        check_limits(plan, ADRENO, "adreno")
    check_limits(plan, MALI, "mali")


def test_too_much_local_memory_is_refused() -> None:
    plan = _plan(_staged(64, 8193), "fallback", "pool")
    message = "the fallback kernel for pool takes 32772 bytes of local memory, of at most"
    with pytest.raises(LimitError, match=f"{message} 32768: adreno would"):
        check_limits(plan, ADRENO, "adreno")
    with pytest.raises(LimitError, match=f"{message} 0: mali would"):
        check_limits(plan, MALI, "mali")
    check_limits(_plan(_staged(64, 8192), "fallback", "pool"), ADRENO, "adreno")


def test_too_many_registers_are_refused() -> None:
    product = Product(Pointwise(64, 16, 64, RELU))
    tile = Tile(8, 4, 1, 4, 4)
    plan = _plan(pointwise.generate(product, tile), "pointwise", "expand")
    assert tile not in pointwise.legal(product, MALI)
    with pytest.raises(LimitError, match="for expand needs 176 registers, of at most 64: mali"):
        check_limits(plan, MALI, "mali")
    check_limits(plan, ADRENO, "adreno")  # of which they are not known


def test_a_kernel_without_work_items_is_refused() -> None:
    with pytest.raises(LimitError, match="the fallback kernel for exp is bound to no work-items"):
        check_limits(_plan(_unbound(), "fallback", "exp"), MALI, "mali")


def test_every_size_of_gates_work_group_that_is_not_legal_is_refused() -> None:
    shape = Gates(1, 7, 49, 96, 24, RELU, HARD_SIGMOID)
    for items in (16, 32, 64, 128, 256, 512, 1024):
        tile = gates.Tile(items)
        plan = _plan(gates.generate(shape, tile), "gates", "se")
        if items <= MALI.group_items:
            assert tile in gates.legal(shape, MALI)
            check_limits(plan, MALI, "mali")
        else:
            assert tile not in gates.legal(shape, MALI)
            with pytest.raises(LimitError, match=f"{items}x1x1 = {items}, of at most 256"):
                check_limits(plan, MALI, "mali")


def test_lowering_refuses_what_a_device_does_not_launch() -> None:
    """TVM's operator is scheduled for work-groups of 256, as the target says it may."""
    model = graph("g (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y) { [n] y = Exp(x) }")
    small = replace(MALI, group_items=64)
    message = (
        "the fallback kernel for n has work-groups of 256x1x1 = 256, of at most 64: "
        "mobile_gpu:small would"
    )
    with pytest.raises(LimitError, match=message):
        lower_for_gpu(model, small, target_for("mali"), Job(replace(HERE, device="small")))
