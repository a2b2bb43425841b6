"""From opening a library to its first result: instructions, processor time and memory.

    python -m benchmarks.loading [--networks small large] [--precisions fp32 int8] [--write]

Counted: a program for Cortex-A76 opens `model.so` with TVM's runtime and runs one inference in the
emulator; ncnn, in fp32, and LiteRT (XNNPACK) do so with their own files. Measured: processes of
Python on this machine, which have imported everything, open the library and run one inference, in
turns with onnxruntime on the model, in fp32, and with LiteRT (XNNPACK) on files that
benchmarks.tflite writes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from tvm_ffi import libinfo

from benchmarks import aarch64, litert
from benchmarks.networks import Network, build
from benchmarks.results import replace_section
from benchmarks.tflite import tflite_of
from mbv3c import pipeline
from mbv3c.bundle import GOLDEN_INPUT, GOLDEN_OUTPUT, LIBRARY
from mbv3c.errors import ToolError
from mbv3c.execution.emulator.counting import count
from mbv3c.execution.emulator.kit import EmulatorKit, emulator_command, fetch, sysroot
from mbv3c.execution.link import run_zig
from mbv3c.execution.timing.latency import processor_name
from mbv3c.job import Job
from mbv3c.parity.reference import error_of_range
from mbv3c.precision import find_precision
from mbv3c.scratch import scratch_folder
from mbv3c.targets import find_target, open_bundle, read_options
from mbv3c.targets.library.manifest import manifest_of

TITLE = "From opening a library to its first result"
CPU = "cortex-a76"
NETWORKS, PRECISIONS = ("small", "large"), ("fp32", "int8")
_TURNS = 7
_SOURCE = Path(__file__).with_name("loading.c")
_SAME = 0.15  # of the range: what int8 may be off, and no other network
_OPENERS = {
    "mbv3c": """
from tvm import relax
import tvm
from mbv3c.execution.host import load_library, tensors
def first(bundle, x):
    machine = relax.VirtualMachine(load_library(bundle / "model.so"), tvm.cpu())
    return machine["main"](*tensors(x)).numpy()
""",
    "onnxruntime": """
import onnxruntime
def first(bundle, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), options)
    return session.run(None, {session.get_inputs()[0].name: x})[0]
""",
    "LiteRT": """
from ai_edge_litert.interpreter import Interpreter
def first(bundle, x):
    lite = Interpreter(model_path=str(bundle.parent / "model.tflite"), num_threads=1)
    lite.allocate_tensors()
    given, x = lite.get_input_details()[0], np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    lite.set_tensor(given["index"], x)
    lite.invoke()
    return lite.get_tensor(lite.get_output_details()[0]["index"])
""",
}
_WITHOUT = {"int8": ("onnxruntime",)}
_PROCESS = """
import json, sys, time
from pathlib import Path
import numpy as np
bundle = Path(sys.argv[1])
x = np.load(bundle / "golden" / "input.npy")
def status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
{opener}
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before, begun = status("VmRSS"), time.process_time()
first(bundle, x)
took = time.process_time() - begun
print(json.dumps([took, status("VmHWM") - before]))
"""


@dataclass(frozen=True)
class Counted:
    """Executed instructions.

    Attributes:
        opened: from opening the library to the first result.
        whole: from the start of the process on; None where it is Python.
    """

    opened: int
    whole: int | None


@dataclass(frozen=True)
class Measured:
    """Medians: seconds of the processor, and bytes at most above what was there after imports."""

    seconds: float
    peak: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    tables: dict[str, list[str]] = {"counted": [], "measured": []}
    for network in arguments.networks:
        for precision in arguments.precisions:
            with scratch_folder("loading") as folder:
                for kind, row in _rows(network, precision, folder):
                    print(row, flush=True)
                    tables[kind].append(row)
    if arguments.write:
        replace_section(TITLE, _section(tables))


def _section(tables: dict[str, list[str]]) -> str:
    versions = ", ".join(f"{name} {its}" for name, its in aarch64.versions().items())
    head = f"""\
{time.strftime("%Y-%m-%d")}, `python -m benchmarks.loading --write`: MobileNetV3, random weights,
224 pixels, one core; {versions}.
**Counted** on an emulated {CPU}, in millions of instructions: a program in C opens `model.so` with
TVM's runtime and runs one inference; the last column begins with the process, and so has what the
dynamic linker and the runtime's own initialisation take. ncnn and LiteRT open their files from
Python; XNNPACK takes the whole network, and LiteRT's loading has what it packs."""
    measured = f"""\
**Measured** on {processor_name()}, a machine with other work: medians of {_TURNS} processes of
each side, in turns, of Python with everything imported. Memory is the peak above that; weights and
arena are what the manifest says."""
    columns = (
        *("network", "precision", "mbv3c", "ncnn", "ratio", "LiteRT", "ratio"),
        "mbv3c, from the start",
    )
    counted = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *tables["counted"]]
    columns = (
        *("network", "precision", "mbv3c", "onnxruntime", "ratio", "LiteRT", "ratio"),
        *("mbv3c, memory", "weights + arena", "onnxruntime, memory", "LiteRT, memory"),
    )
    timed = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *tables["measured"]]
    return "\n\n".join([head, "\n".join(counted), measured, "\n".join(timed)])


