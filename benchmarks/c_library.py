"""C libraries beside the shared ones with TVM's runtime: equal bits, instructions, and sizes.

    python -m benchmarks.c_library [--networks small] [--targets "arm_cpu fp32" ...] [--write]

Instructions are counted on an emulated processor, on one core on both sides.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mbv3c
from benchmarks.results import replace_section
from mbv3c.bundle import GOLDEN_INPUT, Bundle
from mbv3c.c_library.run import Machine, count_c_library
from mbv3c.execution.emulator.counting import count_bundle
from mbv3c.execution.emulator.kit import emulator_kit
from mbv3c.targets.cpu.artifact import c_library_of
from mbv3c.targets.library.manifest import manifest_of

TITLE = "C libraries without a runtime"
NETWORKS = ("small", "large")
TARGETS = (
    *("host_cpu fp32", "host_cpu int8"),
    *("arm_cpu:cortex-a76 fp32", "arm_cpu:cortex-a76 fp16", "arm_cpu:cortex-a76 int8"),
)
_HEADER = [
    "| network | target | differing values | instructions | of `model.so`'s | code | constants "
    "| arena | least | needs |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


@dataclass(frozen=True)
class Instructions:
    """What one inference executes, by the C library and by the shared one in TVM's machine."""

    ours: int
    theirs: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.c_library", description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--targets", nargs="*", default=TARGETS)
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    lines = list(_HEADER)
    for network in arguments.networks:
        for target in arguments.targets:
            line = _row(network, *target.split())
            print(line, flush=True)
            lines.append(line)
    if arguments.write:
        replace_section(TITLE, "\n".join([_INTRODUCTION, *lines]))


_INTRODUCTION = """\
`python -m benchmarks.c_library --write`: MobileNetV3, random weights, 224 pixels, 1000 classes,
one core. Values that differ from `model.so`'s in any bit, over the five inputs of `verify`;
instructions of one inference on the emulated Cortex-A76, by the C library and beside those of
`model.so` in TVM's virtual machine; bytes of code, of constants and of the arena, of which the
least is what is in use at once; functions to link beside memcpy, memmove and memset.
"""


def _row(network: str, target: str, precision: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        spec = mbv3c.JobSpec(target, precision=precision, options={"artifact": "c", "cores": 1})
        bundle = Path(folder) / "bundle"
        verdict = mbv3c.compile(mbv3c.build(variant=network), spec, bundle).verdict
        assert verdict is not None
        parity = verdict.to_json()["c_library"]
        opened = mbv3c.open_bundle(bundle)
        record = manifest_of(opened).c_library
        assert record is not None
        counts = ["", ""]
        counted = _instructions(opened)
        if counted is not None:
            counts = [f"{counted.ours:,}", f"{counted.ours / counted.theirs:.3f}"]
        sizes = (
            record.code_bytes,
            record.constant_bytes,
            record.arena_bytes,
            record.arena_lower_bound,
        )
        cells = [
            network,
            f"{target} {precision}",
            f"{parity['differing']} of {parity['values']:,}",
            *counts,
            *(f"{size:,}" for size in sizes),
            ", ".join(record.needs) or "nothing",
        ]
        return f"| {' | '.join(cells)} |"


def _instructions(bundle: Bundle) -> Instructions | None:
    """Count an inference of the golden input; None for what no emulator runs."""
    target = manifest_of(bundle).target
    kit = emulator_kit()
    if kit is None or not target.triple.startswith("aarch64"):
        return None
    machine = Machine("aarch64", kit, target.cpu)
    x = np.load(bundle.path / GOLDEN_INPUT)
    ours = count_c_library(c_library_of(bundle), machine, x)
    theirs = count_bundle(kit, target.cpu, bundle.path)
    return Instructions(ours.instructions, theirs.instructions)


if __name__ == "__main__":
    main()
