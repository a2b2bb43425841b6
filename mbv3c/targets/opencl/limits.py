"""Check kernels against the limits of a GPU, before a driver refuses them on the device.

Running the kernels in PoCL, on a CPU, would show nothing: it takes work-groups of thousands of
work-items and a megabyte of local memory.
"""

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tvm_ffi
from tvm.s_tir import SBlock
from tvm.tirx import AllocBuffer, AttrStmt, For, IntImm, PrimFunc

from mbv3c.errors import Mbv3cError
from mbv3c.lowering.plan import Plan
from mbv3c.targets.opencl.gpus import Gpu
from mbv3c.targets.opencl.schedules.launch import REGISTERS

_SIDES = ("threadIdx.x", "threadIdx.y", "threadIdx.z")
_GROUPS = ("blockIdx.x", "blockIdx.y", "blockIdx.z")


class LimitError(Mbv3cError):
    """A kernel asks for more than the GPU has."""


@dataclass(frozen=True)
class Launch:
    """What a kernel asks for.

    Attributes:
        group: sides of a work-group; the largest sides if a function launches several kernels.
        groups: number of work-groups along each axis; the largest of several kernels.
        local_bytes: local memory of a work-group.
        registers: 32-bit registers of a work-item, as the schedule counts them; 0 if it does not.
        threads: whether the function is bound to work-items.
    """

    group: tuple[int, ...]
    groups: tuple[int, ...]
    local_bytes: int
    registers: int
    threads: bool


def launch_of(function: PrimFunc) -> Launch:
    """Read a scheduled function's launch."""
    sides: Counter[str] = Counter()
    local: dict[Any, int] = {}

    def bind(tag: str, extent: Any) -> None:
        extent = int(extent) if isinstance(extent, int | IntImm) else 0
        sides[tag] = max(sides[tag], extent)

    def visit(node: Any) -> None:
        if isinstance(node, AttrStmt) and node.attr_key == "thread_extent":
            bind(str(node.node.thread_tag), node.value)
        elif isinstance(node, For) and node.thread_binding is not None:
            bind(str(node.thread_binding.thread_tag), node.extent)
        elif isinstance(node, SBlock | AllocBuffer):
            for buffer in node.alloc_buffers if isinstance(node, SBlock) else [node.buffer]:
                if str(buffer.scope()).startswith("shared"):
                    extents = [int(extent) for extent in buffer.shape]
                    local[buffer.data] = prod(extents) * np.dtype(str(buffer.dtype)).itemsize

    tvm_ffi.structural_walk(function.body, ((AttrStmt, For, SBlock, AllocBuffer), visit))
    return Launch(
        tuple(max(1, sides[side]) for side in _SIDES),
        tuple(max(1, sides[side]) for side in _GROUPS),
        sum(local.values()),
        int(function.attrs.get(REGISTERS, 0)) if function.attrs else 0,
        bool(sides),
    )


def check_limits(plan: Plan, gpu: Gpu, device: str) -> None:
    """Make sure that a GPU launches every kernel of a plan.

    Raises:
        LimitError: a kernel asks for more than the GPU has; the message has its name and numbers.
    """
    for step in plan.steps:
        reason = _exceeded(launch_of(step.function), gpu)
        if reason:
            covered = ", ".join(step.nodes) or "a change of layout"
            raise LimitError(
                f"the {step.kind} kernel for {covered} {reason}: {device} would refuse it; choose "
                "other knobs, or another device"
            )


def _exceeded(launch: Launch, gpu: Gpu) -> str:
    """Say which limit of a GPU a launch exceeds; empty if it exceeds none."""
    group = "x".join(map(str, launch.group))
    if not launch.threads:
        return "is bound to no work-items"
    if prod(launch.group) > gpu.group_items:
        return f"has work-groups of {group} = {prod(launch.group)}, of at most {gpu.group_items}"
    if not gpu.fits(launch.group):
        most = "x".join(map(str, gpu.group_sides))
        return f"has work-groups of {group}, of at most {most}"
    if launch.local_bytes > gpu.local_bytes:
        return f"takes {launch.local_bytes} bytes of local memory, of at most {gpu.local_bytes}"
    if gpu.registers and launch.registers > gpu.registers:
        return f"needs {launch.registers} registers, of at most {gpu.registers}"
    return ""