def _rows(network: str, precision: str, folder: Path) -> Iterator[tuple[str, str]]:
    model = build(Network(network, 1.0, 224)).model
    ours, *peers = _counted(model, precision, folder)
    assert isinstance(ours, Counted)
    cells = [network, precision, _millions(ours.opened)]
    for peer in peers:
        cells += ["–", "–"] if peer is None else [_millions(peer), f"{ours.opened / peer:.2f}"]
    assert ours.whole is not None
    yield "counted", f"| {' | '.join([*cells, _millions(ours.whole)])} |"
    yield "measured", _measured(model, network, precision, folder)


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f}"


def _compiled(model: onnx.ModelProto, target: str, precision: str, folder: Path) -> Path:
    bundle = folder / target.replace(":", "-")
    chosen, options = read_options(find_target(target), {"cores": 1})
    job = Job(chosen, find_precision(precision), options=options)
    pipeline.compile_model(model, job, bundle, verify=False)
    return bundle


def _counted(
    model: onnx.ModelProto, precision: str, folder: Path
) -> tuple[Counted, int | None, int]:
    """Count ours, ncnn's where it computes in the precision, and LiteRT's."""
    kit = fetch(print)
    bundle = _compiled(model, f"arm_cpu:{CPU}", precision, folder)
    program = _program(kit, folder)
    np.load(bundle / GOLDEN_INPUT).tofile(folder / "input.bin")
    opened, whole = (_count(kit, program, bundle, folder, where) for where in ("open", "start"))
    wanted = np.load(bundle / GOLDEN_OUTPUT)
    made = np.fromfile(folder / "output.bin", np.float32).reshape(wanted.shape)
    if error_of_range(made, wanted) > _SAME:
        raise ToolError(f"the first result of {bundle / LIBRARY} is not its golden one")
    machine, file, ncnn = aarch64.provide(kit, print), folder / "model.onnx", None
    if precision == "fp32":
        onnx.save(model, file)
        aarch64.to_ncnn(machine, file)
        ncnn = aarch64.count_loading(machine, CPU, "ncnn", precision, file, bundle)
    _write_tflite(model, bundle, file.with_name(litert.FILE))
    lite = aarch64.count_loading(machine, CPU, "LiteRT", precision, file, bundle)
    return Counted(opened, whole), ncnn, lite


def _write_tflite(model: onnx.ModelProto, bundle: Path, file: Path) -> None:
    """Write what a bundle computes, in a form that XNNPACK takes as a whole."""
    opened = open_bundle(bundle)
    if opened.manifest.precision == "int8":
        model = onnx.load(opened.compiled_model)
    file.write_bytes(tflite_of(model, swish_in_parts=True))
    litert.open_litert(file, np.load(bundle / GOLDEN_INPUT), 1)  # checks it


def _program(kit: EmulatorKit, folder: Path) -> Path:
    headers = (libinfo.find_include_path(), libinfo.find_dlpack_include_path())
    command = [
        *("cc", "-target", "aarch64-linux-gnu.2.28", "-std=c11", "-O2", "-s"),
        *(f"-I{header}" for header in headers),
        *(str(_SOURCE), f"-L{kit.runtime}", "-Wl,--no-as-needed"),
        *("-Wl,--allow-shlib-undefined", "-ltvm_runtime", "-ltvm_ffi"),
        *("-o", str(folder / "loading")),
    ]
    run_zig(command, f"compiling {_SOURCE.name}")
    return folder / "loading"


def _count(kit: EmulatorKit, program: Path, bundle: Path, folder: Path, where: str) -> int:
    def command(plugin: object) -> list[str | Path]:
        assert isinstance(plugin, tuple)
        return [
            *(*emulator_command(kit.system), "-cpu", CPU, *plugin, "-L", str(sysroot(kit.system))),
            *("-U", "LD_PRELOAD", "-E", f"LD_LIBRARY_PATH={kit.runtime}"),
            *("-E", "TVM_NUM_THREADS=1", program, bundle),
            *(folder / "input.bin", folder / "output.bin", where),
        ]

    counted = count(command, kit, doing=f"counting the first result of {bundle / LIBRARY}")
    return counted.instructions


def _measured(model: onnx.ModelProto, network: str, precision: str, folder: Path) -> str:
    bundle = _compiled(model, "host_cpu", precision, folder)
    _write_tflite(model, bundle, bundle.with_name(litert.FILE))
    runs: dict[str, list[list[float]]] = {name: [] for name in _OPENERS}
    for _ in range(_TURNS + 1):  # the first of each reads files that nobody has read
        for name, opener in _OPENERS.items():
            if name not in _WITHOUT.get(precision, ()):
                runs[name].append(_first(bundle, opener))
    ours, *peers = (_median(each[1:]) for each in runs.values())
    memory = manifest_of(open_bundle(bundle)).memory
    assert ours is not None
    cells = [network, precision, f"{ours.seconds * 1e3:.1f} ms"]
    for peer in peers:
        cells += (
            ["–", "–"]
            if peer is None
            else [f"{peer.seconds * 1e3:.1f} ms", f"{ours.seconds / peer.seconds:.2f}"]
        )
    cells += [_megabytes(ours.peak), _megabytes(memory.weight_bytes + memory.arena_bytes)]
    cells += ["–" if peer is None else _megabytes(peer.peak) for peer in peers]
    return f"| {' | '.join(cells)} |"


def _first(bundle: Path, opener: str) -> list[float]:
    command = [sys.executable, "-c", _PROCESS.replace("{opener}", opener), str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def _median(runs: list[list[float]]) -> Measured | None:
    if not runs:
        return None
    seconds, peak = (statistics.median(column) for column in zip(*runs, strict=True))
    return Measured(seconds, int(peak))


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
