"""A C library that gcc makes of C11 beside the one that LLVM makes: processor time, in turns.

python -m benchmarks.c_source [--networks small] [--precisions fp32 int8] [--write]
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import mbv3c
from benchmarks.results import replace_section
from mbv3c.execution.link import run_zig
from mbv3c.targets.library.manifest import manifest_of

TITLE = "C11 sources beside a C library"
NETWORKS, PRECISIONS = ("small", "large"), ("fp32", "int8")
TURNS = 15
FLAGS = "-O3 -march=native -fPIC"
_HEADER = [
    "| network | precision | values that differ | largest difference | text | gcc takes "
    "| C11 by gcc | C library | ratio |",
    "|---|---|---|---|---|---|---|---|---|",
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.c_source", description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS[:1], choices=NETWORKS)
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    lines = list(_HEADER)
    for network in arguments.networks:
        for precision in arguments.precisions:
            line = _row(network, precision)
            print(line, flush=True)
            lines.append(line)
    if arguments.write:
        replace_section(TITLE, "\n".join([_INTRODUCTION, *lines]))


_INTRODUCTION = f"""\
`python -m benchmarks.c_source --write`: MobileNetV3, random weights, 224 pixels, 1000 classes,
`host_cpu`, one core. `compile --artifact c-source`, built by gcc with `{FLAGS}
-ffp-contract=fast`, beside `--artifact c`: values of the golden input's output that differ, by how
much of the range, processor time of gcc, and the least of {TURNS} processor times of an inference,
taken in turns, on a machine with other work (AVX2); the ratio is the median over the turns.
"""


def _row(network: str, precision: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bundles = {}
        for artifact in ("c", "c-source"):
            options = {"artifact": artifact, "cores": 1, "prefix": "network"}
            spec = mbv3c.JobSpec("host_cpu", precision=precision, options=options)
            bundles[artifact] = root / artifact
            mbv3c.compile(mbv3c.build(variant=network), spec, bundles[artifact], verify=False)
        begun = os.times()
        made = root / "made"
        made.mkdir()
        command = ["make", "-s", "-C", bundles["c-source"] / "c", f"O={made}"]
        subprocess.run([*command, "CC=gcc", f"CFLAGS={FLAGS}"], check=True)
        ended = os.times()
        seconds = ended.children_user - begun.children_user
        archives = made / "libnetwork.a", bundles["c"] / "c" / "lib" / "libnetwork.a"
        runs = [_runner(each, bundles["c"]) for each in archives]
        outputs = [run() for run in runs]
        times: list[list[float]] = [[], []]
        for _ in range(TURNS):
            for run, taken in zip(runs, times, strict=True):
                start = time.process_time()
                run()
                taken.append(time.process_time() - start)
        ours, theirs = (min(taken) * 1e3 for taken in times)
        ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
        error = np.abs(outputs[0] - outputs[1]).max() / np.ptp(outputs[1])
        record = manifest_of(mbv3c.open_bundle(bundles["c-source"])).c_source
        assert record is not None
        cells = [
            network,
            precision,
            f"{int((outputs[0] != outputs[1]).sum())} of {outputs[0].size:,}",
            f"{error:.1e}",
            f"{record.source_bytes:,} bytes",
            f"{seconds:.0f} s",
            f"{ours:.2f} ms",
            f"{theirs:.2f} ms",
            f"{ratio:.2f}",
        ]
        return f"| {' | '.join(cells)} |"


def _runner(archive: Path, bundle: Path) -> Callable[[], np.ndarray]:
    """Return what runs a library once on the golden input, and gives its output."""
    shared = archive.with_suffix(".so")
    whole = ["-Wl,--whole-archive", str(archive), "-Wl,--no-whole-archive"]
    run_zig(["cc", "-shared", "-o", str(shared), *whole], "linking a library")
    record = manifest_of(mbv3c.open_bundle(bundle)).c_library
    assert record is not None
    x = np.load(bundle / "golden" / "input.npy")
    room = np.zeros(2 * record.arena_bytes + 64, np.uint8)
    arena = ctypes.c_void_p(room.ctypes.data + -room.ctypes.data % 64)
    library = ctypes.CDLL(str(shared))

    def run() -> np.ndarray:
        y = np.zeros_like(np.load(bundle / "golden" / "output.npy"))
        pointers = (ctypes.c_void_p(each.ctypes.data) for each in (x, y))
        code = library.network_run(*pointers, arena)
        assert code == 0, code
        return y

    return run


if __name__ == "__main__":
    main()
