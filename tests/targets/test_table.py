"""The table of targets, and how names are looked up in it."""

from importlib.util import find_spec

import pytest

from mbv3c.errors import UsageError
from mbv3c.targets.table import DEFAULT_DEVICES, NATIVE, PLANNED, TARGETS, Target, find_target


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
    assert (target.cpu == NATIVE) == (target.arch == NATIVE) == (target.device == NATIVE)
    assert (target.device == f"{target.cpu}-android") == target.triple.endswith("-android")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("arm_cpu", "arm_cpu:cortex-a76"),
        ("arm_cpu:", "arm_cpu:cortex-a76"),
        ("arm_cpu:cortex-a53", "arm_cpu:cortex-a53"),
        ("arm_cpu:cortex-a76-android", "arm_cpu:cortex-a76-android"),
        ("host_cpu", "host_cpu:native"),
        ("host_cpu:native", "host_cpu:native"),
    ],
)
def test_a_family_has_a_default_device(name: str, found: str) -> None:
    assert find_target(name).name == found


def test_every_family_has_a_default_device() -> None:
    assert {target.family for target in TARGETS} == set(DEFAULT_DEVICES)
    assert not {planned.family for planned in PLANNED} & set(DEFAULT_DEVICES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arm_cpx", r"unknown target 'arm_cpx'; known: arm_cpu, host_cpu"),
        ("", r"unknown target ''; known: arm_cpu, host_cpu"),
        ("ARM_CPU", r"unknown target 'ARM_CPU'"),
        ("cortex-a76", r"unknown target 'cortex-a76'"),
        ("arm_cpu:cortex-a77", r"unknown device 'cortex-a77' of arm_cpu; known: cortex-a76, "),
        ("host_cpu:cortex-a76", r"unknown device 'cortex-a76' of host_cpu; known: native"),
        ("mobile_gpu", r"'mobile_gpu' is planned and not built yet; today: arm_cpu, host_cpu"),
        ("npu:ethos-u55", r"nothing here runs npu:ethos-u55"),
    ],
)
def test_refuses_an_unknown_name_and_lists_the_known(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_target(name)
