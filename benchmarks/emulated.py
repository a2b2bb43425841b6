"""Executed instructions on an emulated Cortex-A76, one thread, beside onnxruntime and ncnn."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks import aarch64
from benchmarks.aarch64 import Executed
from benchmarks.networks import Network, build, compile_for
from mbv3c.bundle import GOLDEN_INPUT, GOLDEN_OUTPUT, read_bundle
from mbv3c.errors import ToolError
from mbv3c.execution import toolbox
from mbv3c.execution.counting import count_bundle
from mbv3c.execution.opcodes import VECTOR_FMLA
from mbv3c.parity.reference import error_of_range

TARGET = "arm_cpu:cortex-a76"
CPU = "cortex-a76"
OURS = "mbv3c"

_LANES = 4  # fp32 multiply-adds of a NEON instruction
_SANE_ERROR = 1e-4  # far above rounding: only that the right network was counted is checked


@dataclass(frozen=True)
class Row:
    """One network: multiply-adds, and what each runtime executed."""

    network: Network
    madds: int
    counts: dict[str, Executed]


def measure(networks: Sequence[Network], progress: Callable[[str], None]) -> list[Row]:
    """Count every network.

    Raises:
        ToolError: a part cannot be fetched, or a runtime computes something else.
    """
    kit = toolbox.fetch(progress)
    machine = aarch64.provide(kit, progress)
    rows = []
    for network in networks:
        graph = build(network)
        with tempfile.TemporaryDirectory(prefix="mbv3c-bench-") as name:
            folder = Path(name)
            progress(network.name)
            bundle = compile_for(graph, TARGET, 1, folder, progress)
            counted = count_bundle(kit, CPU, bundle)
            counts = {OURS: Executed(counted.instructions, counted.classes()[VECTOR_FMLA])}
            model = folder / "model.onnx"
            onnx.save(onnx.load(read_bundle(bundle).model), model)
            aarch64.to_ncnn(machine, model)
            for runtime in aarch64.RUNTIMES:
                progress(f"counting {runtime}")
                source = bundle / GOLDEN_INPUT
                counts[runtime] = aarch64.count_runtime(machine, CPU, runtime, model, source)
                _check(runtime, np.load(folder / f"{runtime}.npy"), bundle)
        rows.append(Row(network, graph.madds, counts))
    return rows


def _check(runtime: str, y: np.ndarray, bundle: Path) -> None:
    error = error_of_range(y, np.load(bundle / GOLDEN_OUTPUT))
    if error > _SANE_ERROR:
        raise ToolError(f"{runtime} under emulation is {error:.1e} of the range off")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown: millions of instructions, in brackets FMLA."""
    runtimes = (OURS, *aarch64.RUNTIMES)
    ratios = " | ".join(f"/ {runtime}" for runtime in aarch64.RUNTIMES)
    lines = [
        f"| network | multiply-adds / {_LANES} | {' | '.join(runtimes)} | {ratios} |",
        "|---" * (2 + len(runtimes) + len(aarch64.RUNTIMES)) + "|",
    ]
    for row in rows:
        cells = [f"{row.madds / _LANES / 1e6:.2f}"]
        cells += [_millions(row.counts[runtime]) for runtime in runtimes]
        ours = row.counts[OURS].instructions
        cells += [f"{ours / row.counts[one].instructions:.3f}" for one in aarch64.RUNTIMES]
        lines.append(f"| {row.network.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _millions(executed: Executed) -> str:
    return f"{executed.instructions / 1e6:.2f} ({executed.fmla / 1e6:.2f})"
