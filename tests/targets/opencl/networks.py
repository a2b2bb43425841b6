"""What tests of whole graphs on a GPU do: lower one, run it on an OpenCL device, compare."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import tvm
from tvm import relax

from mbv3c.execution.opencl.runtime import load_runtime
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.job import Job
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.unchecked import without_checks
from mbv3c.passes import run_pipeline
from mbv3c.precision import FP16, FP32, Precision
from mbv3c.targets import find_target
from mbv3c.targets.library.target import resolve
from mbv3c.targets.opencl import backend as opencl
from mbv3c.targets.opencl.backend import lower_for_gpu
from mbv3c.targets.opencl.gpus import GPUS
from tests.targets.cpu.networks import HALF_TOLERANCE, TOLERANCE, compare

HERE = resolve(find_target("mobile_gpu:generic_opencl"))


def target_for(device: str) -> tvm.target.Target:
    """Return TVM's target of a device of the table, with host code for this machine."""
    return opencl.tvm_target(replace(HERE, gpu=device))


def rewritten(spec: ModelSpec) -> onnx.ModelProto:
    return run_pipeline(build_model(spec))[0]


def lowered_for(
    model: onnx.ModelProto,
    device: str = "mali",
    precision: Precision = FP32,
    keep_float: Sequence[str] = (),
) -> Lowered:
    """Lower a graph to the kernels of a device of the table."""
    job = Job(replace(HERE, gpu=device), precision, tuple(keep_float))
    return lower_for_gpu(model, GPUS[device].gpu, target_for(device), job)


def agrees(
    model: onnx.ModelProto,
    device: str = "mali",
    precision: Precision = FP32,
    keep_float: Sequence[str] = (),
) -> Lowered:
    """Lower a graph and demand that its kernels compute what onnxruntime computes."""
    lowered = lowered_for(model, device, precision, keep_float)
    tolerance = HALF_TOLERANCE if precision == FP16 else TOLERANCE
    compare(lowered, model, tolerance, partial(run, device=device))
    return lowered


def run(
    lowered: Lowered, xs: Sequence[np.ndarray], device: str = "mali"
) -> list[list[np.ndarray]]:
    """Build host code for this machine and run; return all outputs of every run."""
    load_runtime()
    here = tvm.opencl(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.so"
        with without_checks():
            opencl.build(lowered.module, replace(HERE, gpu=device), path)
        main = relax.VirtualMachine(tvm.runtime.load_module(str(path)), here)["main"]
        inputs = [tvm.runtime.tensor(x, here) for x in xs]
        results = [main(x) for x in inputs]
        for x, given in zip(xs, inputs, strict=True):
            np.testing.assert_array_equal(x, given.numpy())
        several = len(lowered.plan.outputs) > 1
        return [[one.numpy() for one in (found if several else [found])] for found in results]
