"""Find and fetch what runs bundles of other machines on this one, without root.

The emulator kit lies in a cache folder and has four parts, each put in place when it is whole:

    emulator-kit-TVM-ffi-FFI/
      system/         qemu-user with its own libraries, and an aarch64 sysroot (Debian packages)
      runtime/        libtvm_runtime.so and libtvm_ffi.so for aarch64 (from the PyPI wheels)
      runner-DIGEST/  mbv3c_run, built from runner/mbv3c_run.cc
      counter-DIGEST/ counter.so, a plugin of the emulator, built from counter/counter.c

Each function that fills a part gets an empty folder, which is put in its place when it is whole.
"""

import platform
import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import (
    APT_REMEDY,
    FETCH_COMMAND,
    build_with_zig,
    cache_root,
    digest_of,
    only_one,
    package_folder,
    package_version,
    provide,
    require_apt,
    unpack_packages,
)
from mbv3c.execution.elf import INTERPRETER, read_elf
from mbv3c.execution.processes import require
from mbv3c.progress import Progress

_PACKAGES = ("qemu-user", "libc6-arm64-cross", "libgcc-s1-arm64-cross", "libstdc++6-arm64-cross")
# Of the versions that mbv3c compiles with, for aarch64; tvm-ffi's for CPython 3.11.
_WHEELS = {
    "apache-tvm==0.27.0.post1": "4acfdb7653e4e1ba7a707bdf2833db72eb8fda7d04d99141f2a4e1da43171fb7",
    "apache-tvm-ffi==0.1.14.post1": (
        "c7a759781d4fbf2b99fa12f2741f250b882b06acc2747bb02831d491d1ac7d3c"
    ),
}
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
    """Take TVM's two runtime libraries out of the aarch64 wheels of the installed version.

    pip checks the wheels by their hashes, which stand here, and keeps no copy of its own.

    Raises:
        ToolError: pip fails, the wheels are others, or another version of TVM is installed.
    """
    packages = [f"{name}=={metadata.version(name)}" for name in ("apache-tvm", "apache-tvm-ffi")]
    unknown = [package for package in packages if package not in _WHEELS]
    if unknown:
        raise ToolError(
            f"the hash of the wheel of {unknown[0]} is not known to mbv3c; install "
            f"{' and '.join(_WHEELS)}"
        )
    wheels, hashes = place / "wheels", place / "hashes.txt"
    hashes.write_text("".join(f"{name} --hash=sha256:{_WHEELS[name]}\n" for name in packages))
    command = [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"),
        *("--no-deps", "--no-cache-dir", "--only-binary=:all:", "--implementation", "cp"),
        *("--python-version", "3.11", "--dest", str(wheels)),
        *(part for name in WHEEL_PLATFORMS for part in ("--platform", name)),
        *("--require-hashes", "--requirement", str(hashes)),
    ]
    remedy = (
        f"check the network and pip's settings, then run `{FETCH_COMMAND}` again; where hashes do "
        "not match, what pip found is not what was published, and nothing of it was kept"
    )
    progress(f"downloading the aarch64 wheels of {' and '.join(packages)} (about 95 MB)")
    require(
        command,
        doing="downloading the aarch64 TVM runtime",
        remedy=remedy,
        timeout=1800,
        environment={"TMPDIR": str(place)},  # what a killed pip leaves goes with the folder
    )
    hashes.unlink()
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in set(_RUNTIME_LIBRARIES) & set(archive.namelist()):
                (place / Path(member).name).write_bytes(archive.read(member))
    shutil.rmtree(wheels)
    for member in _RUNTIME_LIBRARIES:
        if not (place / Path(member).name).is_file():
            raise ToolError(f"the aarch64 wheels of {' and '.join(packages)} hold no {member}")


def _digest(source: Path, flags: Sequence[str]) -> str:
    """Return a name for a program as it is written now, so that a changed one is built anew."""
    return digest_of(source.read_bytes() + " ".join(flags).encode())


