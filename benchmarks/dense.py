"""fp32 with the weights of dense layers in bf16 and int8, beside onnxruntime, on this machine.

    python -m benchmarks.dense [--networks large small] [--runs 120] [--write]

The three bundles, and onnxruntime with all of its optimisations, compute one input in turns, in
one thread and in two. Bundles for an emulated Cortex-A76 count instructions.
"""

import argparse
import time
from pathlib import Path

import onnxruntime as ort

import mbv3c
from benchmarks.results import replace_section
from mbv3c.execution.emulator import kit as toolbox
from mbv3c.execution.emulator.counting import count_bundle
from mbv3c.execution.timing.latency import choose_cpus, processor_name, ratio, take_turns
from mbv3c.execution.timing.worker import BUNDLE
from mbv3c.graphs.narrow import STORED
from mbv3c.scratch import scratch_folder

TITLE = "Dense weights in bf16 and int8"
NETWORKS = ("large", "small")
PEER = "onnxruntime"
THREADS = (1, 2)
EMULATED, CPU = "arm_cpu:cortex-a76", "cortex-a76"
KINDS = ("fp32", *STORED)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dense", description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    lines = [
        "| network | weights | / onnxruntime, 1 thread | 2 threads | `model.so`, bytes | error "
        "| instructions on the A76, millions |",
        "|---" * 7 + "|",
    ]
    for network in arguments.networks:
        for line in _rows(network, arguments.runs):
            print(line, flush=True)
            lines.append(line)
    if arguments.write:
        introduction = (
            f"{time.strftime('%Y-%m-%d')}, {processor_name()}, with other work on it; onnxruntime "
            f"{ort.__version__}, all optimisations. `python -m benchmarks.dense --networks "
            f"{' '.join(arguments.networks)} --write`: "
            "MobileNetV3, random weights, 224 pixels. `compile --dense-weights` stores the "
            "weights of the classifier and of squeeze-and-excitation in that type; the arithmetic "
            "is fp32. Ratios of time are medians over blocks in turns, with their quartiles; `?` "
            "stands where the machine was disturbed. Errors are of the range, against onnxruntime "
            "on the model as given, the largest of the parity check. Instructions are counted in "
            "an emulator."
        )
        replace_section(TITLE, "\n".join([introduction, "", *lines]))


def _rows(network: str, runs: int) -> list[str]:
    """Measure a network."""
    model = mbv3c.build(variant=network)
    ratios: dict[str, list[str]] = {kind: [] for kind in KINDS}
    rest: dict[str, list[str]] = {}
    with scratch_folder("dense") as folder:
        for threads in THREADS:
            bundles = {}
            for kind in KINDS:
                bundles[kind] = folder / f"{kind}-{threads}"
                options = {"cores": threads} | _stored(kind)
                verified = threads == 1
                spec = mbv3c.JobSpec("host_cpu", options=options)
                mbv3c.compile(model, spec, bundles[kind], verify=verified)
                if verified:
                    rest[kind] = _size_and_error(bundles[kind])
            sides = {kind: (BUNDLE, path) for kind, path in bundles.items()}
            sides[PEER] = (PEER, bundles["fp32"])
            turns = take_turns(sides, choose_cpus(threads), runs)
            for kind in KINDS:
                found = ratio(turns.blocks[kind], turns.blocks[PEER])
                low, high = found.quartiles
                mark = "" if turns.undisturbed and found.steady else " ?"
                ratios[kind].append(f"{found.median:.2f} ({low:.2f}–{high:.2f}){mark}")
        for kind in KINDS:
            path = folder / f"{kind}-a76"
            spec = mbv3c.JobSpec(EMULATED, options={"cores": 1} | _stored(kind))
            mbv3c.compile(model, spec, path, verify=False)
            counted = count_bundle(toolbox.fetch(print), CPU, path)
            rest[kind].append(f"{counted.instructions / 1e6:.2f}")
    return [f"| {' | '.join([network, kind, *ratios[kind], *rest[kind]])} |" for kind in KINDS]


def _stored(kind: str) -> dict[str, str]:
    return {} if kind == "fp32" else {"dense_weights": kind}


def _size_and_error(path: Path) -> list[str]:
    bundle = mbv3c.open_bundle(path)
    parity = bundle.manifest.parity
    assert parity is not None
    return [f"{bundle.library.stat().st_size:,}", f"{parity['max_error_of_range']:.1e}"]


if __name__ == "__main__":
    main()
