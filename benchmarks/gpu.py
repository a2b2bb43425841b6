"""What the kernels for GPUs save: launches and bytes per inference, and time where PoCL runs them.

The other side is the same rewritten network as TVM's operators with dlight's general rule, for the
same device; its rules for reductions need local memory, take ten times as long on PoCL, and make a
wrong network for Adreno (apache-tvm 0.27). PoCL runs both on this machine's processor: its times
say what the schedules save there, and nothing about a phone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import shape_inference
from tvm import relax

from benchmarks.networks import Network, build
from mbv3c.execution.opencl.runtime import device_info, load_runtime
from mbv3c.graphs.load import model_input
from mbv3c.job import Job
from mbv3c.lowering import fallback
from mbv3c.lowering.lower import Lowered, assembled
from mbv3c.lowering.plan import Plan, Value
from mbv3c.scratch import scratch_folder
from mbv3c.targets.library.target import on_this_machine, resolve
from mbv3c.targets.opencl import backend as opencl
from mbv3c.targets.opencl.backend import gpu_of, lower_for_gpu
from mbv3c.targets.opencl.devices import GPU_TARGETS, GpuTarget
from mbv3c.targets.opencl.gpus import Gpu
from mbv3c.targets.opencl.kernels import GpuKernels
from mbv3c.targets.opencl.limits import LimitError, check_limits

DEVICES = tuple(target for target in GPU_TARGETS if target.device in ("mali", "adreno"))
RUNS = 15


@dataclass(frozen=True)
class Side:
    """One way to run a network on a device.

    Attributes:
        launches: kernels per inference.
        moved_bytes: of all tensors that they read or write, each counted once per launch.
        source_bytes: length of the kernels' text.
        beyond: why the device would refuse it; empty if it would not.
        median_ms: of an inference on this machine's OpenCL device.
    """

    launches: int
    moved_bytes: int
    source_bytes: int
    beyond: str
    median_ms: float


@dataclass(frozen=True)
class Row:
    """A network on a device, with our schedules and with dlight's."""

    network: Network
    device: str
    ours: Side
    dlight: Side


def measure(networks: Sequence[Network], progress: Callable[[str], None]) -> list[Row]:
    """Build both sides of every network for every device and time them in turns.

    Raises:
        ToolError: there is no OpenCL device.
    """
    load_runtime()
    device_info()
    rows = []
    for network in networks:
        model = build(network).model
        for device in DEVICES:
            progress(f"{network.name}, {device.name}")
            target = resolve(on_this_machine(device))
            gpu, tvm_target = gpu_of(target), opencl.tvm_target(target)
            sides = (
                lower_for_gpu(model, gpu, tvm_target, Job(target)),
                _by_dlight(model, gpu, tvm_target),
            )
            rows.append(Row(network, device.name, *_compared(sides, target, gpu)))
    return rows


def _by_dlight(model: onnx.ModelProto, gpu: Gpu, target: tvm.target.Target) -> Lowered:
    """Lower a whole network by TVM's operators and dlight's general rule."""
    model = shape_inference.infer_shapes(model)
    (given,), (made,) = [model_input(model)], model.graph.output
    kernels = GpuKernels(gpu)
    ends = [{one.name: _type(one)} for one in (given, made)]
    lowered = fallback.lower_region(
        model, list(model.graph.node), *ends, "dlight.", target, kernels.schedule
    )
    shape, output = _type(given)[0], _type(made)[0]
    held = lowered.held[made.name]
    assert isinstance(held, str)
    values = {given.name: Value(shape), **lowered.values}
    return assembled(Plan((given.name,), (shape,), (held,), (output,), values, lowered.steps))


def _type(value: onnx.ValueInfoProto) -> tuple[tuple[int, ...], int]:
    tensor = value.type.tensor_type
    return tuple(dim.dim_value for dim in tensor.shape.dim), tensor.elem_type


def _compared(sides: Sequence[Lowered], target: GpuTarget, gpu: Gpu) -> list[Side]:
    """Run both sides in turns on the same input."""
    device = tvm.opencl(0)
    shape = sides[0].plan.input_shapes[0]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    given = tvm.runtime.tensor(x, device)
    with scratch_folder("bench") as folder:
        built = [
            opencl.build(side.module, target, folder / f"{i}.so") for i, side in enumerate(sides)
        ]
        mains = [
            relax.VirtualMachine(tvm.runtime.load_module(f"{folder}/{i}.so"), device)["main"]
            for i in range(len(sides))
        ]
        results = [main(given).numpy() for main in mains]  # builds the kernels
        np.testing.assert_allclose(results[0], results[1], atol=1e-4 * np.ptp(results[0]))
        times: list[list[float]] = [[] for _ in sides]
        for _ in range(RUNS):
            for main, measured in zip(mains, times, strict=True):
                measured.append(_timed(main, given, device))
    return [
        Side(
            len(side.plan.steps),
            sum(side.plan.bytes_moved(step) for step in side.plan.steps),
            sum(map(len, sources.values())),
            _beyond(side.plan, gpu, target.name),
            median(measured),
        )
        for side, sources, measured in zip(sides, built, times, strict=True)
    ]


def _beyond(plan: Plan, gpu: Gpu, device: str) -> str:
    try:
        check_limits(plan, gpu, device)
    except LimitError as error:
        return str(error)
    return ""


def _timed(main: Any, given: Any, device: tvm.runtime.Device) -> float:
    begin = perf_counter()
    main(given)
    device.sync()
    return (perf_counter() - begin) * 1e3


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown; dlight's figures come first."""
    lines = [
        "| network | device | launches | MB moved | kB of source | ms on PoCL | time, ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        before, after = row.dlight, row.ours
        cells = (
            row.network.name,
            row.device,
            f"{before.launches} → {after.launches}",
            f"{before.moved_bytes / 1e6:.1f} → {after.moved_bytes / 1e6:.1f}",
            f"{before.source_bytes / 1e3:.0f} → {after.source_bytes / 1e3:.0f}",
            f"{before.median_ms:.0f} → {after.median_ms:.1f}",
            f"{after.median_ms / before.median_ms:.4f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
