"""The table of targets, and how names are looked up in it."""

from importlib.util import find_spec

import pytest

from mbv3c.errors import UsageError
from mbv3c.job import MOST_CORES, NATIVE, Target, with_cores
from mbv3c.targets.cpu.isa import ISAS
from mbv3c.targets.opencl.gpus import GPUS
from mbv3c.targets.table import CLOSED, DEFAULT_DEVICES, FAMILIES, TARGETS, find_target


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_target_is_found_by_its_name(target: Target) -> None:
    assert find_target(target.name) is target


def test_names_are_unique() -> None:
    names = [target.name for target in TARGETS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_target_is_complete(target: Target) -> None:
    assert find_spec(f"mbv3c.targets.{target.backend}") is not None
    assert target.cores >= 1
    assert target.example
    assert target.triple.split("-")[0] == target.arch
    assert (target.cpu == NATIVE) == (target.arch == NATIVE) == (target.triple == NATIVE)
    computes = target.gpu or target.cpu
    if target.isa:  # LLVM's name is that of a level, which nobody says
        assert target.isa in ISAS
    else:
        assert target.device.removesuffix("-android") == computes
    assert target.device.endswith("-android") == target.triple.endswith("-android")
    assert (target.backend == "opencl") == bool(target.gpu) == (target.family == "mobile_gpu")


def test_every_gpu_is_a_targets() -> None:
    assert {target.gpu for target in TARGETS if target.gpu} == set(GPUS)


@pytest.mark.parametrize("device", GPUS)
def test_every_gpu_is_complete(device: str) -> None:
    row = GPUS[device]
    assert row.stands_for
    gpu = row.gpu
    assert max(gpu.group_sides) <= gpu.group_items
    assert gpu.warp <= gpu.group_items
    assert gpu.items_per_core % gpu.warp == 0
    assert gpu.full_registers <= gpu.registers
    assert min(gpu.cores, gpu.madds, gpu.line, gpu.memory, gpu.launch) > 0


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("arm_cpu", "arm_cpu:cortex-a76"),
        ("arm_cpu:", "arm_cpu:cortex-a76"),
        ("arm_cpu:cortex-a53", "arm_cpu:cortex-a53"),
        ("arm_cpu:cortex-a76-android", "arm_cpu:cortex-a76-android"),
        ("host_cpu", "host_cpu:native"),
        ("host_cpu:native", "host_cpu:native"),
        ("host_cpu:avx2", "host_cpu:avx2"),
        ("mobile_gpu", "mobile_gpu:mali"),
        ("mobile_gpu:adreno-android", "mobile_gpu:adreno-android"),
    ],
)
def test_a_family_has_a_default_device(name: str, found: str) -> None:
    assert find_target(name).name == found


def test_every_family_has_a_default_device() -> None:
    assert {target.family for target in TARGETS} == set(DEFAULT_DEVICES)
    assert set(FAMILIES) == {*DEFAULT_DEVICES, "npu"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arm_cpx", r"unknown target 'arm_cpx'; known: arm_cpu, mobile_gpu, host_cpu, npu"),
        ("", r"unknown target ''; known: arm_cpu, mobile_gpu, host_cpu, npu"),
        ("ARM_CPU", r"unknown target 'ARM_CPU'"),
        ("cortex-a76", r"unknown target 'cortex-a76'"),
        ("arm_cpu:cortex-a77", r"unknown device 'cortex-a77' of arm_cpu; known: cortex-a76, "),
        (
            "host_cpu:cortex-a76",
            r"unknown device 'cortex-a76' of host_cpu; known: native, avx2, avx512",
        ),
        ("mobile_gpu:g610", r"unknown device 'g610' of mobile_gpu; known: mali, mali-android, "),
        ("arm_cpu:vulkan", r"unknown device 'vulkan' of arm_cpu"),
        ("npu:ethos-u55", r"nothing here runs npu:ethos-u55"),
    ],
)
def test_refuses_an_unknown_name_and_lists_the_known(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_target(name)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("vulkan", "no code generator for Vulkan"),
        ("adreno-texture", "fails on depthwise convolutions"),
    ],
)
def test_a_closed_way_says_why_and_what_is_open(device: str, reason: str) -> None:
    assert device in CLOSED
    with pytest.raises(UsageError, match=reason) as caught:
        find_target(f"mobile_gpu:{device}")
    message = str(caught.value)
    assert message.startswith(f"there is no mobile_gpu:{device}: ")
    assert "known: mali, mali-android" in message


def test_every_closed_way_is_tested() -> None:
    assert set(CLOSED) == {"vulkan", "adreno-texture"}
    assert not set(CLOSED) & {target.device for target in TARGETS}


def test_cores_are_of_cpus() -> None:
    arm, gpu = find_target("arm_cpu"), find_target("mobile_gpu:adreno")
    assert with_cores(arm, 2).cores == 2
    for cores in (0, MOST_CORES + 1):
        with pytest.raises(UsageError, match=f"--cores {cores} is not possible"):
            with_cores(arm, cores)
    with pytest.raises(UsageError, match="--cores is for CPUs; on mobile_gpu:adreno the GPU"):
        with_cores(gpu, 1)
