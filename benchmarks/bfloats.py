"""What bfloat16 saves on a core that has it, emulated, beside fp32 and fp16.

    python -m benchmarks.bfloats [--networks small large] [--write]

Each is compiled for one Cortex-A710 with random weights, verified and counted; cycles are
estimated by llvm-mca. `--write` puts the table into benchmarks/RESULTS.md.
"""

import argparse
import time
from collections.abc import Iterator

from benchmarks.networks import Network, build, compile_for
from benchmarks.results import replace_section
from mbv3c.errors import ToolError
from mbv3c.precision import BF16, FP16, FP32
from mbv3c.scratch import scratch_folder
from mbv3c.speed.measure import BenchRequest, Instructions, measure
from mbv3c.targets import open_bundle

TITLE = "bfloat16 on a Cortex-A710, emulated"
NETWORKS = ("small", "large")
_TARGET = "arm_cpu:cortex-a710"
_HEAD = """\
{date}, qemu-user emulating `max`; `python -m benchmarks.bfloats --write`: 224 pixels, one thread,
verified. Millions of instructions per inference, **counted, not timed**, and of cycles,
**estimated** by llvm-mca with LLVM's model of a Cortex-A710. Errors are of the range, the largest
over five inputs, against onnxruntime in fp32 on the graph as given.

| network | precision | instructions | cycles | / fp32 | error |
|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bfloats", description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--write", action="store_true", help="write RESULTS.md")
    arguments = parser.parse_args()
    lines = [_HEAD.format(date=time.strftime("%Y-%m-%d"))]
    print(lines[0], flush=True)
    for variant in arguments.networks:
        for row in rows_of(variant):
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
    if arguments.write:
        replace_section(TITLE, "\n".join(lines))


def rows_of(variant: str) -> Iterator[list[str]]:
    """Yield the row of a network in each precision."""
    graph, of_fp32 = build(Network(variant, 1.0, 224)), 0
    for precision in (FP32, FP16, BF16):
        with scratch_folder("bfloats") as folder:
            path = compile_for(graph, _TARGET, 1, folder, _quiet, precision=precision)
            bundle = open_bundle(path)
            found = measure(bundle, BenchRequest(profile=True), _quiet)
            assert isinstance(found, Instructions)
            if found.cycles is None:
                raise ToolError("llvm-mca is missing; fetch it with `mbv3c doctor --fetch=cycles`")
            of_fp32 = of_fp32 or found.executed
            error = bundle.manifest.parity["max_error_of_range"]
            yield [
                variant,
                precision.name,
                f"{found.executed / 1e6:.2f}",
                f"{found.cycles.total / 1e6:.2f}",
                f"{found.executed / of_fp32:.3f}",
                f"{error:.1e}",
            ]


def _quiet(_: str) -> None:
    """Say nothing."""


if __name__ == "__main__":
    main()