def build_runner(place: Path, runtime: Path, progress: Progress) -> None:
    """Cross-compile mbv3c_run into `place`, with zig: no cross compiler of the system is needed.

    `runtime` is what `fetch_runtime` filled.
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
    _build("mbv3c_run for aarch64", arguments, progress)


def build_counter(place: Path, progress: Progress) -> None:
    """Build the instruction counter, a plugin of the emulator, into `place`."""
    arguments = ["cc", str(_COUNTER_SOURCE), *_COUNTER_FLAGS, "-o", str(place / "counter.so")]
    _build("the instruction counter", arguments, progress)


def _build(what: str, arguments: Sequence[str], progress: Progress) -> None:
    progress(f"building {what}")
    build_with_zig(what, arguments, part="linker", timeout=600)


def sysroot(system: Path) -> Path:
    """Return the folder that stands for / of the emulated machine."""
    return system / "usr" / "aarch64-linux-gnu"


def emulator_command(system: Path, program: str = "qemu-aarch64") -> list[str]:
    """Return how to start a qemu: through the loader it came with, unless it is static.

    Raises:
        ToolError: the package brought no such program, or no loader.
    """
    qemu = system / "usr" / "bin" / program
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


# apache-tvm 0.27 takes any apache-tvm-ffi, but tuning crashes with one that it was not built for.
TVM_VERSION = "0.27.0.post1"
FFI_VERSION = "0.1.14.post1"

_SEPARATORS = ':;,"'  # of apt.conf, LD_LIBRARY_PATH, and qemu's -E: they know no escape


@dataclass(frozen=True)
class EmulatorKit:
    """A fetched kit.

    Attributes:
        runner: mbv3c_run for aarch64.
        runtime: folder of TVM's aarch64 libraries.
        system: folder of the emulator, its libraries and the sysroot.
        counter: plugin of the emulator that counts instructions.
    """

    runner: Path
    runtime: Path
    system: Path
    counter: Path

    def command(self, cpu: str, *options: str) -> list[str]:
        """Return the command that starts the runner; the runner's arguments go behind.

        Args:
            cpu: qemu's name of the processor to emulate ("cortex-a76", "max").
            options: further options of qemu.
        """
        return [
            *emulator_command(self.system),
            *("-cpu", cpu),
            *options,
            *("-L", str(sysroot(self.system))),
            *("-U", "LD_PRELOAD"),
            *("-E", f"LD_LIBRARY_PATH={self.runtime}"),
            str(self.runner),
        ]


def native_arch() -> str:
    """Return this machine's architecture as LLVM spells it, such as x86_64 or aarch64."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def emulator_kit() -> EmulatorKit | None:
    """Return the kit for the installed TVM, or None when it is not fetched, or only in part."""
    folder = kit_folder()
    if folder is None:
        return None
    kit = kit_in(folder)
    places = (kit.system, kit.runtime, kit.runner, kit.counter)
    return kit if all(place.exists() for place in places) else None


def fetch(progress: Progress) -> EmulatorKit:
    """Fetch and build the parts of the emulator kit that are not there yet.

    Needs the network, about 130 MB to download and 90 MB on disk; no root.

    Raises:
        ToolError: this machine cannot use the kit, or a download or the build failed.
    """
    if (platform.system(), native_arch()) != ("Linux", "x86_64"):
        here = f"{platform.system()} on {native_arch()}"
        raise ToolError(
            f"the emulator kit is for Linux on x86_64 and this is {here}; "
            "check aarch64 bundles on a board with mbv3c_run, or on an x86_64 Linux machine"
        )
    folder = kit_folder()
    if folder is None:
        raise ToolError("apache-tvm is not installed in this Python; install mbv3c with pip")
    if any(character in str(folder) for character in _SEPARATORS):
        raise ToolError(
            f"the cache folder {folder} has one of {_SEPARATORS} in its name, which the tools "
            "cannot express; set MBV3C_CACHE to another folder"
        )
    kit = kit_in(folder)
    with only_one(folder, progress):
        provide(kit.system, lambda place: fetch_system(place, progress))
        provide(kit.runtime, lambda place: fetch_runtime(place, progress))
        provide(kit.runner.parent, lambda place: build_runner(place, kit.runtime, progress))
        provide(kit.counter.parent, lambda place: build_counter(place, progress))
    return kit


# ---- the kit's place ----


def kit_folder() -> Path | None:
    """Return the folder of the kit for the installed TVM; None without TVM."""
    tvm, ffi = package_version("apache-tvm"), package_version("apache-tvm-ffi")
    return cache_root() / f"emulator-kit-{tvm}-ffi-{ffi}" if tvm and ffi else None


def kit_in(folder: Path) -> EmulatorKit:
    """Return where the parts of the kit are in its folder, whether they are there or not."""
    runner = folder / f"runner-{_digest(_RUNNER_SOURCE, _RUNNER_FLAGS)}" / "mbv3c_run"
    counter = folder / f"counter-{_digest(_COUNTER_SOURCE, _COUNTER_FLAGS)}" / "counter.so"
    return EmulatorKit(runner, folder / "runtime", folder / "system", counter)
