"""Build the OpenCL runtime, a plugin of TVM, from the C++ beside this file.

    opencl-runtime-TVM-ffi-FFI-DIGEST/plugin/opencl.so

The digest is of the sources, the options and the compiler's version.
"""

import ctypes
import hashlib
import platform
import sys
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import ZIG_CACHES, cache_root, only_one, provide
from mbv3c.execution.installed import package_folder, package_version
from mbv3c.execution.processes import require
from mbv3c.progress import Progress

_HERE = Path(__file__).parent
_SOURCES = ("plugin.cc", "api.h", "module.h", "programs.h", "device.h", "cl.h")
_FLAGS = (
    # glibc 2.28 is what TVM's wheels ask for.
    *("-target", f"{platform.machine()}-linux-gnu.2.28"),
    *("-std=c++20", "-O2", "-s", "-shared", "-fPIC", "-fvisibility=hidden"),
    *("-Wl,--allow-shlib-undefined", "-ltvm_runtime", "-ltvm_ffi"),
)
# The C++ ABI that TVM's libraries stand on; plugin.cc says why the plugin needs the same.
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
    if not plugin.exists():
        with only_one(plugin.parents[1], progress):
            provide(plugin.parent, lambda place: _build(place / plugin.name, progress))
    return plugin


def tvm_runtime() -> Path:
    """Return TVM's runtime library, which the plugin needs in the process before it.

    Raises:
        ToolError: TVM is not installed.
    """
    return package_folder("tvm") / "lib" / "libtvm_runtime.so"


def _plugin() -> Path | None:
    tvm, ffi, zig = map(package_version, ("apache-tvm", "apache-tvm-ffi", "ziglang"))
    if tvm is None or ffi is None or zig is None:
        return None
    recipe = b"".join((_HERE / name).read_bytes() for name in _SOURCES)
    recipe += " ".join((*_FLAGS, zig)).encode()
    digest = hashlib.sha256(recipe).hexdigest()[:12]
    folder = cache_root() / f"opencl-runtime-{tvm}-ffi-{ffi}-{digest}"
    return folder / "plugin" / "opencl.so"


def _build(plugin: Path, progress: Progress) -> None:
    progress("building the OpenCL runtime (about a minute, once)")
    tvm, ffi = package_folder("tvm"), package_folder("tvm_ffi")
    headers = (tvm / "include", ffi / "include", ffi / "3rdparty" / "dlpack" / "include")
    command = [
        *(sys.executable, "-m", "ziglang", "c++", str(_HERE / "plugin.cc"), "-o", str(plugin)),
        *(f"-I{folder}" for folder in headers),
        *_abi_libraries(),
        *(f"-L{package / 'lib'}" for package in (tvm, ffi)),
        *_FLAGS,
    ]
    zig_cache = str(cache_root() / "zig")
    require(
        command,
        doing="building the OpenCL runtime",
        remedy="install the compiler with `pip install ziglang`, or report the lines below",
        timeout=900,
        environment=dict.fromkeys(ZIG_CACHES, zig_cache),
    )


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
