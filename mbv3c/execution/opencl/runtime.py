"""The OpenCL runtime, a plugin of TVM: built once, loaded into this process, asked what it did.

It is built from the C++ beside this file, into the cache:

    opencl-runtime-TVM-ffi-FFI-DIGEST/plugin/opencl.so

The digest is of the sources, the options and the compiler's version.
"""

import ctypes
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import (
    FETCH_COMMAND,
    build_with_zig,
    cache_root,
    digest_of,
    package_folder,
    package_version,
    provide_once,
)
from mbv3c.execution.opencl.kit import OpenCLKit, opencl_kit
from mbv3c.progress import Progress

_HERE = Path(__file__).parent
_SOURCES = ("plugin.cc", "api.h", "module.h", "programs.h", "device.h", "cl.h")
_FLAGS = (
    # glibc 2.28 is what TVM's wheels ask for.
    *("-target", f"{platform.machine()}-linux-gnu.2.28"),
    *("-std=c++20", "-O2", "-s", "-shared", "-fPIC", "-fvisibility=hidden"),
    *("-Wl,--allow-shlib-undefined", "-ltvm_runtime", "-ltvm_ffi"),
)
# The C++ ABI of TVM's libraries; plugin.cc says why the plugin needs it, too.
_CXX_ABI = ("libstdc++.so.6", "libgcc_s.so.1")


def built_plugin() -> Path | None:
    """Return the plugin for the installed TVM, or None when it is not built."""
    plugin = _plugin()
    return plugin if plugin is not None and plugin.exists() else None


def provide_plugin(progress: Progress) -> Path:
    """Return the plugin, built with zig if it is not there yet.

    Raises:
        ToolError: this is not Linux, TVM is missing, or the build failed.
    """
    if platform.system() != "Linux":
        raise ToolError(
            f"the OpenCL runtime is for Linux, and this is {platform.system()}; run the bundle on "
            "a Linux machine, or on the device over RPC"
        )
    plugin = _plugin()
    if plugin is None:
        raise ToolError("apache-tvm is not installed in this Python; install mbv3c with pip")
    provide_once(plugin.parent, lambda place: _build(place / plugin.name, progress), progress)
    return plugin


def _plugin() -> Path | None:
    tvm, ffi, zig = map(package_version, ("apache-tvm", "apache-tvm-ffi", "ziglang"))
    if tvm is None or ffi is None or zig is None:
        return None
    recipe = b"".join((_HERE / name).read_bytes() for name in _SOURCES)
    recipe += " ".join((*_FLAGS, zig)).encode()
    folder = cache_root() / f"opencl-runtime-{tvm}-ffi-{ffi}-{digest_of(recipe)}"
    return folder / "plugin" / "opencl.so"


def _build(plugin: Path, progress: Progress) -> None:
    progress("building the OpenCL runtime (about a minute, once)")
    tvm, ffi = package_folder("tvm"), package_folder("tvm_ffi")
    headers = (tvm / "include", ffi / "include", ffi / "3rdparty" / "dlpack" / "include")
    command = [
        *("c++", str(_HERE / "plugin.cc"), "-o", str(plugin)),
        *(f"-I{folder}" for folder in headers),
        *_abi_libraries(),
        *(f"-L{package / 'lib'}" for package in (tvm, ffi)),
        *_FLAGS,
    ]
    build_with_zig("the OpenCL runtime", command, part="compiler", timeout=900)


def _abi_libraries() -> list[str]:
    """Return where this process has the C++ ABI's libraries; TVM's library brings them in."""
    ctypes.CDLL(str(package_folder("tvm_ffi") / "lib" / "libtvm_ffi.so"))
    lines = Path("/proc/self/maps").read_text().splitlines()
    folders = sorted({Path(line.split()[-1]).parent for line in lines if "/" in line})
    paths = []
    for name in _CXX_ABI:
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise ToolError(f"TVM's libraries did not load {name}; reinstall apache-tvm-ffi")
        paths.append(str(path))
    return paths


