"""Find and fetch what runs bundles of other machines on this one, without root.

The emulator kit lies in a cache folder and has four parts, each put in place when it is whole:

    emulator-kit-TVM-ffi-FFI/
      system/         qemu-user with its own libraries, and an aarch64 sysroot (Debian packages)
      runtime/        libtvm_runtime.so and libtvm_ffi.so for aarch64 (from the PyPI wheels)
      runner-DIGEST/  mbv3c_run, built from runner/mbv3c_run.cc
      counter-DIGEST/ counter.so, a plugin of the emulator, built from counter/counter.c
"""

import platform
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import cache_root, only_one, provide
from mbv3c.execution.emulator.fetch import (
    build_counter,
    build_runner,
    counter_digest,
    emulator_command,
    fetch_runtime,
    fetch_system,
    runner_digest,
    sysroot,
)
from mbv3c.execution.installed import package_version
from mbv3c.progress import Progress

# apache-tvm 0.27 takes any apache-tvm-ffi, but tuning crashes with one that it was not built for.
TVM_VERSION = "0.27.0.post1"
FFI_VERSION = "0.1.14.post1"

_SEPARATORS = ':;,"'  # of apt.conf, LD_LIBRARY_PATH, and qemu's -E: they know no escape


@dataclass(frozen=True)
class EmulatorKit:
    """A fetched kit.

    Attributes:
        runner: the mbv3c_run program for aarch64.
        runtime: the folder of TVM's aarch64 libraries.
        system: the folder of the emulator, its libraries and the sysroot.
        counter: the emulator's plugin that counts instructions.
    """

    runner: Path
    runtime: Path
    system: Path
    counter: Path

    def command(self, cpu: str, *options: str) -> list[str]:
        """Return the command that starts the runner; its own arguments go behind.

        Args:
            cpu: the processor to emulate, in qemu's words ("cortex-a76", "max").
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
    zig_cache = cache_root() / "zig"
    with only_one(folder, progress):
        provide(kit.system, lambda place: fetch_system(place, progress))
        provide(kit.runtime, lambda place: fetch_runtime(place, progress))
        provide(
            kit.runner.parent, lambda place: build_runner(place, kit.runtime, zig_cache, progress)
        )
        provide(kit.counter.parent, lambda place: build_counter(place, zig_cache, progress))
    return kit


# ---- the kit's place ----


def kit_folder() -> Path | None:
    """Return the folder of the kit for the installed TVM; None without TVM."""
    tvm, ffi = package_version("apache-tvm"), package_version("apache-tvm-ffi")
    return cache_root() / f"emulator-kit-{tvm}-ffi-{ffi}" if tvm and ffi else None


def kit_in(folder: Path) -> EmulatorKit:
    """Return where the parts of the kit are in its folder, whether they are there or not."""
    runner = folder / f"runner-{runner_digest()}" / "mbv3c_run"
    counter = folder / f"counter-{counter_digest()}" / "counter.so"
    return EmulatorKit(runner, folder / "runtime", folder / "system", counter)
