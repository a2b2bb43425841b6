"""Build an assembled module for a CPU: LLVM code, linked to one shared library."""

import platform
from dataclasses import replace
from pathlib import Path

import tvm
from tvm.target import codegen

from mbv3c.errors import ToolError
from mbv3c.execution.link import link
from mbv3c.job import NATIVE, Target
from mbv3c.lowering.assemble import VM_PASSES
from mbv3c.lowering.tir_pipeline import register_tir_pipeline


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