DEVICE_VARIABLE = "MBV3C_OPENCL_DEVICE"
PROFILE = ("mbv3c.opencl.profile_start", "mbv3c.opencl.profile_stop")  # global functions
DRIVER_REMEDY = (
    "install the OpenCL driver of your GPU, or PoCL, which runs on the processor: "
    f"`apt install pocl-opencl-icd`, or without root `{FETCH_COMMAND}`"
)

_VENDORS = Path("/etc/OpenCL/vendors")
_KERNEL = "_kernel"  # what TVM appends to a function's name for the kernel that it launches


@dataclass(frozen=True)
class DeviceInfo:
    """The chosen OpenCL device.

    Attributes:
        platform: name of the driver, such as "Portable Computing Language".
        name: name of the device.
        version: version of OpenCL, in the driver's words.
        driver: version of the driver.
        is_gpu: whether the driver calls the device a GPU; PoCL's is a CPU.
        has_half: whether the device has cl_khr_fp16; otherwise half arithmetic is emulated.
    """

    platform: str
    name: str
    version: str
    driver: str
    is_gpu: bool
    has_half: bool

    @property
    def sentence(self) -> str:
        """What it is, in a few words."""
        return f"{self.name} ({self.platform}{'' if self.is_gpu else ', a CPU'})"


@dataclass(frozen=True)
class Counters:
    """What the runtime did since it was loaded.

    Attributes:
        kernels_built: number of kernels that the driver compiled.
        kernels_loaded: number of kernels that came compiled from the cache.
        kernels_emulated: number of kernels, built or loaded, whose half arithmetic is emulated.
        launches: number of kernels enqueued.
        bytes_to_device: bytes copied from the host.
        bytes_to_host: bytes copied to the host.
        bytes_on_device: bytes copied between buffers of the device.
        cache_bytes_written: bytes written into files of compiled kernels.
        cache_entries_refused: number of such files that were broken or that the driver refused.
    """

    kernels_built: int
    kernels_loaded: int
    kernels_emulated: int
    launches: int
    bytes_to_device: int
    bytes_to_host: int
    bytes_on_device: int
    cache_bytes_written: int
    cache_entries_refused: int

    def since(self, before: "Counters") -> "Counters":
        """Return what was done after `before` was taken."""
        return Counters(**{name: a - getattr(before, name) for name, a in vars(self).items()})


@dataclass(frozen=True)
class KernelTime:
    """How long a kernel ran on the device, by the device's own clock.

    Attributes:
        kernel: name of the kernel.
        launches: number of runs.
        nanoseconds: time of all runs together.
    """

    kernel: str
    launches: int
    nanoseconds: int


def load_runtime(device: str | None = None, progress: Progress = lambda _: None) -> None:
    """Have TVM know the device `opencl` and load OpenCL modules. Builds the plugin if need be.

    Once in a process; a later call does nothing, unless it names another device. Does nothing
    where TVM was built with an OpenCL runtime of its own.

    Args:
        device: part of a device's "PLATFORM: NAME", case ignored; None for
            $MBV3C_OPENCL_DEVICE, and without that the first GPU, or else the first device.
        progress: function that is told when the plugin is built, which takes a minute the first
            time.

    Raises:
        ToolError: this is not Linux, the build failed, or another device was chosen before.
            A missing driver is reported by `device_info`, and by TVM at the first use.
    """
    import tvm_ffi

    configure = tvm_ffi.get_global_func("mbv3c.opencl.configure", allow_missing=True)
    if configure is None:
        if tvm_ffi.get_global_func("device_api.opencl", allow_missing=True) is not None:
            return  # this TVM was built with a runtime of its own
        plugin = provide_plugin(progress)
        # The plugin needs TVM's runtime library in the process before it.
        runtime = package_folder("tvm") / "lib" / "libtvm_runtime.so"
        for library in (runtime, plugin):
            ctypes.CDLL(str(library))
        configure = tvm_ffi.get_global_func("mbv3c.opencl.configure")
    elif device is None:
        return
    wanted = device if device is not None else os.environ.get(DEVICE_VARIABLE, "")
    if configure(_settings(wanted)) != wanted:  # a device is open
        info = device_info()
        if wanted.lower() not in f"{info.platform}: {info.name}".lower():
            raise ToolError(
                f"this process already uses the OpenCL device '{info.platform}: {info.name}', "
                f"not {wanted!r}; set {DEVICE_VARIABLE} before it starts"
            )


