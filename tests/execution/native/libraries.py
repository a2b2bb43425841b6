"""Small libraries, with a driver and without."""

from pathlib import Path

import tvm

from mbv3c.execution.link import link
from mbv3c.lowering.lower import VM_PASSES, Lowered
from mbv3c.lowering.tir_pipeline import register_tir_pipeline
from tests.onnx_text import graph, random
from tests.targets.cpu.networks import AVX2, HOST, HOST_TARGET, lower

SHAPE = (1, 8, 4, 4)


def small() -> Lowered:
    """Return two convolutions with equal weights, and a branch that is an output, too."""
    text = (
        "g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y, float[1, 8] z) "
        "{ a = Conv(x, w) y = Conv(a, w) g = GlobalAveragePool(a) z = Flatten(g) }"
    )
    return lower(graph(text, w=random(8, 8, 1, 1)), AVX2)


def build_for_vm(lowered: Lowered, output: Path) -> None:
    """Build a library whose kernels TVM's virtual machine calls, as mbv3c did before."""
    executable = tvm.compile(
        lowered.module,
        target=HOST,
        relax_pipeline=tvm.transform.Sequential(VM_PASSES),
        tir_pipeline=register_tir_pipeline(),
    )
    link(executable, HOST_TARGET.triple, output, name="this machine")
