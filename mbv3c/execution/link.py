"""Link objects to a shared library for any processor, without a sysroot."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from errno import ENOSPC
from pathlib import Path
from typing import Any

from mbv3c.errors import ToolError
from mbv3c.execution.cache import ZIG_CACHES
from mbv3c.scratch import scratch_folder

# How C beside what TVM compiled becomes a part of it.
_BESIDE = (
    *("-std=c11", "-O2", "-g0", "-fvisibility=hidden", "-ffreestanding", "-fno-stack-protector"),
    *("-fno-sanitize=all", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"),
)
_FULL = ("NoSpaceLeft", "No space left", "Disk quota exceeded")


def link(
    executable: Any,
    triple: str,
    output: Path,
    *,
    name: str,
    symbols: bool = False,
    beside: str = "",
    objects: Sequence[Path] = (),
) -> None:
    """Link what TVM compiled to the shared library `output`.

    Args:
        executable: what `tvm.compile` returned.
        triple: LLVM's target triple.
        output: the library to write.
        name: what error messages call the target.
        symbols: whether to keep the symbol table.
        beside: C that is compiled for any processor of the triple, and linked, too.
        objects: further objects of the library.

    Raises:
        ToolError: the linker failed.
        OSError: the disk is full.
    """
    linker = _linker(triple, name, symbols, beside, objects)
    # The objects go beside the output: where that fits, they fit too.
    with tempfile.TemporaryDirectory(prefix="objects-", dir=output.parent) as place:
        try:
            executable.export_library(str(output), fcompile=linker, workspace_dir=place)
        except RuntimeError as error:  # of TVM, which writes them
            if not any(sign in str(error) for sign in _FULL):
                raise
            raise OSError(ENOSPC, os.strerror(ENOSPC), str(output)) from error


def _linker(triple: str, name: str, symbols: bool, beside: str, further: Sequence[Path]) -> Any:
    """Return a linker in the form that `export_library` wants.

    The objects need a few symbols of the process that loads them and link no C library, so a bare
    `-nostdlib` link is enough; zig's clang does it for every triple without a sysroot. Neither
    build id nor, unless asked for, symbol table is kept: equal inputs give equal bytes. What
    `further` objects refer to is found inside.
    """

    def link(output: str, objects: list[str], options: object = None) -> None:
        command = ["cc", "-target", zig_triple(triple)]
        if "-apple-" in triple:  # two names come from the process, as everywhere
            command += ["-nostdlib", "-shared", "-Wl,-undefined,dynamic_lookup"]
        else:
            command += ["-nostdlib", "-shared", *([] if symbols else ["-s"])]
            command += ["-Wl,--build-id=none", *(["-Wl,-Bsymbolic"] if further else [])]
        if beside:
            source = Path(objects[0]).with_name("beside.c")
            source.write_text(beside)
            command += _BESIDE
            objects = [*objects, str(source)]
        objects = [*objects, *map(str, further)]
        # In a path that lld writes to, it takes % for a place where digits belong.
        here = Path(output).absolute()
        command += ["-o", here.name, *(str(Path(each).absolute()) for each in objects)]
        run_zig(command, f"linking for {name}", here.parent)

    link.output_format = "so"  # type: ignore[attr-defined]
    link.get_target_triple = lambda: triple  # type: ignore[attr-defined]
    return link


def run_zig(arguments: Sequence[str], doing: str, folder: Path | None = None) -> None:
    """Run zig to its end, in a folder; `doing` ("linking for x") is a part of the error message.

    Raises:
        ToolError: zig failed.
    """
    command = [sys.executable, "-m", "ziglang", *arguments]
    settings: dict[str, Any] = {"cwd": folder, "capture_output": True, "text": True}
    done = subprocess.run(command, check=False, **settings)
    if done.returncode != 0 and "cache directory" in done.stderr:
        # There is no home, or nobody may write to it; what zig keeps there is made again.
        with scratch_folder("zig") as cache:
            own = {**os.environ, **dict.fromkeys(ZIG_CACHES, str(cache))}
            done = subprocess.run(command, check=False, env=own, **settings)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        full = any(sign in done.stderr for sign in _FULL)
        step = "free some space" if full else "`mbv3c doctor` says whether zig works here"
        raise ToolError(f"{doing} failed with status {done.returncode} ({lines[-1]}); {step}")


def zig_machine(triple: str, cpu: str) -> tuple[str, ...]:
    """Return zig's options for objects that a program for a processor links.

    Programs for a system may lie anywhere; those without one lie where they are linked for.
    """
    if not is_bare_metal(triple):
        core = (f"-mcpu={cpu.replace('-', '_')}",) if is_armv7(triple) else ()
        return "-target", zig_triple(triple), *core, "-fPIC"
    units = f"{cpu.replace('-', '_')}{_FPUS.get(cpu, '')}"
    return "-target", "thumb-freestanding-eabihf", f"-mcpu={units}"


# Of these cores zig takes none to have a FPU, and LLVM all.
_FPUS = {
    "cortex-m4": "+vfp4d16sp",
    "cortex-m7": "+fp_armv8d16",
    "cortex-m33": "+fp_armv8d16sp",
    "cortex-m55": "+fp_armv8d16+mve_fp",
    "cortex-m85": "+fp_armv8d16+mve_fp",
}


def is_bare_metal(triple: str) -> bool:
    """Say whether programs for a triple run without a system."""
    return "-none-" in triple


def is_armv7(triple: str) -> bool:
    """Say whether a triple is of Cortex-A of 32 bits, with Linux."""
    return triple.startswith("armv7-")


def zig_triple(triple: str) -> str:
    """Return the triple to link for: without an NDK zig has no Android, and no libc is linked."""
    if "-apple-" in triple:
        return "aarch64-macos"
    return triple.replace("-android", "-gnu").replace("armv7-", "arm-")
