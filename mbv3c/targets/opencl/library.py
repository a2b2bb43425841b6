"""Build an assembled module for a GPU: OpenCL C kernels, and host code that launches them."""

import re
from collections.abc import Sequence
from pathlib import Path

import tvm

from mbv3c.execution.link import link
from mbv3c.job import Target
from mbv3c.lowering.assemble import VM_PASSES
from mbv3c.targets.cpu import library as cpu
from mbv3c.targets.opencl.gpus import GPUS

# TVM would compute offsets into variables and then not use them.
_CONFIG = {"tirx.disable_cse_tir": True}
_POSITIONS = {
    f"convert_int(get_{what}_id({axis}))": f"{what}_{'xyz'[axis]}"
    for what in ("group", "local")
    for axis in range(3)
}
_SPLAT = re.compile(r"\(\((float[24]|half[24])\)\(([^,]+)(?:, \2)+\)\)")
_POSTPROCESS = "tvm_callback_opencl_postproc"  # where TVM's code generator looks for it


def tvm_target(target: Target) -> tvm.target.Target:
    """Say in TVM's terms what to generate code for; `target` must be resolved."""
    device = GPUS[target.gpu]
    return tvm.target.Target(
        {
            "kind": device.gpu.language,
            # TVM has two names for it, and its schedules read the second.
            "max_num_threads": device.gpu.group_items,
            "max_threads_per_block": device.gpu.group_items,
            "max_shared_memory_per_block": device.gpu.local_bytes,
            "thread_warp_size": device.gpu.warp,
            **({"device": device.tvm_device} if device.tvm_device else {}),
        },
        host=cpu.tvm_target(target),
    )


def build(
    module: tvm.IRModule, target: Target, output: Path, *, symbols: bool = False
) -> dict[str, str]:
    """Compile an assembled module and link it to the shared library `output`.

    Returns the source of every kernel by its name; they are in the library as they are. `symbols`
    keeps the symbol table of the host code.

    Raises:
        ToolError: the linker failed.
    """
    tvm.register_global_func(_POSTPROCESS, lambda source, target: readable(source), override=True)
    with tvm.transform.PassContext(config=_CONFIG):
        executable = tvm.compile(
            module,
            target=tvm_target(target),
            relax_pipeline=tvm.transform.Sequential(VM_PASSES),
            tir_pipeline="s_tir",
        )
    link(executable, target, output, symbols=symbols)
    return kernel_sources(executable.mod)


def kernel_sources(module: tvm.runtime.Module) -> dict[str, str]:
    """Return the source of every kernel of a module and those that it imports."""
    sources: dict[str, str] = {}
    if module.kind in ("opencl", "metal"):
        sources.update(_split(module.inspect_source()))
    for imported in module.imports:
        sources.update(kernel_sources(imported))
    return sources


def _split(text: str) -> dict[str, str]:
    """Return the parts of a module's source, each of which is compiled by itself, by kernel."""
    marker = "// Function: "
    parts = (part.split("\n", 1) for part in text.split(marker)[1:])
    return {name.strip(): source.strip() for name, source in parts}


def readable(source: str) -> str:
    """Return TVM's OpenCL C with the same meaning and a third of the text.

    Each kernel comes with declarations of all others, which makes the text of a network grow with
    the square of their number; positions are asked for wherever they are used; and vectors of one
    number name it in every lane.
    """
    lines = [
        line
        for line in source.splitlines()
        if not (line.startswith("__kernel void") and line.endswith(";"))
    ]
    return _SPLAT.sub(r"((\1)(\2))", "\n".join(_with_positions(lines)))


def _with_positions(lines: Sequence[str]) -> list[str]:
    """Name the positions that a kernel asks for, at its beginning."""
    named: list[str] = []
    start = 0
    for line in lines:
        if line.startswith("__kernel void"):
            start = len(named) + 1
        for call, name in _POSITIONS.items():
            if call in line:
                line = line.replace(f"({call})", name)
                declared = f"  const int {name} = {call};"
                if declared not in named[start:]:
                    named.insert(start, declared)
        named.append(line)
    return named


def format_sources(sources: dict[str, str]) -> str:
    """Return kernels as one text to read."""
    parts: Sequence[str] = [f"// {name}\n{source}\n" for name, source in sources.items()]
    return "\n".join(parts)
