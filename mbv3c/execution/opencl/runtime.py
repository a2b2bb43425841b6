"""Load the OpenCL runtime into this process, and ask it what it did."""

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import FETCH_COMMAND, cache_root, only_one, provide
from mbv3c.execution.opencl.kit import OpenCLKit, opencl_kit
from mbv3c.execution.opencl.plugin import built_plugin, provide_plugin, tvm_runtime
from mbv3c.progress import Progress

DEVICE_VARIABLE = "MBV3C_OPENCL_DEVICE"
PROFILE = ("mbv3c.opencl.profile_start", "mbv3c.opencl.profile_stop")  # global functions
DRIVER_REMEDY = (
    "install the OpenCL driver of your GPU, or PoCL, which runs on the processor: "
    f"`apt install pocl-opencl-icd`, or without root `{FETCH_COMMAND}`"
)

_HERE = Path(__file__).parent
_VENDORS = Path("/etc/OpenCL/vendors")
_KERNEL = "_kernel"  # what TVM appends to a function's name for the kernel that it launches


@dataclass(frozen=True)
class DeviceInfo:
    """The chosen OpenCL device.

    Attributes:
        platform: the driver's name, such as "Portable Computing Language".
        name: the device's name.
        version: what it implements, in the driver's words.
        driver: the driver's version.
        is_gpu: whether the driver calls it a GPU; PoCL's is a CPU.
        has_half: whether it has cl_khr_fp16; else half arithmetic is emulated on it.
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
        kernels_built: kernels that the driver compiled.
        kernels_loaded: kernels that came compiled from the cache.
        kernels_emulated: those of both whose half arithmetic is emulated.
        launches: kernels enqueued.
        bytes_to_device: copied from the host.
        bytes_to_host: copied to the host.
        bytes_on_device: copied between buffers of the device.
        cache_bytes_written: into files of compiled kernels.
        cache_entries_refused: such files that were broken, of another driver, or refused by it.
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
        return Counters(*(a - b for a, b in zip(_values(self), _values(before), strict=True)))


@dataclass(frozen=True)
class KernelTime:
    """How long a kernel ran on the device, by the device's own clock.

    Attributes:
        kernel: its name.
        launches: how often it ran.
        nanoseconds: in all of them together.
    """

    kernel: str
    launches: int
    nanoseconds: int


def load_runtime(device: str | None = None, progress: Progress = lambda _: None) -> None:
    """Have TVM know the device `opencl` and load OpenCL modules. Builds the plugin if need be.

    Once in a process; a later call does nothing, unless it names another device. Does nothing
    where TVM was built with an OpenCL runtime of its own.

    Args:
        device: part of a device's "PLATFORM: NAME", case ignored; otherwise
            $MBV3C_OPENCL_DEVICE; otherwise the first GPU, or without one the first device.
        progress: told when the plugin is built, which takes a minute the first time.

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
        for library in (tvm_runtime(), plugin):
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
        # The next load_runtime() meets the same trouble, and says so.
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
    us = {one.kernel: one.nanoseconds / one.launches / 1e3 for one in times}
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
    digest = hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:12]
    folder = kit.system.with_name(f"vendors-{digest}")

    def fill(place: Path) -> None:
        for name, line in lines.items():
            (place / name).write_text(line)

    if not folder.is_dir():
        with only_one(kit.system.parent, lambda _: None):
            provide(folder, fill)
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


def _values(counters: Counters) -> list[int]:
    return list(vars(counters).values())
