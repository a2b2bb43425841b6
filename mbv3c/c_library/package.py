"""What build systems need to find a C library: a CMake package and a file for pkg-config."""

from collections.abc import Sequence
from pathlib import Path

from mbv3c.c_library.source import Interface
from mbv3c.version import __version__

_IN_LIBC = {"getauxval"}


def cmake_package(folder: Path, prefix: str) -> None:
    """Write a package, from which `find_package` makes the target PREFIX::PREFIX.

    See cmake-packages(7), "Config-file Packages".
    """
    target = f"{prefix}::{prefix}"
    lines = [
        f"if(NOT TARGET {target})",
        '  get_filename_component(_root "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)',
        f"  add_library({target} STATIC IMPORTED)",
        f"  set_target_properties({target} PROPERTIES",
        f'    IMPORTED_LOCATION "${{_root}}/lib/lib{prefix}.a"',
        '    INTERFACE_INCLUDE_DIRECTORIES "${_root}/include")',
        "  unset(_root)",
        "endif()",
    ]
    folder.mkdir(parents=True)
    (folder / f"{prefix}Config.cmake").write_text("\n".join(lines) + "\n")


def pkg_config(folder: Path, own: Interface, needs: Sequence[str]) -> None:
    """Write PREFIX.pc; `needs` are the functions that must be linked beside it."""
    lines = [
        "prefix=${pcfiledir}/../..",
        f"Name: {own.prefix}",
        f"Description: {own.constants['TARGET']} {own.constants['PRECISION']}",
        f"Version: {__version__}",
        "Cflags: -I${prefix}/include",
        f"Libs: -L${{prefix}}/lib -l{own.prefix}{' -lm' if set(needs) - _IN_LIBC else ''}",
    ]
    folder.mkdir(parents=True)
    (folder / f"{own.prefix}.pc").write_text("\n".join(lines) + "\n")
