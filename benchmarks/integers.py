"""Executed instructions in int8, one thread, beside our own fp32, onnxruntime and LiteRT.

ncnn is left out: its wheels have no tool that quantizes a network for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from benchmarks import aarch64
from benchmarks.aarch64 import Executed
from benchmarks.networks import Graph, Network, build, compile_for
from benchmarks.tflite import tflite_of
from mbv3c.errors import ToolError
from mbv3c.execution.emulator import kit as toolbox
from mbv3c.execution.emulator.counting import VECTOR_FMLA, count_bundle
from mbv3c.precision import FP32, INT8
from mbv3c.scratch import scratch_folder
from mbv3c.targets import open_bundle
from mbv3c.targets.cpu.devices import CPUS

NETWORKS = (Network("large", 1.0, 224), Network("small", 1.0, 224))
CORES = ("cortex-a76", "cortex-a55")
# LiteRT's precision in guest.py, and whether hard-swish is ADD and MUL, as XNNPACK takes it.
FORMS = {"int8": True, "int8, own hard-swish": False}
LANES = 16  # multiply-adds of a dot product
# Of the range, against the quantized model in onnxruntime without optimisations: seeded weights
# let single roundings grow to several steps of the logits.
LARGEST_ERROR = 0.3


@dataclass(frozen=True)
class Row:
    """One network on one core.

    Attributes:
        core: that it was compiled for.
        madds: multiply-adds.
        integers, single: what ours executed in int8 and in fp32.
        onnxruntime: what onnxruntime executed on the same quantized model.
        litert: what LiteRT executed on it, with the cheaper form of hard-swish.
    """

    network: Network
    core: str
    madds: int
    integers: Executed
    single: Executed
    onnxruntime: Executed
    litert: Executed


def measure(networks: Sequence[Network], progress: Callable[[str], None]) -> list[Row]:
    """Count every network on every core.

    Raises:
        ToolError: a part cannot be fetched, or a runtime computes something else.
    """
    machine = aarch64.provide(toolbox.fetch(progress), progress)
    rows = []
    for network in networks:
        graph = build(network)
        for core in CORES:
            progress(f"{network.name}, {core}")
            rows.append(_count(machine, network, graph, core, progress))
    return rows


def _count(
    machine: aarch64.Machine,
    network: Network,
    graph: Graph,
    core: str,
    progress: Callable[[str], None],
) -> Row:
    target = next(cpu for cpu in CPUS if cpu.name == f"arm_cpu:{core}")
    emulated = target.emulated_as
    counts = {}
    with scratch_folder("bench") as folder:
        for precision in (FP32, INT8):
            place = folder / precision.name
            place.mkdir()
            path = compile_for(graph, target.name, 1, place, progress, precision=precision)
            counted = count_bundle(machine.kit, emulated, path)
            bundle = open_bundle(path)
            parity = bundle.manifest.parity
            assert parity is not None
            counts[precision] = Executed(
                counted.instructions,
                counted.classes()[VECTOR_FMLA],
                parity["inputs"][0]["max_error_of_range"],
            )
        progress("counting onnxruntime")
        model = folder / "model.onnx"
        given = onnx.load(bundle.compiled_model)
        onnx.save(given, model)
        theirs = aarch64.count_runtime(machine, emulated, "onnxruntime", "int8", model, path)
        forms = []
        for form, in_parts in FORMS.items():
            progress(f"counting LiteRT, {form}")
            file = tflite_of(given, swish_in_parts=in_parts)
            model.with_suffix(".tflite").write_bytes(file)
            forms.append(aarch64.count_runtime(machine, emulated, "LiteRT", form, model, path))
            progress(f"{forms[-1].instructions:,}")
    litert = min(forms, key=lambda one: one.instructions)
    found = {"mbv3c": counts[INT8], "onnxruntime": theirs, "LiteRT": litert}
    for runtime, executed in found.items():
        check_error(runtime, executed.error)
    return Row(network, core, graph.madds, counts[INT8], counts[FP32], theirs, litert)


def check_error(runtime: str, error: float) -> None:
    """Make sure that the right network was counted.

    Raises:
        ToolError: the error is none that rounding makes.
    """
    if not error <= LARGEST_ERROR:
        raise ToolError(
            f"{runtime} in int8 under emulation is {error:.1e} of the range off; it should be at "
            f"most {LARGEST_ERROR}"
        )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown, in millions."""
    lines = [
        f"| network | compiled for | multiply-adds / {LANES} | mbv3c int8 | mbv3c fp32 "
        "| onnxruntime int8 | LiteRT int8 | / mbv3c fp32 | / onnxruntime | / LiteRT | errors |",
        "|---" * 11 + "|",
    ]
    for row in rows:
        counts = (row.integers, row.single, row.onnxruntime, row.litert)
        cells = [row.network.name, row.core, f"{row.madds / LANES / 1e6:.2f}"]
        cells += [f"{executed.instructions / 1e6:.2f}" for executed in counts]
        cells += [f"{row.integers.instructions / one.instructions:.3f}" for one in counts[1:]]
        cells.append(", ".join(f"{executed.error:.1e}" for executed in counts))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
