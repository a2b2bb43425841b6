"""Devices behind TVM's RPC, checked against what a bundle is for."""

from collections.abc import Sequence

from mbv3c.bundle import Bundle
from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device.machine import Machine
from mbv3c.execution.device.place import Place
from mbv3c.execution.device.runner import DEFAULT_SECONDS, RpcRunner
from mbv3c.job import Target
from mbv3c.targets.table import find_target


def open_device(bundle: Bundle, place: Place, seconds: float = DEFAULT_SECONDS) -> RpcRunner:
    """Reach a device that is to run a bundle, and learn what it is.

    Raises:
        UsageError: the bundle is for an NPU, or for another architecture than the device's; or
            `seconds` is no time.
        ToolError: it cannot be reached, hangs, or lacks the OpenCL device that the bundle needs.
    """
    if not seconds > 0:
        raise UsageError(f"--timeout {seconds:g} is no time; give seconds above 0")
    if "npu" in bundle.manifest:
        raise UsageError(f"{bundle.path} is for an NPU: no RPC server runs it; leave --device out")
    recorded = bundle.manifest["target"]
    target = find_target(recorded["name"])
    runner = RpcRunner(place, bool(target.gpu), seconds=seconds)
    runner.look()
    machine = runner.machine
    if machine is None:
        return runner
    built_for = recorded["triple"].partition("-")[0]
    if built_for != machine.architecture:
        raise UsageError(
            f"{bundle.path} has a library for {built_for}, and the {place} is {machine.sentence}; "
            f"compile the model for {machine.architecture}: `mbv3c targets` lists what there is"
        )
    if target.gpu and machine.opencl is None:
        raise ToolError(
            f"the {place} has no OpenCL device for {target.name}: {machine.opencl_missing}"
        )
    return runner


def check_machines(machines: Sequence[Machine], target: Target) -> list[str]:
    """Make sure that devices run a target's libraries; return what seems wrong with them.

    Raises:
        UsageError: one of them has another architecture.
        ToolError: one of them has no OpenCL device, and the target is a GPU.
    """
    doubts = []
    for machine in machines:
        if machine.architecture != target.arch:
            raise UsageError(
                f"{target.name} is for {target.arch}, and {machine.name} is {machine.sentence}; "
                "tune for its own target: `mbv3c targets` lists what there is"
            )
        if target.gpu and machine.opencl is None:
            raise ToolError(
                f"{machine.name} has no OpenCL device for {target.name}: {machine.opencl_missing}"
            )
        if target.gpu and machine.opencl is not None and not machine.opencl.is_gpu:
            doubts.append(
                f"the OpenCL device of {machine.name} is a CPU ({machine.opencl.platform}): its "
                "times say nothing about a GPU"
            )
        named = target.arch == "aarch64" and not target.gpu and machine.cpu is not None
        if named and target.cpu not in str(machine.cpu):
            doubts.append(
                f"{machine.name} is {machine.processor}, and what is measured there goes to the "
                f"database of {target.name}"
            )
    return doubts
