"""Executed instructions on an emulated Cortex-A76, one thread, beside other runtimes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks import aarch64
from benchmarks.aarch64 import Executed, Machine
from benchmarks.layouts import with_same_pads
from benchmarks.networks import NETWORKS, Graph, Network, build, compile_for
from benchmarks.tflite import tflite_of
from mbv3c.bundle import GOLDEN_INPUT, GOLDEN_OUTPUT
from mbv3c.errors import ToolError
from mbv3c.execution.emulator import kit as toolbox
from mbv3c.execution.emulator.counting import VECTOR_FMLA, count_bundle
from mbv3c.parity.reference import run, session
from mbv3c.precision import find_precision
from mbv3c.scratch import scratch_folder
from mbv3c.targets import open_bundle

TARGET = "arm_cpu:cortex-a76"
CPU = "cortex-a76"
OURS = "mbv3c"


@dataclass(frozen=True)
class Precision:
    """A precision, and what is measured in it.

    Attributes:
        name: as `--precision` has it.
        lanes: multiply-adds of a NEON instruction.
        runtimes: the others that compute in it.
        networks: those that are measured.
        errors: the least and the largest that a runtime may have that computes the right network
            in it; ncnn in fp16 comes to 4.7e-2 on Large.
    """

    name: str
    lanes: int
    runtimes: tuple[str, ...]
    networks: tuple[Network, ...]
    errors: tuple[float, float]


PRECISIONS = (
    Precision("fp32", 4, ("onnxruntime", "ncnn", "LiteRT"), NETWORKS, errors=(0.0, 1e-4)),
    Precision(
        "fp16",
        8,
        ("ncnn", "LiteRT"),
        (Network("large", 1.0, 224), Network("small", 1.0, 224)),
        errors=(1e-4, 1e-1),
    ),
)


@dataclass(frozen=True)
class Row:
    """One network in one precision.

    Attributes:
        precision: its name.
        madds: multiply-adds.
        counts: what each executed: ours first, the other runtimes, and ours in fp32 where this
            is another precision.
    """

    network: Network
    precision: str
    madds: int
    counts: dict[str, Executed]


def measure(networks: Sequence[Network], progress: Callable[[str], None]) -> list[Row]:
    """Count every network in every precision in which it is measured.

    Raises:
        ToolError: a part cannot be fetched, or a runtime computes something else.
    """
    machine = aarch64.provide(toolbox.fetch(progress), progress)
    rows = []
    for network in networks:
        graph = build(network)
        before: dict[str, Executed] = {}
        for precision in PRECISIONS:
            if network not in precision.networks:
                continue
            progress(f"{network.name}, {precision.name}")
            counts = _count(machine, graph, precision, progress)
            rows.append(Row(network, precision.name, graph.madds, counts | before))
            before[f"{OURS} {precision.name}"] = counts[OURS]
    return rows


def _count(
    machine: Machine, graph: Graph, precision: Precision, progress: Callable[[str], None]
) -> dict[str, Executed]:
    with scratch_folder("bench") as folder:
        wanted = find_precision(precision.name)
        path = compile_for(graph, TARGET, 1, folder, progress, precision=wanted)
        bundle, model = open_bundle(path), folder / "model.onnx"
        counted = count_bundle(machine.kit, CPU, path)
        fmla = counted.classes()[VECTOR_FMLA]
        assert bundle.manifest.parity is not None
        error = bundle.manifest.parity["inputs"][0]["max_error_of_range"]
        counts = {OURS: Executed(counted.instructions, fmla, error)}
        onnx.save(onnx.load(bundle.model), model)
        aarch64.to_ncnn(machine, model)
        judges = {"LiteRT": _write_tflite(model, path, half=precision.name == "fp16")}
        for runtime in precision.runtimes:
            progress(f"counting {runtime}")
            counts[runtime] = aarch64.count_runtime(
                machine, CPU, runtime, precision.name, model, judges.get(runtime, path)
            )
    for runtime, executed in counts.items():
        check_error(runtime, precision, executed.error)
    return counts


def _write_tflite(model: Path, bundle: Path, *, half: bool) -> Path:
    """Write the TFLite file beside an ONNX file; return where its golden files are.

    XNNPACK pads by itself only what is computed in fp32 or int8. So that it copies nothing in fp16
    either, it gets the pads of TensorFlow there, and another golden output.
    """
    given = onnx.load(model)
    if not half:
        model.with_suffix(".tflite").write_bytes(tflite_of(given))
        return bundle
    given = with_same_pads(given)
    model.with_suffix(".tflite").write_bytes(tflite_of(given, half=True))
    judge = model.with_name("judge")
    for place in (judge / GOLDEN_INPUT, judge / GOLDEN_OUTPUT):
        place.parent.mkdir(parents=True, exist_ok=True)
    x = np.load(bundle / GOLDEN_INPUT)
    np.save(judge / GOLDEN_INPUT, x)
    np.save(judge / GOLDEN_OUTPUT, run(session(given), x)[0])
    return judge


def check_error(runtime: str, precision: Precision, error: float) -> None:
    """Make sure that the right network was counted, in the right precision.

    Raises:
        ToolError: the error is none of that precision.
    """
    least, largest = precision.errors
    if not least <= error <= largest:
        raise ToolError(
            f"{runtime} under emulation is {error:.1e} of the range off; "
            f"in {precision.name} it should be {least:.0e} to {largest:.0e}"
        )


def tables(rows: Sequence[Row]) -> str:
    """Return the rows as tables in Markdown, one a precision: millions, in brackets FMLA."""
    return "\n\n".join(
        _table(chosen, precision)
        for precision in PRECISIONS
        if (chosen := [row for row in rows if row.precision == precision.name])
    )


def _table(rows: Sequence[Row], precision: Precision) -> str:
    ours, *others = rows[0].counts
    columns = [
        f"{precision.name}: network",
        f"multiply-adds / {precision.lanes}",
        *(ours, *others),
        *(f"/ {one}" for one in others),
        "errors",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        counts = row.counts
        cells = [row.network.name, f"{row.madds / precision.lanes / 1e6:.2f}"]
        cells += [_millions(executed) for executed in counts.values()]
        cells += [f"{counts[ours].instructions / counts[one].instructions:.3f}" for one in others]
        cells.append(", ".join(f"{executed.error:.1e}" for executed in counts.values()))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _millions(executed: Executed) -> str:
    return f"{executed.instructions / 1e6:.2f} ({executed.fmla / 1e6:.2f})"
