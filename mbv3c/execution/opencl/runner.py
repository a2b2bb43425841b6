"""Run a GPU's library on this machine's OpenCL device."""

from pathlib import Path

from mbv3c.execution.host import LibraryRunner
from mbv3c.execution.opencl.runtime import device_info, load_runtime
from mbv3c.execution.stream_server import Infer


def open_opencl(precision: str = "fp32") -> LibraryRunner:
    """Load the OpenCL runtime and open its device, for kernels of a precision.

    Raises:
        ToolError: there is none; the message says what to install.
    """
    load_runtime()
    device = device_info()
    kind = "" if device.is_gpu else ", a CPU"
    emulated = ", half precision emulated" if precision == "fp16" and not device.has_half else ""
    description = f"{device.name} ({device.platform}{kind}{emulated})"
    return LibraryRunner(description, "opencl", open_bundle)


def open_bundle(bundle: Path) -> Infer:
    """Open a bundle for this machine's OpenCL device.

    Raises:
        ToolError: there is none; the message says what to install.
    """
    return open_opencl().opened(bundle)
