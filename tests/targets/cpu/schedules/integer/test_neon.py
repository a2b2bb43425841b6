"""Integer kernels on emulated NEON, by `smmla`, by `sdot`, by neither: shapes nothing divides."""

from dataclasses import replace
from pathlib import Path

import pytest

from mbv3c.bundle import LIBRARY
from mbv3c.job import Job
from mbv3c.lowering.describe import kernels_of
from mbv3c.parity.kernels import check_kernels
from mbv3c.precision import INT8
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.library.building import build_library
from tests.quantized_networks import inputs_of, quantized, random

NODES = {
    *("stem", "wide", "apart", "five", "dense", "seven", "row", "even", "back", "sum", "mean"),
    "head",
}


@pytest.mark.parametrize(
    "target", ["arm_cpu:cortex-a710", "arm_cpu:cortex-a76", "arm_cpu:cortex-a53"]
)
def test_every_kernel_of_odd_shapes(target: str, emulator_kit: object, tmp_path: Path) -> None:
    model = quantized(
        """g (float[2, 3, 17, 23] x) => (float[2, 5] y)
        <float low = {-1.0}, float high = {1.5}>
        {
            [stem] s0 = Conv <pads = [0, 1, 1, 0], strides = [2, 2]> (x, w_stem)
            [stem_act] s = HardSwish(s0)
            [apart] a0 = Conv <group = 12, pads = [2, 2, 2, 2], dilations = [2, 2]> (s, w_apart)
            [apart_act] a = Clip(a0, low, high)
            [wide] w = Conv(a, w_wide)
            [five] f0 = Conv <group = 24, pads = [1, 2, 2, 1], strides = [2, 2]> (w, w_five)
            [five_act] f = HardSwish(f0)
            [dense] d0 = Conv <pads = [1, 1, 1, 1]> (f, w_dense)
            [dense_act] d = Relu(d0)
            [expand] e = Conv(d, w_expand)
            [seven] v = Conv <group = 40, pads = [3, 1, 3, 1]> (e, w_seven)
            [row] r = Conv <group = 40, pads = [0, 2, 0, 2]> (v, w_row)
            [even] n = Conv <group = 40, pads = [1, 0, 0, 1], dilations = [1, 1]> (r, w_even)
            [back] b = Conv(n, w_back)
            [sum] t = Add(b, d)
            [mean] m0 = GlobalAveragePool(t)
            [flat] m = Flatten(m0)
            [head] y = Gemm <transB = 1> (m, w_head)
        }""",
        w_stem=random(12, 3, 3, 3, seed=1),
        w_apart=random(12, 1, 3, 3, seed=2),
        w_wide=random(24, 12, 1, 1, seed=3),
        w_five=random(24, 1, 5, 5, seed=4),
        w_dense=random(20, 24, 3, 3, seed=5),
        w_expand=random(40, 20, 1, 1, seed=6),
        w_seven=random(40, 1, 7, 3, seed=7),
        w_row=random(40, 1, 1, 5, seed=8),
        w_even=random(40, 1, 2, 2, seed=9),
        w_back=random(20, 40, 1, 1, seed=10),
        w_head=random(5, 20, seed=11),
    )
    goal = replace(find_target(target), cores=1)
    backend = backend_of(goal)
    built = build_library(backend, model, Job(goal, INT8), tmp_path / LIBRARY)
    kernels = kernels_of(built.lowered)
    assert {node for one in kernels for node in one.nodes} >= NODES
    assert "fallback" not in {one.kind for one in kernels}
    runner = backend.runner_for(goal, INT8)
    assert runner is not None
    for x in inputs_of(model)[:2]:
        found = check_kernels(model, kernels, x, runner, tmp_path)
        assert not found.missed
        # Without dot products dense convolutions are fp32; their sums are no tensors of the model.
        assert {node for one in found.kernels for node in one.nodes} >= NODES - {"stem", "dense"}
        assert len(found.kernels) >= len(NODES)
