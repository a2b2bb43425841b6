"""What is missing on this machine to compile and to verify."""

import platform
import sys
from dataclasses import dataclass

from mbv3c.execution.cache import FETCH_COMMAND
from mbv3c.execution.emulator.kit import (
    FFI_VERSION,
    TVM_VERSION,
    kit_folder,
    kit_in,
    native_arch,
)
from mbv3c.execution.emulator.llvm import LLVM_REMEDY, find_llvm
from mbv3c.execution.installed import package_version
from mbv3c.execution.opencl.kit import fetch_kit
from mbv3c.execution.opencl.oclgrind import OCLGRIND_REMEDY, oclgrind_command
from mbv3c.execution.opencl.plugin import built_plugin, provide_plugin
from mbv3c.execution.opencl.runtime import DRIVER_REMEDY, opencl_drivers
from mbv3c.progress import Progress
from mbv3c.targets.ethos_u.tools import NPU_INSTALL, NPU_TOOLS


@dataclass(frozen=True)
class Requirement:
    """One row of `mbv3c doctor`.

    Attributes:
        name: what was looked for.
        ok: whether it is there and fits.
        detail: what was found.
        remedy: what to do when it is not ok; empty otherwise.
        optional: whether only some targets need it.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    optional: bool = False


def fetch_opencl(progress: Progress) -> None:
    """Fetch PoCL and oclgrind, and build the OpenCL runtime, where they are not there yet.

    Needs the network, about 150 MB to download and 480 MB on disk; no root.

    Raises:
        ToolError: this machine cannot use them, or a download or the build failed.
    """
    fetch_kit(progress)
    provide_plugin(progress)


def diagnose() -> list[Requirement]:
    """Say for every part that mbv3c stands on whether it is there. Imports none of them."""
    return [
        _diagnose_python(),
        _diagnose_tvm(),
        _diagnose_package("onnxruntime", "onnxruntime"),
        _diagnose_package("linker", "ziglang"),
        *_diagnose_kit(),
        _diagnose_npu_tools(),
        *_diagnose_opencl(),
        _diagnose_llvm(),
    ]


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


def _diagnose_npu_tools() -> Requirement:
    versions = {name: package_version(name) for name in NPU_TOOLS}
    detail = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    ok = None not in versions.values()
    return Requirement(
        "npu tools", ok, detail, "" if ok else f"for target npu: {NPU_INSTALL}", True
    )


def _diagnose_opencl() -> list[Requirement]:
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


def _diagnose_llvm() -> Requirement:
    llvm = find_llvm()
    if llvm is None:
        return Requirement(
            "llvm-mca", False, "missing", f"for estimated cycles: {LLVM_REMEDY}", True
        )
    program = next(part for part in llvm.mca[::-1] if not part.startswith("-"))
    return Requirement("llvm-mca", True, f"{program} {llvm.version}", optional=True)


def _diagnose_kit() -> list[Requirement]:
    names = ("emulator", "aarch64 runtime", "runner", "counter")
    if (platform.system(), native_arch()) == ("Linux", "aarch64"):
        detail = "not needed: this machine is aarch64 and runs arm_cpu bundles itself"
        return [Requirement(name, True, detail) for name in names]
    folder = kit_folder()
    if folder is None:
        return [Requirement(name, False, "missing", "install apache-tvm first") for name in names]
    kit = kit_in(folder)
    emulator = kit.system / "usr" / "bin" / "qemu-aarch64"
    places = (emulator, kit.runtime / "libtvm_runtime.so", kit.runner, kit.counter)
    return [
        Requirement(name, True, str(place))
        if place.exists()
        else Requirement(name, False, "not fetched", FETCH_COMMAND)
        for name, place in zip(names, places, strict=True)
    ]
