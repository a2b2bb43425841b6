"""llvm-mca and llvm-mc, which analyse machine code: fetched without root, or found on the PATH.

llvm-kit-DIGEST/system/
bin/  llvm-mc, llvm-mca
lib/  the libraries that they need, and the loader that starts them
"""

import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.execution.cache import (
    FETCH_COMMAND,
    cache_root,
    digest_of,
    provide_once,
    require_apt,
    unpack_packages,
)
from mbv3c.execution.opencl.kit import closure, find_library
from mbv3c.execution.processes import finish
from mbv3c.progress import Progress

_PACKAGE, _TRIPLE, _LOADER = "llvm-19", "x86_64-linux-gnu", "ld-linux-x86-64.so.2"
_PROGRAMS = ("llvm-mc", "llvm-mca")
_OLDEST = 17  # the first with a scheduling model of the Neoverse N1; before, it was Cortex-A57's
_OPTIONS = {  # those that not every version has
    # Callees are counted by themselves; without this a call takes 100 cycles.
    "-call-latency": "-call-latency=1",
    # Without this a single instruction that a model lacks ends the analysis.
    "-skip-unsupported-instructions": "-skip-unsupported-instructions=lack-sched",
}
LLVM_REMEDY = (
    f"`{FETCH_COMMAND}=cycles`, or install llvm-mca and llvm-mc of LLVM {_OLDEST} or newer"
)


@dataclass(frozen=True)
class Llvm:
    """LLVM's programs.

    Attributes:
        mc: command that starts llvm-mc.
        mca: command that starts llvm-mca, with the options that this version has.
        version: version of both programs.
    """

    mc: tuple[str, ...]
    mca: tuple[str, ...]
    version: str


def find_llvm() -> Llvm | None:
    """Return the fetched kit or, without it, the newest that is on the PATH; None without either.

    The kit comes first, so that all machines that have it give equal estimates.
    """
    kit = _folder() / "system"
    if kit.is_dir():
        return _examined(*(_started(kit, name) for name in _PROGRAMS))
    pairs = (_examined([mc], [mca]) for mc, mca in _on_path())
    usable = [pair for pair in pairs if pair is not None and _major(pair.version) >= _OLDEST]
    return max(usable, key=lambda pair: _major(pair.version), default=None)


def fetch_llvm(progress: Progress) -> Llvm:
    """Fetch the kit if it is not there yet: 75 MB to download and 190 MB on disk; no root.

    Raises:
        ToolError: this machine cannot use it, or a download failed.
    """
    place = _folder() / "system"
    if not place.is_dir():
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise ToolError(
                "cycles are estimated of what the emulator counts, which is for Linux on x86_64; "
                f"this is {platform.system()} on {platform.machine()}"
            )
        require_apt("llvm-mca", f"install llvm-mca and llvm-mc of LLVM {_OLDEST} or newer")
        provide_once(place, lambda partial: _fill(partial, progress), progress)
    kit = find_llvm()
    if kit is None:
        raise ToolError(f"the llvm-mca in {place} does not run; remove the folder, {LLVM_REMEDY}")
    return kit


def _folder() -> Path:
    recipe = " ".join((_PACKAGE, _TRIPLE, *_PROGRAMS))
    return cache_root() / f"llvm-kit-{digest_of(recipe.encode())}"


def _fill(place: Path, progress: Progress) -> None:
    everything = place / "everything"
    everything.mkdir()
    unpack_packages(everything, "amd64", (_PACKAGE,), progress, size="75 MB")
    progress("keeping what llvm-mca needs")
    usr = everything / "usr"
    folders = [everything / "lib" / _TRIPLE, usr / "lib" / _TRIPLE]
    for name in ("bin", "lib"):
        (place / name).mkdir()
    for name in _PROGRAMS:
        shutil.copy(usr / "bin" / f"{name}{_PACKAGE.removeprefix('llvm')}", place / "bin" / name)
    # Both need LLVM's one library, and what that needs.
    library = next((usr / "lib" / _TRIPLE).glob("libLLVM.so.*")).name
    for name in {*closure([library], folders, ()), _LOADER}:
        shutil.copy(find_library(name, folders), place / "lib" / name)
    shutil.rmtree(everything)


def _started(kit: Path, program: str) -> list[str]:
    libraries = kit / "lib"
    loader = [str(libraries / _LOADER), "--inhibit-cache"]
    return [*loader, "--library-path", str(libraries), str(kit / "bin" / program)]


def _on_path() -> list[tuple[str, str]]:
    """Return the pairs of llvm-mc and llvm-mca with one suffix."""
    names = {
        path.name
        for folder in os.get_exec_path()
        if Path(folder).is_dir()
        for path in Path(folder).glob("llvm-mca*")
    }
    suffixes = sorted(name[8:] for name in names if re.fullmatch(r"llvm-mca(-\d+)?", name))
    pairs = [[shutil.which(name + suffix) for name in _PROGRAMS] for suffix in suffixes]
    return [(mc, mca) for mc, mca in pairs if mc and mca]


def _examined(mc: Sequence[str], mca: Sequence[str]) -> Llvm | None:
    """Ask a pair what it is; None when it does not run."""
    answer = finish([*mca, "--version"], timeout=60)
    version = re.search(r"LLVM version (\d\S*)", answer.stdout)
    if answer.returncode != 0 or version is None:
        return None
    known = finish([*mca, "--help-hidden"], timeout=60).stdout
    options = [option for name, option in _OPTIONS.items() if f"-{name}=" in known]
    return Llvm(tuple(mc), (*mca, *options), version.group(1))


def _major(version: str) -> int:
    return int(version.partition(".")[0])
