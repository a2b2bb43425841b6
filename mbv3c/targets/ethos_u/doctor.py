"""What an Ethos-U needs on this machine, and whether it is there."""

from mbv3c.errors import ToolError
from mbv3c.execution.cache import package_version
from mbv3c.installing import install_extra
from mbv3c.targets.wing import Doctor, Requirement

NPU_TOOLS = ("ethos-u-vela", "tosa-tools")
NPU_INSTALL = (
    f"{install_extra('npu')}, into an environment of its own, as they hold back numpy and onnx"
)


def require_npu_tools() -> None:
    """Make sure that vela and Arm's TOSA tools are installed.

    Raises:
        ToolError: one of them is not.
    """
    missing = [name for name in NPU_TOOLS if package_version(name) is None]
    if missing:
        raise ToolError(f"target npu needs {' and '.join(missing)}: {NPU_INSTALL}")


def diagnose() -> list[Requirement]:
    """Look for vela and Arm's TOSA tools."""
    versions = {name: package_version(name) for name in NPU_TOOLS}
    detail = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    ok = None not in versions.values()
    return [
        Requirement("npu tools", ok, detail, "" if ok else f"for target npu: {NPU_INSTALL}", True)
    ]


DOCTOR = Doctor(diagnose)
