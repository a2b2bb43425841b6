"""Fill the parts of the emulator kit: Debian packages, TVM's libraries, our runner and counter.

Each function here fills an empty folder; `toolbox` decides where it is and puts it in place.
"""

import hashlib
import shutil
import sys
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import FETCH_COMMAND, ZIG_CACHES
from mbv3c.execution.debian import APT_REMEDY, require_apt, unpack_packages
from mbv3c.execution.elf import INTERPRETER, read_elf
from mbv3c.execution.installed import package_folder
from mbv3c.execution.processes import require
from mbv3c.progress import Progress

_PACKAGES = ("qemu-user", "libc6-arm64-cross", "libgcc-s1-arm64-cross", "libstdc++6-arm64-cross")
WHEEL_PLATFORMS = (
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_24_aarch64",
    "manylinux2014_aarch64",
)
_RUNTIME_LIBRARIES = ("tvm/lib/libtvm_runtime.so", "tvm_ffi/lib/libtvm_ffi.so")
_RUNNER_SOURCE = Path(__file__).with_name("mbv3c_run.cc")
_RUNNER_FLAGS = (
    # glibc 2.28 is what the aarch64 wheels ask for, and what boards have since 2018.
    *("-target", "aarch64-linux-gnu.2.28", "-O2", "-s", "-std=c++17"),
    *("-fno-exceptions", "-fno-rtti", "-nostdlib++"),
    # Nothing in the runner names libtvm_runtime, which registers itself when it is loaded.
    *("-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined", "-ltvm_runtime", "-ltvm_ffi"),
    "-ldl",  # part of the C library only since glibc 2.34
)
_COUNTER_SOURCE = Path(__file__).with_name("counter.c")
_COUNTER_FLAGS = (
    *("-target", "x86_64-linux-gnu.2.17", "-shared", "-fPIC", "-O2", "-s", "-std=c11"),
    *("-D_GNU_SOURCE", "-fvisibility=hidden", "-Wl,--allow-shlib-undefined"),
)


def fetch_system(place: Path, progress: Progress) -> None:
    """Unpack qemu-user, all libraries it needs, and the aarch64 C and C++ libraries."""
    require_apt(
        "the emulator",
        f"unpack the Debian packages {', '.join(_PACKAGES)} and what qemu-user depends on with "
        f"`dpkg-deb -x` into {place.with_suffix('')} by hand, then run `{FETCH_COMMAND}` again",
    )
    unpack_packages(place, "amd64", _PACKAGES, progress)
    for program in (place / "usr" / "bin").iterdir():
        if program.name != "qemu-aarch64":
            program.unlink()
    emulator_command(place)  # a package without what we need fails here, not at first use
    if not (sysroot(place) / "lib" / "ld-linux-aarch64.so.1").exists():
        raise ToolError(f"the arm64-cross packages brought no C library; {APT_REMEDY}")


def fetch_runtime(place: Path, progress: Progress) -> None:
    """Take TVM's two runtime libraries out of the aarch64 wheels of the installed version."""
    packages = [f"{name}=={metadata.version(name)}" for name in ("apache-tvm", "apache-tvm-ffi")]
    wheels = place / "wheels"
    command = [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"),
        *("--no-deps", "--only-binary=:all:", "--implementation", "cp"),
        *("--python-version", "3.11", "--dest", str(wheels)),
        *(part for name in WHEEL_PLATFORMS for part in ("--platform", name)),
        *packages,
    ]
    remedy = f"check the network and pip's settings, then run `{FETCH_COMMAND}` again"
    progress(f"downloading the aarch64 wheels of {' and '.join(packages)} (about 95 MB)")
    require(command, doing="downloading the aarch64 TVM runtime", remedy=remedy, timeout=1800)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in set(_RUNTIME_LIBRARIES) & set(archive.namelist()):
                (place / Path(member).name).write_bytes(archive.read(member))
    shutil.rmtree(wheels)
    for member in _RUNTIME_LIBRARIES:
        if not (place / Path(member).name).is_file():
            raise ToolError(f"the aarch64 wheels of {' and '.join(packages)} hold no {member}")


def runner_digest() -> str:
    """Return a name for the runner as it is written now, so that a changed one is built anew."""
    return _digest(_RUNNER_SOURCE, _RUNNER_FLAGS)


def counter_digest() -> str:
    """Return a name for the instruction counter as it is written now."""
    return _digest(_COUNTER_SOURCE, _COUNTER_FLAGS)


def _digest(source: Path, flags: Sequence[str]) -> str:
    recipe = source.read_bytes() + " ".join(flags).encode()
    return hashlib.sha256(recipe).hexdigest()[:12]


def build_runner(place: Path, runtime: Path, zig_cache: Path, progress: Progress) -> None:
    """Cross-compile mbv3c_run into `place`, with zig: no cross compiler of the system is needed.

    `runtime` is what `fetch_runtime` filled; zig keeps the C library that it builds the first
    time in `zig_cache`.
    """
    package = package_folder("tvm_ffi")
    headers = (package / "include", package / "3rdparty" / "dlpack" / "include")
    arguments = [
        *("c++", str(_RUNNER_SOURCE)),
        *("-o", str(place / "mbv3c_run")),
        *(f"-I{folder}" for folder in headers if folder.is_dir()),
        f"-L{runtime}",
        *_RUNNER_FLAGS,
    ]
    _build("mbv3c_run for aarch64", arguments, zig_cache, progress)


def build_counter(place: Path, zig_cache: Path, progress: Progress) -> None:
    """Build the instruction counter, a plugin of the emulator, into `place`."""
    arguments = ["cc", str(_COUNTER_SOURCE), *_COUNTER_FLAGS, "-o", str(place / "counter.so")]
    _build("the instruction counter", arguments, zig_cache, progress)


def _build(what: str, arguments: Sequence[str], zig_cache: Path, progress: Progress) -> None:
    progress(f"building {what}")
    require(
        [sys.executable, "-m", "ziglang", *arguments],
        doing=f"building {what}",
        remedy="install the linker with `pip install ziglang`, or report the lines below",
        timeout=600,
        environment=dict.fromkeys(ZIG_CACHES, str(zig_cache)),
    )


def sysroot(system: Path) -> Path:
    """Return the folder that stands for / of the emulated machine."""
    return system / "usr" / "aarch64-linux-gnu"


def emulator_command(system: Path) -> list[str]:
    """Return how to start qemu: through the loader it came with, unless it is static."""
    qemu = system / "usr" / "bin" / "qemu-aarch64"
    if not qemu.is_file():
        raise ToolError(f"the package qemu-user brought no {qemu.name}")
    kinds = {segment.kind for segment in read_elf(qemu, "program").segments}
    if INTERPRETER not in kinds:
        return [str(qemu)]
    folders = [system / part / "x86_64-linux-gnu" for part in ("lib", "usr/lib")]
    loaders = [folder / "ld-linux-x86-64.so.2" for folder in folders]
    loader = next((path for path in loaders if path.is_file()), None)
    if loader is None:
        raise ToolError(f"the packages of qemu-user brought no {loaders[0].name}")
    libraries = ":".join(str(folder) for folder in folders)
    return [str(loader), "--inhibit-cache", "--library-path", libraries, str(qemu)]
