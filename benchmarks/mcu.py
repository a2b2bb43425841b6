"""Instructions of an inference on emulated Cortex-M boards, beside a plain loop nest.

    python -m benchmarks.mcu [--devices cortex-m7 cortex-m55 ...] [--write]

Both are compiled by the same LLVM with the same options, run on bare metal, and give equal bits.
The plain loop nest has one sum at a time, and LLVM may make of it what it can; all kernels without
sums of products are the same on both sides.
"""

import argparse
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T  # noqa: N812

from benchmarks.results import replace_section
from mbv3c.c_library.run import CLibrary
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.job import Job
from mbv3c.job_spec import JobSpec
from mbv3c.lowering.lower import Lowered, assembled
from mbv3c.lowering.plan import Array, Kernel
from mbv3c.lowering.qdq import read_pairs
from mbv3c.lowering.schedules import emit
from mbv3c.prepare import Prepared, describe, prepare
from mbv3c.targets.cpu.kernels import CpuKernels
from mbv3c.targets.cpu.schedules.integer import arithmetic as integer
from mbv3c.targets.cpu.schedules.integer.convolution import IntegerConvolution
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization
from mbv3c.targets.cpu.select_integers import select_quantized
from mbv3c.targets.mcu.backend import BACKEND
from mbv3c.targets.mcu.building import McuBuild, build, tvm_target
from mbv3c.targets.mcu.devices import MCUS
from mbv3c.targets.mcu.kernels import processor_of
from mbv3c.targets.mcu.kit import require_kit
from mbv3c.targets.mcu.runner import BoardRunner, CountedOnBoard, described
from mbv3c.targets.mcu.schedules.words import Layer

