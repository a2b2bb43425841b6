"""Build an assembled module for a CPU: LLVM code, linked to one shared library."""

import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import tvm
from tvm.target import codegen

from mbv3c.errors import ToolError
from mbv3c.lowering.assemble import VM_PASSES
from mbv3c.lowering.tir_pipeline import register_tir_pipeline
from mbv3c.targets.table import NATIVE, Target


def resolve(target: Target) -> Target:
    """Put this machine's names in the place of `native`."""
    if target.cpu != NATIVE:
        return target
    if platform.system() != "Linux":
        raise ToolError(
            f"target {target.name} links for Linux only and this is {platform.system()}; compile "
            "for arm_cpu, or use a Linux machine"
        )
    arch = platform.machine()
    return replace(
        target, triple=f"{arch}-linux-gnu", cpu=codegen.llvm_get_system_cpu(), arch=arch
    )


def tvm_target(target: Target) -> tvm.target.Target:
    """Say in TVM's terms what to generate code for; `target` must be resolved."""
    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": target.triple,
            "mcpu": target.cpu,
            "num-cores": target.cores,
        }
    )


def build(module: tvm.IRModule, target: Target, output: Path, *, symbols: bool = False) -> None:
    """Compile an assembled module and link it to the shared library `output`.

    `symbols` keeps the symbol table, which changes nothing else in the library.

    Raises:
        ToolError: the linker failed.
    """
    executable = tvm.compile(
        module,
        target=tvm_target(target),
        relax_pipeline=tvm.transform.Sequential(VM_PASSES),
        tir_pipeline=register_tir_pipeline(),
    )
    link(executable, target, output, symbols=symbols)


def link(executable: Any, target: Target, output: Path, *, symbols: bool = False) -> None:
    """Link what TVM compiled to the shared library `output`.

    Raises:
        ToolError: the linker failed.
    """
    # The objects go beside the output: where that fits, they fit too.
    with tempfile.TemporaryDirectory(prefix="objects-", dir=output.parent) as objects:
        executable.export_library(
            str(output), fcompile=_linker(target, symbols), workspace_dir=objects
        )


def _linker(target: Target, symbols: bool) -> Any:
    """Return a linker in the form that `export_library` wants.

    The objects need three symbols of the process that loads them and no C library, so a bare
    `-nostdlib` link is enough; zig's clang does it for every triple without a sysroot. Neither
    build id nor, unless asked for, symbol table is kept: the same input gives the same bytes.
    """

    def link(output: str, objects: list[str], options: object = None) -> None:
        command = [sys.executable, "-m", "ziglang", "cc", "-target", zig_triple(target.triple)]
        if "-apple-" in target.triple:  # two names come from the process, as everywhere
            command += ["-nostdlib", "-shared", "-Wl,-undefined,dynamic_lookup"]
        else:
            command += ["-nostdlib", "-shared", *([] if symbols else ["-s"])]
            command += ["-Wl,--build-id=none"]
        command += ["-o", output, *objects]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise ToolError(
                f"linking for {target.name} failed with status {done.returncode} ({lines[-1]}); "
                "is the disk full, or the package ziglang missing? `mbv3c doctor` checks"
            )

    link.output_format = "so"  # type: ignore[attr-defined]
    link.get_target_triple = lambda: target.triple  # type: ignore[attr-defined]
    return link


def zig_triple(triple: str) -> str:
    """Return the triple to link for: without an NDK zig has no Android, and no libc is linked."""
    if "-apple-" in triple:
        return "aarch64-macos"
    return triple.replace("-android", "-gnu")
