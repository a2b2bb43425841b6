"""Find and fetch what emulates processors under Linux for which TVM has no runtime, without root.

cores-kit-DIGEST/
system/          qemu-arm and qemu-riscv64 with their libraries (Debian package qemu-user)
counter-DIGEST/  counter.so, a plugin of the emulator, built from blocks.c
"""

import platform
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import (
    FETCH_COMMAND,
    cache_root,
    digest_of,
    only_one,
    provide,
    require_apt,
    unpack_packages,
)
from mbv3c.execution.emulator.blocks import build_counter, counter_in
from mbv3c.execution.emulator.kit import emulator_command, native_arch
from mbv3c.progress import Progress

_PACKAGE = "qemu-user"
# The emulator of each architecture, by the first word of LLVM's triples.
EMULATORS = {"armv7": "qemu-arm", "riscv64": "qemu-riscv64"}
CORES_FETCH = f"{FETCH_COMMAND}=emulator"


@dataclass(frozen=True)
class CoresKit:
    """What emulates processors.

    Attributes:
        system: folder of the emulators and their libraries.
        counter: plugin of the emulators that counts instructions.
    """

    system: Path
    counter: Path

    def command(self, arch: str, cpu: str) -> list[str]:
        """Return the command that starts a program on a processor; the program goes behind.

        Args:
            arch: a key of `EMULATORS`.
            cpu: the emulator's name of the processor.
        """
        return [*emulator_command(self.system, EMULATORS[arch]), "-cpu", cpu]


def kit_in_place() -> CoresKit:
    """Return where the parts of the kit are, whether they are there or not."""
    recipe = " ".join((_PACKAGE, *EMULATORS.values()))
    folder = cache_root() / f"cores-kit-{digest_of(recipe.encode())}"
    return CoresKit(folder / "system", counter_in(folder))


def cores_kit() -> CoresKit | None:
    """Return the kit, or None when it is not fetched, or only in part."""
    kit = kit_in_place()
    return kit if kit.system.is_dir() and kit.counter.is_file() else None


def require_cores_kit(target: str) -> CoresKit:
    """Return the kit, which a target needs.

    Raises:
        ToolError: it is not here.
    """
    kit = cores_kit()
    if kit is None:
        raise ToolError(
            f"the emulator that verifies for {target} is not here: fetch it with `{CORES_FETCH}`, "
            "or compile with --no-verify"
        )
    return kit


def fetch_cores(progress: Progress) -> CoresKit:
    """Fetch and build the parts of the kit that are not there yet.

    Needs the network, about 25 MB to download and 30 MB on disk; no root.

    Raises:
        ToolError: this machine cannot use the kit, or a download or the build failed.
    """
    if (platform.system(), native_arch()) != ("Linux", "x86_64"):
        raise ToolError(
            "the emulators of 32-bit ARM and of RISC-V are for Linux on x86_64 and this is "
            f"{platform.system()} on {native_arch()}; compile with --no-verify, and check on a "
            "board: c/test has vectors"
        )
    kit = kit_in_place()
    what = "the instruction counter of 32-bit ARM and RISC-V"
    with only_one(kit.system.parent, progress):
        provide(kit.system, lambda place: _fetch_system(place, progress))
        provide(kit.counter.parent, lambda place: build_counter(place, what, progress))
    return kit


def _fetch_system(place: Path, progress: Progress) -> None:
    """Unpack qemu-user and what it needs, and keep of its programs those that are used."""
    require_apt(
        "the emulators of 32-bit ARM and of RISC-V",
        f"unpack the Debian package {_PACKAGE} and what it depends on with `dpkg-deb -x` into "
        f"{place.with_suffix('')} by hand, then run `{CORES_FETCH}` again",
    )
    unpack_packages(place, "amd64", (_PACKAGE,), progress)
    for program in (place / "usr" / "bin").iterdir():
        if program.name not in EMULATORS.values():
            program.unlink()
    for name in EMULATORS.values():
        emulator_command(place, name)  # a package without what we need fails here