TITLE = "Microcontrollers"
SPEC = ModelSpec(variant="small", width=0.35, resolution=96)
DEVICES = tuple(target.device for target in MCUS)
_INTRODUCTION = """\
MobileNetV3-Small 0.35 at 96 pixels in int8, 1000 classes, fp32 in and out; one inference on bare
metal, counted by `python -m benchmarks.mcu --write`. The plain loop nest is compiled by the same
LLVM and gives equal bits. Flash and SRAM are those of a linked program that only runs the network:
SRAM has the fp32 image, the arena, the scores and 4 KiB of stack. Multiply-adds are 2.63
million, with those of the zeros that fill an image up to four channels.
"""
_HEADER = [
    "| core | emulated on | instructions | plain loop nest | ratio | per multiply-add | flash | "
    "SRAM | arena | stack used |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


@dataclass(frozen=True)
class PlainKernels(CpuKernels):
    """Sums of products as a plain loop nest: one output after the other, one product at a time."""

    def integer_pointwise(
        self, shape: IntegerPointwise, weights: Array, *rounding: Array
    ) -> Kernel:
        def body() -> None:
            x = emit.argument("x", (shape.rows, shape.inputs), "int8")
            w = emit.argument("w", (shape.outputs, shape.inputs), "int8")
            layer, y = self._rest(w, shape.outputs, (shape.rows, shape.outputs), shape.output)
            with T.serial(0, shape.rows) as m, T.serial(0, shape.outputs) as n:
                total = self._begin(layer, n)
                with T.serial(0, shape.inputs) as k:
                    self._add(total, x[m, k], w[n, k])
                emit.store(y, layer.round([total.get(0, 0)], n), m, n, lanes=1)

        return Kernel(emit.build_kernel("integer_pointwise", body), (weights, *rounding))

    def integer_convolution(
        self, shape: IntegerConvolution, weights: Array, *rounding: Array
    ) -> Kernel:
        down, right, c = shape.vertical, shape.horizontal, shape.inputs
        n, channels, taps_down, taps_right = weights.shape
        filled = np.zeros((n, taps_down, taps_right, c), np.int8)
        filled[..., :channels] = weights.transpose(0, 2, 3, 1)

        def body() -> None:
            x = emit.argument("x", (shape.batch, down.size, right.size, c), "int8")
            w = emit.argument("w", filled.shape, "int8")
            outputs = (shape.batch, down.outputs, right.outputs, shape.outputs)
            layer, y = self._rest(w, shape.outputs, outputs, shape.output)
            with (
                T.serial(0, shape.batch) as b,
                T.serial(0, down.outputs) as p,
                T.serial(0, right.outputs) as q,
                T.serial(0, shape.outputs) as n,
            ):
                total = self._begin(layer, n)
                with T.serial(0, down.taps) as r, T.serial(0, right.taps) as s:
                    self._windowed(total, shape, (b, p, q, r, s), x, w, n)
                emit.store(y, layer.round([total.get(0, 0)], n), b, p, q, n, lanes=1)

        return Kernel(emit.build_kernel("integer_convolution", body), (filled, *rounding))

    def _windowed(
        self, total: Any, shape: IntegerConvolution, place: Any, x: Any, w: Any, n: Any
    ) -> None:
        b, p, q, r, s = place
        c, down, right = shape.inputs, shape.vertical, shape.horizontal
        h = p * down.stride + r * down.dilation - down.before
        v = q * right.stride + s * right.dilation - right.before
        inside = emit.all_of([h >= 0, h < down.size, v >= 0, v < right.size])
        with T.If(inside):
            with T.Then(), T.serial(0, c) as k:
                self._add(total, x[b, h, v, k], w[n, r, s, k])
            with T.Else(), T.serial(0, c) as k:
                self._add(total, emit.splat(shape.zero, 1, "int8"), w[n, r, s, k])

    def integer_depthwise(
        self, shape: IntegerDepthwise, weights: Array, *rounding: Array
    ) -> Kernel:
        down, right, c = shape.vertical, shape.horizontal, shape.channels
        rows = np.ascontiguousarray(weights[:, 0].transpose(1, 2, 0))

        def body() -> None:
            x = emit.argument("x", (shape.batch, down.size, right.size, c), "int8")
            w = emit.argument("w", rows.shape, "int8")
            outputs = (shape.batch, down.outputs, right.outputs, c)
            layer, y = self._rest(w, c, outputs, shape.output)
            with (
                T.serial(0, shape.batch) as b,
                T.serial(0, down.outputs) as p,
                T.serial(0, right.outputs) as q,
                T.serial(0, c) as k,
            ):
                total = self._begin(layer, k)
                with T.serial(0, down.taps) as r, T.serial(0, right.taps) as s:
                    h = p * down.stride + r * down.dilation - down.before
                    v = q * right.stride + s * right.dilation - right.before
                    inside = emit.all_of([h >= 0, h < down.size, v >= 0, v < right.size])
                    with T.If(inside):
                        with T.Then():
                            self._add(total, x[b, h, v, k], w[r, s, k])
                        with T.Else():
                            self._add(total, emit.splat(shape.zero, 1, "int8"), w[r, s, k])
                emit.store(y, layer.round([total.get(0, 0)], k), b, p, q, k, lanes=1)

        return Kernel(emit.build_kernel("integer_depthwise", body), (rows, *rounding))

    def _rest(
        self, w: Any, outputs: int, shape: tuple[int, ...], output: Requantization
    ) -> tuple[Layer, Any]:
        bias = emit.argument("bias", (outputs,), "int32")
        scale = emit.argument("scale", (outputs,), "float32")
        table = integer.argument_table(output)
        y = emit.argument("y", shape, "int8")
        return Layer(w, bias, scale, table, output, self.processor), y

    def _begin(self, layer: Layer, column: Any) -> Any:
        total = emit.accumulators(1, (1,), "int32")
        total.set(0, 0, layer.bias[column])
        return total

    def _add(self, total: Any, a: Any, b: Any) -> None:
        total.add_product(0, 0, emit.cast(a, 1, "int32"), emit.cast(b, 1, "int32"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mcu", description=__doc__)
    parser.add_argument("--devices", nargs="*", default=DEVICES, choices=DEVICES)
    parser.add_argument("--kernels", action="store_true", help="also what each kernel executes")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    model, lines = build_model(SPEC), list(_HEADER)
    job = JobSpec(f"mcu:{arguments.devices[0]}").job()
    prepared = prepare(model, job, print)
    for device in arguments.devices:
        line = _row(prepared, device, kernels=arguments.kernels)
        print(line, flush=True)
        lines.append(line)
    if arguments.write:
        replace_section(TITLE, "\n".join([_INTRODUCTION, *lines]))


def _row(prepared: Prepared, device: str, *, kernels: bool) -> str:
    job = JobSpec(f"mcu:{device}").job()
    target = BACKEND.wing.find("mcu", device)
    ours = BACKEND.lower_graph(prepared.graph, job)
    plain = assembled(
        select_quantized(
            read_pairs(prepared.graph),
            processor_of(target),
            tvm_target(target),
            written=PlainKernels,
        )
    )
    made, counted, results = _measured(prepared, job, ours)
    _, baseline, wanted = _measured(prepared, job, plain)
    for one, other in zip(results, wanted, strict=True):
        assert np.array_equal(one, other), "the plain loop nest gives other bits"
    if kernels:
        for name, count in Counter(counted.by_function).most_common():
            print(f"{count:>12,}  {baseline.by_function.get(name, 0):>12,}  {name}")
    madds = sum(step.madds for step in ours.plan.steps)
    count, record = counted.instructions, made.c_library
    return (
        f"| {device} | {described(target)} | {count:,} | {baseline.instructions:,} | "
        f"{baseline.instructions / count:.2f} | {count / madds:.2f} | "
        f"{made.image.flash_bytes:,} | {made.image.sram_bytes:,} | {record.arena_bytes:,} | "
        f"{counted.stack_bytes:,} |"
    )


def _measured(
    prepared: Prepared, job: Job, lowered: Lowered
) -> tuple[McuBuild, CountedOnBoard, list[Array]]:
    """Build a library, and run and count it on the golden input."""
    feed = prepared.reference.inputs[0]
    with tempfile.TemporaryDirectory(prefix="mcu-") as name:
        folder = Path(name)
        made = build(prepared, lowered, job, BACKEND.tools, folder)
        record, manifest = made.c_library, describe(prepared, job, ())
        library = CLibrary(
            record.prefix,
            folder / record.header,
            folder / record.archive,
            manifest.inputs,
            manifest.outputs,
        )
        runner = BoardRunner(require_kit(), job.target, library, record.needs)
        return made, runner.count(feed), runner.run(folder, [feed])[0]


if __name__ == "__main__":
    main()
