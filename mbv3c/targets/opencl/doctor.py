"""What OpenCL needs on this machine."""

from mbv3c.execution.cache import FETCH_COMMAND
from mbv3c.execution.opencl.kit import OCLGRIND_REMEDY, fetch_kit, oclgrind_command
from mbv3c.execution.opencl.runtime import (
    DRIVER_REMEDY,
    built_plugin,
    opencl_drivers,
    provide_plugin,
)
from mbv3c.progress import Progress
from mbv3c.targets.wing import Doctor, Requirement


def fetch_opencl(progress: Progress) -> None:
    """Fetch PoCL and oclgrind, and build the OpenCL runtime, where they are not there yet.

    Needs the network, about 150 MB to download and 480 MB on disk; no root.

    Raises:
        ToolError: this machine cannot use them, or a download or the build failed.
    """
    fetch_kit(progress)
    provide_plugin(progress)


def diagnose() -> list[Requirement]:
    """Look for what runs and checks OpenCL kernels. Opens no driver: some take seconds."""
    drivers, oclgrind, plugin = opencl_drivers(), oclgrind_command(), built_plugin()
    need = "for target mobile_gpu:"
    return [
        Requirement("opencl driver", True, ", ".join(drivers), optional=True)
        if drivers
        else Requirement("opencl driver", False, "none", f"{need} {DRIVER_REMEDY}", True),
        Requirement("opencl runtime", True, str(plugin), optional=True)
        if plugin
        else Requirement("opencl runtime", False, "not built", f"{need} {FETCH_COMMAND}", True),
        Requirement("oclgrind", True, oclgrind[-1], optional=True)
        if oclgrind
        else Requirement("oclgrind", False, "missing", f"{need} {OCLGRIND_REMEDY}", True),
    ]


DOCTOR = Doctor(diagnose, {"opencl": fetch_opencl})
