"""The registry: names of targets, and which backend each belongs to."""

import pytest

from mbv3c.errors import UsageError
from mbv3c.target import Target
from mbv3c.targets import (
    WINGS,
    backend_of,
    every_wing,
    find_target,
    read_options,
    wing_of,
)
from mbv3c.targets.cpu.devices import MOST_CORES

TARGETS = [target for wing in every_wing() for target in wing.targets]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_target_is_found_by_its_name(target: Target) -> None:
    assert find_target(target.name) is target
    assert target in wing_of(target.family).targets
    assert backend_of(target).wing is wing_of(target.family)


def test_names_are_unique() -> None:
    names = [target.name for target in TARGETS]
    assert len(set(names)) == len(names)


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
        ("npu", "npu:ethos-u55-128"),
        ("npu:ethos-u85-256", "npu:ethos-u85-256"),
        ("mcu", "mcu:cortex-m7"),
    ],
)
def test_a_family_has_a_default_device(name: str, found: str) -> None:
    assert find_target(name).name == found


def test_every_family_has_a_default_device() -> None:
    defaults = {
        family: device for wing in every_wing() for family, device in wing.defaults.items()
    }
    assert {target.family for target in TARGETS} == set(defaults) == set(WINGS)
    assert set(WINGS) == {"arm_cpu", "mobile_gpu", "host_cpu", "npu", "mcu", "riscv_cpu"}
    for family, device in defaults.items():
        assert find_target(family) is find_target(f"{family}:{device}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "arm_cpx",
            r"unknown target 'arm_cpx'; nearest: arm_cpu, .*; known: arm_cpu, mobile",
        ),
        ("", r"unknown target ''; known: arm_cpu, mobile_gpu, host_cpu, npu"),
        ("ARM_CPU", r"unknown target 'ARM_CPU'"),
        ("cortex-a76", r"unknown target 'cortex-a76'"),
        (
            "arm_cpu:cortex-a65",
            r"unknown device 'cortex-a65' of arm_cpu; nearest: arm_cpu:cortex-a7",
        ),
        (
            "host_cpu:cortex-a76",
            r"unknown device 'cortex-a76' of host_cpu; nearest: arm_cpu:cortex-a76, ",
        ),
        ("mobile_gpu:g610", r"unknown device 'g610' of mobile_gpu; known: mali, mali-android, "),
        ("arm_cpu:vulkan", r"unknown device 'vulkan' of arm_cpu"),
        ("npu:ethos-u55", r"unknown device 'ethos-u55' of npu; nearest: npu:ethos-u55-32, "),
    ],
)
def test_refuses_an_unknown_name_and_lists_the_known(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_target(name)


def test_cores_are_of_cpus() -> None:
    arm, gpu = find_target("arm_cpu"), find_target("mobile_gpu:adreno")
    assert read_options(arm, {"cores": 2})[0].cores == 2
    for cores in (0, MOST_CORES + 1):
        with pytest.raises(UsageError, match=f"--cores {cores} is not possible"):
            read_options(arm, {"cores": cores})
    with pytest.raises(UsageError, match="--cores is for CPUs; on mobile_gpu:adreno the GPU"):
        read_options(gpu, {"cores": 1})


def test_an_inference_takes_the_cores_that_a_board_has_unless_it_is_told() -> None:
    board = find_target("imx93")
    assert read_options(board, {})[0].cores == 2
    assert read_options(board, {"cores": 1})[0].cores == 1
    assert find_target("arm_cpu:cortex-a55").cores == 4
