"""Which instructions LLVM writes for processors that this machine need not be."""

from dataclasses import replace

import pytest
import tvm

from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets import find_target
from mbv3c.targets.cpu.cores import processor_of
from mbv3c.targets.cpu.schedules.integer import depthwise, pointwise
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise
from mbv3c.targets.cpu.schedules.integer.gates import Gate
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise
from mbv3c.targets.cpu.schedules.integer.requantization import Gated, Requantization
from mbv3c.targets.library.target import tvm_target
from tests.kernel_builds import compiled

GATED = Gated(-7, gate=Gate(0.0131, 0.5, 0.0, 1.0, True, 0.93, -11))


@pytest.mark.parametrize(
    ("cpu", "product", "absent"),
    [
        ("haswell", "vpmaddwd", "zmm"),
        ("alderlake", "{vex}\tvpdpbusd", "zmm"),
        ("skylake-avx512", "vpmaddwd", "vpdpbusd"),
        ("icelake-server", "vpdpbusd", "vpmaddwd"),
    ],
)
def test_products_and_rounding(cpu: str, product: str, absent: str) -> None:
    target = replace(find_target("host_cpu:avx2"), cpu=cpu)
    processor = processor_of(target)
    shapes = [IntegerPointwise(12, 32, 32, output) for output in (Requantization(3), GATED)]
    functions = {
        f"product_{number}": pointwise.generate(
            shape, pointwise.default(shape, processor), processor
        )
        for number, shape in enumerate(shapes)
    }
    if processor.vector_bytes == 32:
        axis = Axis(5, 3, 1, 1, 1, 1)
        channels = IntegerDepthwise(1, 16, axis, axis, 3, Requantization(3))
        functions["channels"] = depthwise.generate(
            channels, depthwise.default(channels, processor), processor
        )
    module = tvm.IRModule(
        {name: one.with_attr("global_symbol", name) for name, one in functions.items()}
    )
    text = compiled(module, tvm_target(target)).mod.inspect_source("asm")
    wide = processor.vector_bytes == 64
    products = [line for line in text.splitlines() if product in line]
    assert [line for line in products if ("%zmm" if wide else "%ymm") in line]
    assert absent not in text
    if processor.integers == "pairs":
        assert "vpmovsxbw" in text
    if not wide:
        assert {"vcvtps2dq", "vpackssdw", "vpacksswb", "vpunpcklwd"} <= set(text.split())
    # Nothing is looked up byte by byte.
    assert "vpinsrb" not in text
