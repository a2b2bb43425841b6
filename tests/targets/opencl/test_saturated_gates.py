"""Gates on a GPU: three kernels hand them over in memory of no name, and are one to the check."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from mbv3c.bundle import LIBRARY
from mbv3c.execution.host import open_opencl
from mbv3c.job import Job
from mbv3c.lowering.describe import kernels_of
from mbv3c.lowering.unchecked import without_checks
from mbv3c.parity.kernels import check_kernels
from mbv3c.precision import FP32
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.library.building import build_library
from mbv3c.targets.library.target import resolve
from tests.quantized_networks import inputs_of, random


def gated(sign: float) -> onnx.ModelProto:
    """Return a gate that is at 1 on ordinary inputs, whatever the sign of its weights."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 8, 6, 6] x) => (float[1, 8, 6, 6] y)
        {
            [deep] a = Conv <group = 8, pads = [1, 1, 1, 1]> (x, w)
            [pool] p = GlobalAveragePool(a)
            [less] l = Conv(p, v1, b1)
            [relu] r = Relu(l)
            [more] m = Conv(r, v2, b2)
            [gate] s = HardSigmoid <alpha = 0.16666667, beta = 0.5> (m)
            [scale] t = Mul(a, s)
            [project] y = Conv(t, u)
        }"""
    )
    stored = {
        "w": random(8, 1, 3, 3) / 3,
        "v1": random(4, 8, 1, 1, seed=1) / 4,
        "b1": np.full(4, 0.1, np.float32),
        "v2": sign * random(8, 4, 1, 1, seed=2) / 3,
        "b2": np.full(8, 4, np.float32),
        "u": random(8, 8, 1, 1, seed=3),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in stored.items()
    )
    return model


def test_a_saturated_gate_is_checked_where_it_is_not_flat(tmp_path: Path) -> None:
    """The library has the other sign, which shows in nothing but tensors that are drawn."""
    target = resolve(find_target("mobile_gpu:generic_opencl"))
    with without_checks():
        job = Job(target, FP32)
        built = build_library(backend_of(target), gated(-1.0), job, tmp_path / LIBRARY)
    kernels, runner, x = kernels_of(built.lowered), open_opencl(FP32), inputs_of(gated(1.0))[0]
    assert [one.kind for one in kernels].count("gates") == 1
    right = check_kernels(gated(-1.0), kernels, x, runner, tmp_path)
    assert right.passed
    assert right.channels == 12
    assert right.alive > 4  # some of the gates, too
    found = check_kernels(gated(1.0), kernels, x, runner, tmp_path)
    (wrong, *others) = [one for one in found.kernels if not one.passed]
    assert all(one.drawn and one.tensor == "y" for one in (wrong, *others))
