"""What is missing on this machine to compile and to verify."""

import platform
import sys

from mbv3c.execution.cache import package_version
from mbv3c.execution.emulator.kit import FFI_VERSION, TVM_VERSION
from mbv3c.progress import Progress
from mbv3c.targets import every_wing
from mbv3c.targets.wing import Requirement


def diagnose() -> list[Requirement]:
    """Say for every part that mbv3c stands on whether it is there. Imports none of them."""
    parts = [
        _diagnose_python(),
        _diagnose_tvm(),
        _diagnose_package("onnxruntime", "onnxruntime"),
        _diagnose_package("linker", "ziglang"),
    ]
    return parts + [part for wing in every_wing() for part in wing.doctor().diagnose()]


def fetch(name: str, progress: Progress) -> None:
    """Fetch what is missing: all of it, or the parts of that name.

    Raises:
        ToolError: this machine cannot use it, or a download or a build failed.
    """
    for wing in every_wing():
        for what, get in wing.doctor().fetches.items():
            if name in ("all", what):
                get(progress)


def _diagnose_python() -> Requirement:
    ok = sys.version_info >= (3, 11)
    return Requirement(
        "python", ok, platform.python_version(), "" if ok else "use Python 3.11 or newer"
    )


def _diagnose_tvm() -> Requirement:
    tvm, ffi = package_version("apache-tvm"), package_version("apache-tvm-ffi")
    ok = (tvm, ffi) == (TVM_VERSION, FFI_VERSION)
    remedy = f"pip install apache-tvm=={TVM_VERSION} apache-tvm-ffi=={FFI_VERSION}"
    detail = f"apache-tvm {tvm or 'missing'}, apache-tvm-ffi {ffi or 'missing'}"
    return Requirement("tvm", ok, detail, "" if ok else remedy)


def _diagnose_package(name: str, package: str) -> Requirement:
    version = package_version(package)
    if version is None:
        return Requirement(name, False, f"{package} is missing", f"pip install {package}")
    return Requirement(name, True, f"{package} {version}")
