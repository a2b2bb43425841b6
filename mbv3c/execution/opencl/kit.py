"""PoCL, an ICD loader and oclgrind from Debian packages, unpacked into the cache without root.

opencl-kit-DIGEST/
system/usr/lib/TRIPLE/  the libraries of all three, and what they need
system/usr/share/pocl/  PoCL's headers and its library of built-in functions
system/usr/bin/         oclgrind-kernel, and GNU ld
system/bin/ld           what links PoCL's kernels where there is no C compiler
system/preload.txt      PoCL's libraries, each behind those that it needs
"""

import platform
import shutil
from collections.abc import Iterable, Sequence
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
from mbv3c.execution.elf import needed
from mbv3c.progress import Progress

_PACKAGES = ("pocl-opencl-icd", "ocl-icd-libopencl1", "binutils")
_OPTIONAL_PACKAGES = ("oclgrind",)  # stands on LLVM 14, which newer releases have no more
OCLGRIND = "oclgrind-kernel"
OCLGRIND_REMEDY = f"`apt install oclgrind`, or without root `{FETCH_COMMAND}`"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # in Debian's words
# The process has these: they came with Python, or with TVM, and must not be there twice.
_OF_THE_PROCESS = (
    *("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"),
    *("libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
)
# PoCL has clang link with libraries of a C compiler's installation. Kernels need only what the
# process has loaded, so where there is no compiler they are linked with nothing.
_LD = """\
#!/bin/sh
here=${{0%/*}}/../usr
for argument; do
    shift
    case $argument in
    -l* | -L* | *crt*.o) ;;
    *) set -- "$@" "$argument" ;;
    esac
done
exec "$here"/lib/{triple}/{loader} --library-path "$here"/lib/{triple} \\
    "$here"/bin/{triple}-ld.bfd "$@"
"""


@dataclass(frozen=True)
class OpenCLKit:
    """A fetched kit.

    Attributes:
        system: folder that holds the whole kit.
    """

    system: Path

    @property
    def libraries(self) -> Path:
        """Return the folder of the libraries."""
        return self.system / "usr" / "lib" / _triple()

    @property
    def loader(self) -> Path:
        """Return the ICD loader."""
        return self.libraries / "libOpenCL.so.1"

    @property
    def pocl(self) -> Path:
        """Return PoCL, as an ICD."""
        return self.libraries / "libpocl.so.2"

    @property
    def linker(self) -> Path:
        """Return the folder of an `ld` that needs no C compiler's installation."""
        return self.system / "bin"

    def preload(self) -> list[Path]:
        """Return the libraries to load before PoCL, in this order."""
        names = (self.system / "preload.txt").read_text().split()
        return [self.libraries / name for name in names]

    def oclgrind(self) -> list[str] | None:
        """Return how to start oclgrind, with the loader that it came with; None without it."""
        binary = self.system / "usr" / "bin" / OCLGRIND
        if not binary.is_file():
            return None
        return [
            str(self.libraries / _loader()),
            *("--library-path", str(self.libraries), str(binary)),
        ]


def opencl_kit() -> OpenCLKit | None:
    """Return the kit, or None when it is not fetched."""
    kit = OpenCLKit(_folder() / "system")
    return kit if kit.system.is_dir() else None


def oclgrind_command() -> list[str] | None:
    """Return how to start oclgrind-kernel, fetched or the system's; None without either."""
    kit = opencl_kit()
    if kit and (command := kit.oclgrind()):
        return command
    program = shutil.which(OCLGRIND)
    return [program] if program else None


def fetch_kit(progress: Progress) -> OpenCLKit:
    """Fetch the kit if it is not there yet. Needs apt's programs and its network, and no root.

    Raises:
        ToolError: this is no Debian or Ubuntu, or a download failed.
    """
    kit = OpenCLKit(_folder() / "system")
    if kit.system.is_dir():
        return kit
    architecture = _ARCHITECTURES.get(platform.machine())
    if platform.system() != "Linux" or architecture is None:
        raise ToolError(
            f"PoCL is fetched for Linux on x86_64 and aarch64, and this is {platform.system()} "
            f"on {platform.machine()}; install an OpenCL driver of your system"
        )
    require_apt("PoCL", "install your system's packages of PoCL and of an OpenCL ICD loader")
    provide_once(kit.system, lambda place: _fill(place, architecture, progress), progress)
    return kit


def _folder() -> Path:
    recipe = " ".join((*_PACKAGES, *_OPTIONAL_PACKAGES, _triple(), *_OF_THE_PROCESS, _LD))
    return cache_root() / f"opencl-kit-{digest_of(recipe.encode())}"


def _triple() -> str:
    return f"{platform.machine()}-linux-gnu"


def _loader() -> str:
    return {"aarch64": "ld-linux-aarch64.so.1"}.get(platform.machine(), "ld-linux-x86-64.so.2")


def _fill(place: Path, architecture: str, progress: Progress) -> None:
    everything = place / "everything"
    everything.mkdir()
    unpack_packages(
        everything,
        architecture,
        _PACKAGES,
        progress,
        size="150 MB",
        keep=("pocl",),
        optional=_OPTIONAL_PACKAGES,
    )
    progress("keeping what PoCL and oclgrind need")
    source, target = everything / "usr", place / "usr"
    triple = _triple()
    folders = [everything / "lib" / triple, source / "lib" / triple]
    shutil.copytree(source / "share" / "pocl", target / "share" / "pocl")
    for name in (f"{triple}/pocl", f"{triple}/oclgrind", "oclgrind"):
        if (source / "lib" / name).is_dir():  # where oclgrind is whole in one library, or PoCL
            shutil.copytree(source / "lib" / name, target / "lib" / name)
    (target / "bin").mkdir()
    shutil.copy(_need(source / "bin" / f"{triple}-ld.bfd"), target / "bin")
    if (source / "bin" / OCLGRIND).is_file():
        shutil.copy(source / "bin" / OCLGRIND, target / "bin")
    plugins = sorted((target / "lib").rglob("*.so"))
    pocl = closure(["libpocl.so.2"], folders)
    users = [*(target / "bin").iterdir(), *plugins]
    names = ["libOpenCL.so.1", *(name for path in users for name in needed(path))]
    others = closure(names, folders, [path.name for path in plugins])
    for name in {*pocl, *others, _loader()}:
        shutil.copy(find_library(name, folders), target / "lib" / triple / name)
    (place / "preload.txt").write_text("\n".join(pocl[:-1]) + "\n")
    (place / "bin").mkdir()
    ld = place / "bin" / "ld"
    ld.write_text(_LD.format(triple=triple, loader=_loader()))
    ld.chmod(0o755)
    shutil.rmtree(everything)


def closure(
    names: Iterable[str], folders: Sequence[Path], without: Sequence[str] = _OF_THE_PROCESS
) -> list[str]:
    """Return libraries and all that they need, each behind what it needs.

    Args:
        names: names of libraries, as programs are linked with them.
        folders: folders that hold the libraries.
        without: names of libraries that are left out.

    Raises:
        ToolError: one is in none of the folders.
    """
    order: list[str] = []
    visited = set(without)

    def visit(name: str) -> None:
        if name in visited:
            return
        visited.add(name)
        for other in needed(find_library(name, folders)):
            visit(other)
        order.append(name)

    for name in names:
        visit(name)
    return order


def find_library(name: str, folders: Sequence[Path]) -> Path:
    """Return where a library of unpacked packages is.

    Raises:
        ToolError: it is in none of the folders.
    """
    for folder in folders:
        path = folder / name
        if path.is_symlink() and str(path.readlink()).startswith("/"):
            path = folder / path.readlink().name  # absolute links mean the packages' root
        if path.is_file():
            return path
    raise ToolError(f"the Debian packages brought no {name}; report this with your release's name")


def _need(path: Path) -> Path:
    if not path.is_file():
        raise ToolError(
            f"the Debian packages brought no {path.name}; see to this system's apt sources, then "
            f"run `{FETCH_COMMAND}` again"
        )
    return path
