"""Find and fetch what emulates boards with a Cortex-M, without root.

mcu-kit-DIGEST/
system/          qemu-system-arm with its own libraries (Debian packages)
counter-DIGEST/  counter.so, a plugin of the emulator, built from execution/emulator/blocks.c
"""

import platform
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import (
    APT_REMEDY,
    FETCH_COMMAND,
    cache_root,
    digest_of,
    only_one,
    provide,
    require_apt,
    unpack_packages,
)
from mbv3c.execution.emulator.blocks import build_counter, counter_in
from mbv3c.execution.emulator.kit import native_arch
from mbv3c.execution.processes import require
from mbv3c.progress import Progress

_PACKAGES = ("qemu-system-arm",)
_COUNTER = "the instruction counter of Cortex-M boards"
_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
_LOADER = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
_PROGRAM = "usr/bin/qemu-system-arm"


@dataclass(frozen=True)
class McuKit:
    """What emulates boards.

    Attributes:
        system: folder of the emulator and its libraries.
        counter: plugin of the emulator that counts instructions.
    """

    system: Path
    counter: Path

    @property
    def command(self) -> list[str]:
        """Return how the emulator is started: through the loader that it came with."""
        libraries = ":".join(str(self.system / folder) for folder in _FOLDERS)
        loader = str(self.system / _LOADER)
        return [
            *(loader, "--inhibit-cache", "--library-path", libraries),
            str(self.system / _PROGRAM),
        ]


def kit_in_place() -> McuKit:
    """Return where the parts of the kit are, whether they are there or not."""
    folder = cache_root() / f"mcu-kit-{digest_of(' '.join(_PACKAGES).encode())}"
    return McuKit(folder / "system", counter_in(folder))


def mcu_kit() -> McuKit | None:
    """Return the kit, or None when it is not fetched, or only in part."""
    kit = kit_in_place()
    return kit if kit.system.is_dir() and kit.counter.is_file() else None


def require_kit() -> McuKit:
    """Return the kit.

    Raises:
        ToolError: it is not here.
    """
    kit = mcu_kit()
    if kit is None:
        raise ToolError(
            f"the emulator of Cortex-M boards is not here; fetch it with `{FETCH_COMMAND}=mcu`"
        )
    return kit


def fetch(progress: Progress) -> McuKit:
    """Fetch and build the parts of the kit that are not there yet.

    Needs the network, about 45 MB to download and 60 MB on disk; no root.

    Raises:
        ToolError: this machine cannot use the kit, or a download or the build failed.
    """
    if (platform.system(), native_arch()) != ("Linux", "x86_64"):
        raise ToolError(
            "the emulator of Cortex-M boards is for Linux on x86_64 and this is "
            f"{platform.system()} on {native_arch()}; compile with --no-verify, and check there"
        )
    kit = kit_in_place()
    with only_one(kit.system.parent, progress):
        provide(kit.system, lambda place: _fetch_system(place, progress))
        provide(kit.counter.parent, lambda place: build_counter(place, _COUNTER, progress))
    return kit


def _fetch_system(place: Path, progress: Progress) -> None:
    """Unpack qemu-system-arm, and keep of its packages what it loads."""
    require_apt(
        "the emulator of Cortex-M boards",
        f"unpack the Debian package {_PACKAGES[0]} and what it depends on with `dpkg-deb -x` into "
        f"{place.with_suffix('')} by hand, then run `{FETCH_COMMAND}=mcu` again",
    )
    unpack_packages(place, "amd64", _PACKAGES, progress, size="45 MB")
    kit = McuKit(place, place)
    if not (place / _PROGRAM).is_file() or not (place / _LOADER).is_file():
        raise ToolError(f"the package {_PACKAGES[0]} brought no {_PROGRAM}; {APT_REMEDY}")
    *loader, program = kit.command
    listed = require(
        [*loader, "--list", program],
        doing="listing what qemu-system-arm loads",
        remedy=APT_REMEDY,
        timeout=60,
    )
    loaded = {
        (folder / Path(word).name).resolve()
        for line in listed.stdout.splitlines()
        for word in line.split()
        if word.startswith(str(place))
        for folder in [Path(word).parent]
    }
    kept = loaded | {(place / _PROGRAM).resolve(), (place / _LOADER).resolve()}
    for path in sorted(place.rglob("*"), reverse=True):
        if path.is_symlink():
            if path.resolve() not in kept and not path.resolve().is_dir():
                path.unlink()
        elif path.is_file() and path.resolve() not in kept:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
