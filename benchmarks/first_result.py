"""From the start of a program to its first result: a C library beside model.so with TVM's runtime.

    python -m benchmarks.first_result [--networks small large] [--precisions fp32 int8] [--write]

Two programs in C read the same input and write the output of one inference on this machine: one is
linked with the library of `compile --artifact c`, one opens `model.so` by the sources of `compile
--artifact app`. They run in turns; figures are medians.
"""

import argparse
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mbv3c
from benchmarks.results import replace_section
from mbv3c.bundle import GOLDEN_INPUT
from mbv3c.execution.link import run_zig
from mbv3c.execution.timing.latency import processor_name

TITLE = "From start to the first result"
NETWORKS, PRECISIONS = ("small", "large"), ("fp32", "int8")
_TURNS = 15
_PROGRAM = """\
#include <stdio.h>
#include "net.h"

static float in[NET_INPUT_INPUT_ELEMENTS], out[NET_CLASSES];
static _Alignas(NET_ARENA_ALIGNMENT) unsigned char arena[NET_ARENA_BYTES];

int main(int count, char **arguments) {
  if (count != 4) return 2;
  FILE *file = fopen(arguments[1], "rb");
  if (!file || fread(in, sizeof in, 1, file) != 1) return 3;
  fclose(file);
#ifdef OPENED
  if (net_open(arguments[3]) != NET_OK) return fprintf(stderr, "%s\\n", net_message()), 4;
#endif
  int code = net_run(in, out, arena);
  file = fopen(arguments[2], "wb");
  if (!file || fwrite(out, sizeof out, 1, file) != 1 || fclose(file)) return 5;
  /* What a parent is told of the peak begins with the parent's own. */
  char line[256];
  file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file)) {
    if (sscanf(line, "VmHWM: %ld", &(long){0}) == 1) fputs(line, stdout);
  }
  return code == NET_OK ? 0 : 6;
}
"""
_HEADER = [
    "| network | precision | program | bytes to ship | start to first result | processor time | "
    "peak memory |",
    "|---|---|---|---|---|---|---|",
]
_INTRODUCTION = """\
`python -m benchmarks.first_result --write` on {processor}: MobileNetV3, random weights, 224
pixels, one core; medians of {turns} starts of each program, in turns, with warm files. Bytes are
those of the stripped program with the C library, and of the program with `model.so`,
`libtvm_runtime.so` and `libtvm_ffi.so`. Both programs give equal bits.
"""


@dataclass(frozen=True)
class Start:
    """One run of a program: seconds until it ends, seconds of the processor, bytes at most."""

    wall: float
    processor: float
    peak: int


@dataclass(frozen=True)
class Program:
    """A program, and all the bytes that go with it."""

    name: str
    command: Sequence[str]
    bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_result", description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    lines = list(_HEADER)
    for network in arguments.networks:
        for precision in arguments.precisions:
            with tempfile.TemporaryDirectory() as folder:
                for line in _rows(network, precision, Path(folder)):
                    print(line, flush=True)
                    lines.append(line)
    if arguments.write:
        head = _INTRODUCTION.format(processor=processor_name(), turns=_TURNS)
        replace_section(TITLE, "\n".join([head, *lines]))


def _rows(network: str, precision: str, folder: Path) -> list[str]:
    model = mbv3c.build(variant=network)
    for artifact in ("c", "app"):
        options = {"artifact": artifact, "prefix": "net", "cores": 1}
        spec = mbv3c.JobSpec("host_cpu", precision=precision, options=options)
        mbv3c.compile(model, spec, folder / artifact, verify=False)
    np.load(folder / "c" / GOLDEN_INPUT).tofile(folder / "input.bin")
    programs = (_with_library(folder), _with_runtime(folder))
    runs: dict[str, list[Start]] = {program.name: [] for program in programs}
    for _ in range(_TURNS + 1):  # the first of each reads files that nobody has read
        for program in programs:
            runs[program.name].append(_start(program.command))
    outputs = [Path(program.command[2]).read_bytes() for program in programs]
    assert outputs[0] == outputs[1]
    return [_row(network, precision, program, runs[program.name][1:]) for program in programs]


def _row(network: str, precision: str, program: Program, runs: list[Start]) -> str:
    wall, processor, peak = (
        statistics.median(getattr(run, name) for run in runs)
        for name in ("wall", "processor", "peak")
    )
    cells = (
        *(network, precision, program.name, f"{program.bytes:,}"),
        *(f"{wall * 1e3:.1f} ms", f"{processor * 1e3:.1f} ms", f"{peak / 1e6:.1f} MB"),
    )
    return f"| {' | '.join(cells)} |"


def _with_library(folder: Path) -> Program:
    root = folder / "c" / "c"
    program = _linked(
        folder, "library", [str(root / "lib" / "libnet.a"), "-lm"], ["-I", str(root / "include")]
    )
    command = [str(program), str(folder / "input.bin"), str(folder / "library.out"), ""]
    return Program("C library", command, program.stat().st_size)


def _with_runtime(folder: Path) -> Program:
    import tvm
    import tvm_ffi

    app, bundle = folder / "app" / "app", folder / "app"
    ffi, runtime = Path(tvm_ffi.__file__).parent, Path(tvm.__file__).parent / "lib"
    libraries = [runtime / "libtvm_runtime.so", ffi / "lib" / "libtvm_ffi.so"]
    program = _linked(
        folder,
        "runtime",
        [
            *(str(app / name) for name in ("net.c", "mbv3c_model.c")),
            *("-Wl,--no-as-needed", *map(str, libraries)),
            *(f"-Wl,-rpath,{path.parent}" for path in libraries),
            "-lpthread",
        ],
        ["-DOPENED", "-I", str(app), "-isystem", str(ffi / "include")],
    )
    command = [str(program), str(folder / "input.bin"), str(folder / "runtime.out"), str(bundle)]
    files = (program, bundle / "model.so", *libraries)
    return Program("`model.so`, TVM's runtime", command, sum(f.stat().st_size for f in files))


def _linked(folder: Path, name: str, linked: Sequence[str], flags: Sequence[str]) -> Path:
    source, program = folder / f"{name}.c", folder / name
    source.write_text(_PROGRAM)
    run_zig(
        ["cc", "-std=c11", "-O2", "-s", *flags, "-o", str(program), str(source), *linked],
        "linking a program",
    )
    return program


def _start(command: Sequence[str]) -> Start:
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    _, kib, _ = done.stdout.split()
    return Start(wall, user + system, int(kib) * 1024)


if __name__ == "__main__":
    main()
