"""int8 on x86 with AVX2 alone, beside fp32, onnxruntime and LiteRT, in one thread.

    python -m benchmarks.avx2 [--networks large small] [--turns 15] [--write]

C libraries for `host_cpu:avx2`, and onnxruntime and LiteRT, which take what the processor has,
compute the same input in turns, in one thread of one process. In int8 each of the two has two
forms, of which the faster one counts: activations of int8 and of uint8 in onnxruntime, and
hard-swish as one operator and in parts in the files that benchmarks.tflite writes for LiteRT.
valgrind, where it is installed, counts the instructions of an inference. A processor with VNNI
gives both more than AVX2.
"""

import argparse
import ctypes
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

import mbv3c
from benchmarks.integers import check_error
from benchmarks.litert import open_litert
from benchmarks.results import replace_section
from benchmarks.tflite import tflite_of
from mbv3c.bundle import GOLDEN_INPUT, Bundle
from mbv3c.execution.timing.latency import processor_name
from mbv3c.parity.reference import error_of_range
from mbv3c.passes import run_pipeline
from mbv3c.targets.cpu.artifact import c_library_of
from mbv3c.targets.library.manifest import manifest_of

TITLE = "int8 on x86 with AVX2 and no VNNI"
NETWORKS = ("large", "small")
TARGET = "host_cpu:avx2"
_ALIGNMENT = 64
_MAIN = """\
#include <stdlib.h>
#include "{prefix}.h"
int main(int count, char **given) {{
  float *x = calloc({inputs}, 4), *y = calloc({outputs}, 4);
  void *arena = aligned_alloc(64, ({arena} + 63) / 64 * 64);
  for (int turn = atoi(given[1]); turn > 0; --turn) {prefix}_run(x, y, arena);
  return count != 2;
}}
"""


@dataclass(frozen=True)
class Library:
    """A network as a C library.

    Attributes:
        run: computes the output.
        bytes: size of `model.so`, as it is shipped.
        instructions: of an inference of zeros; None without valgrind.
    """

    run: Callable[[], NDArray[np.float32]]
    bytes: int
    instructions: int | None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.avx2", description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    lines = [
        "| network | int8 / fp32 | int8 / onnxruntime | int8 / LiteRT | fp32 / LiteRT "
        "| errors of LiteRT: int8 | fp32 | instructions, millions: int8 | fp32 "
        "| `model.so`: int8 | fp32 |",
        "|---" * 11 + "|",
    ]
    for network in arguments.networks:
        line = _row(network, arguments.turns)
        print(line, flush=True)
        lines.append(line)
    if arguments.write:
        introduction = (
            f"{time.strftime('%Y-%m-%d')}, {processor_name()}, with other work on it; onnxruntime "
            f"{ort.__version__} (with activations of uint8 where that is faster), LiteRT "
            f"{version('ai-edge-litert')} with XNNPACK. `python -m benchmarks.avx2 --write`: "
            "MobileNetV3, random weights, 224 pixels, one thread. Ratios are medians over turns "
            "of the processor time of one inference each; errors are of the range, against "
            "onnxruntime without optimisations; instructions are counted by valgrind. In int8 "
            "LiteRT has the faster of two forms of hard-swish: its own operator, which XNNPACK "
            "does not take, or ADD and MUL, with which it takes the whole network, as in fp32."
        )
        replace_section(TITLE, "\n".join([introduction, "", *lines]))


def _row(network: str, turns: int) -> str:
    with tempfile.TemporaryDirectory() as place:
        libraries, lite, errors = {}, {}, {}
        for precision in ("int8", "fp32"):
            folder = Path(place) / precision
            folder.mkdir()
            spec = mbv3c.JobSpec(
                TARGET, precision=precision, options={"artifact": "c", "cores": 1}
            )
            mbv3c.compile(mbv3c.build(variant=network), spec, folder / "bundle", verify=False)
            bundle = mbv3c.open_bundle(folder / "bundle")
            libraries[precision] = _library(bundle, folder)
            graph = _graph(bundle)
            lite[precision] = [_litert(graph, bundle, parts) for parts in (False, True)]
            plain = _onnxruntime(graph, bundle, optimised=False)()
            errors[precision] = [error_of_range(run(), plain) for run in lite[precision]]
            if precision == "int8":
                theirs = [_onnxruntime(one, bundle) for one in (graph, unsigned(graph))]
                wanted = plain
        check_error("mbv3c", error_of_range(libraries["int8"].run(), wanted))
        ours = (libraries["int8"].run, libraries["fp32"].run)
        runs = (*ours, *theirs, *lite["int8"], lite["fp32"][0])
        times = np.array([[_time(run) for run in runs] for _ in range(turns)])
    medians = np.median(times, axis=0)
    print("medians, ms:", *(f"{1e3 * one:.2f}" for one in medians), flush=True)
    int8, fp32, lite32 = times[:, 0], times[:, 1], times[:, -1]
    best, lite8 = (at + int(np.argmin(medians[at : at + 2])) for at in (2, 4))
    pairs = ((int8, fp32), (int8, times[:, best]), (int8, times[:, lite8]), (fp32, lite32))
    cells = [network, *(f"{median(mine / its):.2f}" for mine, its in pairs)]
    cells += [f"{errors['int8'][lite8 - 4]:.1e}", f"{errors['fp32'][0]:.1e}"]
    for one in libraries.values():
        cells.append("" if one.instructions is None else f"{one.instructions / 1e6:.1f}")
    cells += [f"{one.bytes:,}" for one in libraries.values()]
    return f"| {' | '.join(cells)} |"