def autoload() -> None:
    """Load the runtime when TVM is imported, if it was built before; TVM calls this.

    Builds nothing, opens no driver, and never raises: TVM must come up without OpenCL.
    """
    try:
        if built_plugin() is not None:
            load_runtime()
    except (OSError, ToolError, RuntimeError, ValueError):
        # The next load_runtime() fails in the same way, and says so.
        return


def device_info() -> DeviceInfo:
    """Return the device that kernels run on; opens it.

    Raises:
        ToolError: there is none, or none of the wanted name.
    """
    return DeviceInfo(**json.loads(_call("mbv3c.opencl.device")))


def counters() -> Counters:
    """Return what the runtime did in this process so far."""
    return Counters(**json.loads(_call("mbv3c.opencl.counters")))


@contextmanager
def profiled() -> Iterator[list[KernelTime]]:
    """Time every kernel that is launched in the block; the list is filled when it ends.

    Costs an event per launch; the times are the device's own, without launch overhead.
    """
    times: list[KernelTime] = []
    _call(PROFILE[0])
    try:
        yield times
    finally:
        stopped = json.loads(_call(PROFILE[1]))
    times += [KernelTime(**row) for row in stopped]


def by_calls(calls: Sequence[str], times: Iterable[KernelTime]) -> list[tuple[str, float]]:
    """Give every call of a function that is one kernel its microseconds on the device.

    Calls of one kernel share its time in equal parts; functions that are no kernel are left out.
    """
    us = {time.kernel: time.nanoseconds / time.launches / 1e3 for time in times}
    named = ((call, f"{call}{_KERNEL}") for call in calls)
    return [(call, us[kernel]) for call, kernel in named if kernel in us]


def opencl_drivers() -> list[str]:
    """Return the OpenCL drivers that are named here, by file: the system's, and the kit's PoCL."""
    kit = opencl_kit()
    lines = [line.strip() for line in _system_icds().values()]
    return lines + ([str(kit.pocl)] if kit and not _has_pocl(lines) else [])


# ---- what the plugin is opened with ----


def _settings(wanted: str) -> dict[str, str]:
    kit = opencl_kit()
    settings = {
        "libraries": "\n".join(["libOpenCL.so.1", *([str(kit.loader)] if kit else [])]),
        "wanted": wanted,
        "cache": str(cache_root() / "opencl-programs"),
        "half": (_HERE / "half.cl").read_text(),
        "remedy": DRIVER_REMEDY,
    }
    system = _system_icds()
    if kit is not None and not _has_pocl(system.values()):
        settings["preload"] = "\n".join(map(str, [*kit.preload(), kit.pocl]))
        settings["vendors"] = str(_vendors(kit, system))
        if shutil.which("cc") is None:
            settings["path"] = str(kit.linker)
    return settings


def _system_icds() -> dict[str, str]:
    """Return the files that name this system's OpenCL drivers."""
    folder = Path(os.environ.get("OCL_ICD_VENDORS") or _VENDORS)
    return {path.name: path.read_text() for path in sorted(folder.glob("*.icd"))}


def _has_pocl(lines: Iterable[str]) -> bool:
    return any("pocl" in line for line in lines)


def _vendors(kit: OpenCLKit, system: dict[str, str]) -> Path:
    """Return a folder that names the kit's PoCL beside the system's drivers."""
    lines = {**system, "mbv3c-pocl.icd": f"{kit.pocl}\n"}
    folder = kit.system.with_name(f"vendors-{digest_of(json.dumps(lines).encode())}")

    def fill(place: Path) -> None:
        for name, line in lines.items():
            (place / name).write_text(line)

    provide_once(folder, fill)
    return folder


def _call(name: str) -> str:
    import tvm_ffi

    function: Callable[[], str] | None = tvm_ffi.get_global_func(name, allow_missing=True)
    if function is None:
        raise ToolError("the OpenCL runtime is not loaded; call load_runtime() first")
    try:
        return function()
    except RuntimeError as error:
        raise ToolError(str(error)) from error
