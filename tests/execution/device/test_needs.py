"""Which devices a library is refused, and whose times are doubtful for it."""

from dataclasses import replace

import pytest

from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device.machine import DeviceNeeds, Machine
from mbv3c.execution.opencl.runtime import DeviceInfo

A76 = DeviceNeeds("arm_cpu:cortex-a76", "aarch64-linux-gnu", "cortex-a76", opencl=False)
MALI = DeviceNeeds("mobile_gpu:mali", "aarch64-linux-gnu", "generic", opencl=True)
BOARD = Machine("board", "aarch64", "cortex-a76 and cortex-a55", 8, (), None)
POCL = DeviceInfo("Portable Computing Language", "cpu", "3.0", "5.0", is_gpu=False, has_half=False)
GPU = DeviceInfo("ARM Platform", "Mali-G610", "3.0", "g24", is_gpu=True, has_half=True)


def check(needs: DeviceNeeds, machine: Machine) -> None:
    needs.check(machine, "b has a library for", "the device", "compile it anew")


def test_a_device_that_has_what_is_needed() -> None:
    check(A76, BOARD)
    check(MALI, replace(BOARD, opencl=GPU))
    assert not A76.doubts(BOARD)
    assert not MALI.doubts(replace(BOARD, opencl=GPU))


@pytest.mark.parametrize("needs", [A76, MALI])
def test_another_architecture(needs: DeviceNeeds) -> None:
    machine = replace(BOARD, architecture="x86_64", cpu="Xeon")
    with pytest.raises(
        UsageError,
        match=r"b has a library for aarch64, and the device is Xeon \(x86_64, 8 cores\); "
        "compile it anew: `mbv3c targets` lists what there is",
    ):
        check(needs, machine)


def test_no_opencl() -> None:
    machine = replace(BOARD, opencl_missing="no driver")
    with pytest.raises(
        ToolError, match="the device has no OpenCL device for mobile_gpu:mali: no driver"
    ):
        check(MALI, machine)
    check(A76, machine)


def test_times_of_a_cpu_say_nothing_of_a_gpu() -> None:
    (doubt,) = MALI.doubts(replace(BOARD, opencl=POCL))
    assert doubt == (
        "the OpenCL device of board is a CPU (Portable Computing Language): its times say nothing "
        "about a GPU"
    )
    assert not A76.doubts(replace(BOARD, opencl=POCL))


def test_times_of_another_core() -> None:
    (doubt,) = A76.doubts(replace(BOARD, cpu="cortex-a53"))
    assert doubt == (
        "board is cortex-a53 (aarch64, 8 cores), and what is measured there goes to the database "
        "of arm_cpu:cortex-a76"
    )
    assert not A76.doubts(replace(BOARD, cpu=None))


def test_cores_of_other_architectures_are_not_known_by_llvms_names() -> None:
    host = DeviceNeeds("host_cpu:native", "x86_64-linux-gnu", "znver4", opencl=False)
    assert not host.doubts(replace(BOARD, architecture="x86_64", cpu="AMD EPYC"))