def _library(bundle: Bundle, folder: Path) -> Library:
    """Link a C library, and count what an inference executes."""
    made, record = c_library_of(bundle), manifest_of(bundle).c_library
    assert record is not None
    archive = next((bundle.path / "c" / "lib").glob("*.a"))
    shared = folder / "network.so"
    _gcc("-shared", "-o", shared, "-Wl,--whole-archive", archive, "-Wl,--no-whole-archive")
    function = getattr(ctypes.CDLL(str(shared)), f"{made.prefix}_run")
    x = np.ascontiguousarray(np.load(bundle.path / GOLDEN_INPUT), np.float32)
    y = np.zeros(1000, np.float32)
    arena = np.zeros(record.arena_bytes + _ALIGNMENT, np.uint8)
    at = arena.ctypes.data + -arena.ctypes.data % _ALIGNMENT

    def run() -> NDArray[np.float32]:
        code = function(
            ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_void_p(at)
        )
        assert code == 0
        assert arena.size and x.size
        return y

    source = _MAIN.format(
        prefix=made.prefix, inputs=x.size, outputs=y.size, arena=record.arena_bytes
    )
    (folder / "main.c").write_text(source)
    program = folder / "main"
    _gcc("-o", program, f"-I{bundle.path / 'c' / 'include'}", folder / "main.c", archive)
    size = (bundle.path / "model.so").stat().st_size
    return Library(run, size, _instructions(program, folder))


def _gcc(*arguments: str | Path) -> None:
    subprocess.run(["gcc", "-O2", *map(str, arguments)], check=True)


def _instructions(program: Path, folder: Path) -> int | None:
    """Return the difference between two inferences and one."""
    if shutil.which("valgrind") is None:
        return None
    counts = []
    for turns in ("1", "2"):
        output = f"--callgrind-out-file={folder / 'counts'}"
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", output, str(program), turns],
            check=True,
            capture_output=True,
            text=True,
        )
        found = re.search(r"refs: *([\d,]+)", done.stderr)
        assert found is not None, done.stderr
        counts.append(int(found[1].replace(",", "")))
    return counts[1] - counts[0]


def _graph(bundle: Bundle) -> onnx.ModelProto:
    """Return the model of a bundle as every runtime gets it: quantized, or rewritten."""
    model = onnx.load(bundle.compiled_model)
    return model if bundle.manifest.precision == "int8" else run_pipeline(model)[0]


def unsigned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a quantized model with uint8 activations of the same steps; weights stay int8."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    zeros = {n.input[2] for n in changed.graph.node if n.op_type == "QuantizeLinear"}
    for one in changed.graph.initializer:
        if one.name in zeros:
            moved = numpy_helper.to_array(one).astype(np.int16) + 128
            one.CopyFrom(numpy_helper.from_array(moved.astype(np.uint8), one.name))
    del changed.graph.value_info[:]
    return changed


def _litert(
    model: onnx.ModelProto, bundle: Bundle, swish_in_parts: bool
) -> Callable[[], NDArray[np.float32]]:
    """Return what runs a model in LiteRT, in the calling thread; all of it is XNNPACK's.

    Only hard-swish of int8 as one operator is not.
    """
    x = np.load(bundle.path / GOLDEN_INPUT)
    whole = swish_in_parts or bundle.manifest.precision != "int8"
    file = tflite_of(model, swish_in_parts=swish_in_parts)
    run = open_litert(file, x, 1, whole=whole)
    return lambda: run().ravel()


def _onnxruntime(
    model: onnx.ModelProto, bundle: Bundle, *, optimised: bool = True
) -> Callable[[], NDArray[np.float32]]:
    """Return what runs a model in onnxruntime, in the calling thread.

    Its integer kernels saturate sums of two products without VNNI: results are compared with those
    of the model as it is, computed in fp32.
    """
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {session.get_inputs()[0].name: np.load(bundle.path / GOLDEN_INPUT)}

    def run() -> NDArray[np.float32]:
        output: NDArray[np.float32] = session.run(None, feeds)[0]
        return output.ravel()

    return run


def _time(run: Callable[[], object]) -> float:
    """Return the processor time of an inference, the second of two."""
    run()
    start = time.thread_time()
    run()
    return time.thread_time() - start


if __name__ == "__main__":
    main()
