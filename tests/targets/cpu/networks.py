"""What every test of whole graphs does: lower one, build it for this machine, run it, compare."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import tvm
from tvm import relax

from mbv3c.job import Job
from mbv3c.lowering.lower import VM_PASSES, Lowered
from mbv3c.precision import FP16, FP32, Precision
from mbv3c.targets import find_target
from mbv3c.targets.cpu import backend as lowering
from mbv3c.targets.cpu.cores import CORES, Processor
from mbv3c.targets.library.target import resolve, tvm_target
from tests.kernel_builds import compiled
from tests.onnx_text import random

NEON = CORES["cortex-a76"]
AVX2 = replace(NEON, vector_bytes=32, registers=16, lane_operands=False)
AVX512 = replace(AVX2, vector_bytes=64, registers=32, partial_cost=0.5)
HOST_TARGET = resolve(find_target("host_cpu"))
HOST = tvm_target(HOST_TARGET)

# A few layers of fp32 sums in another order, as a fraction of the output's range.
TOLERANCE = 1e-5
# The same in half precision, where numbers have 11 bits instead of 24.
HALF_TOLERANCE = 2e-2

# Builds a lowered graph and runs it on some inputs; returns all outputs of every run.
Execute = Callable[[Lowered, Sequence[np.ndarray]], list[list[np.ndarray]]]


def lower(model: onnx.ModelProto, machine: Processor, precision: Precision = FP32) -> Lowered:
    """Lower a graph to a processor's kernels, in code for this machine."""
    return lowering.lower(model, machine, Job(HOST_TARGET, precision))


def agrees(
    model: onnx.ModelProto, machine: Processor = AVX512, precision: Precision = FP32
) -> Lowered:
    """Lower a graph and demand that it computes what onnxruntime computes."""
    lowered = lower(model, machine, precision)
    compare(lowered, model, HALF_TOLERANCE if precision == FP16 else TOLERANCE)
    return lowered


def compare(
    lowered: Lowered,
    model: onnx.ModelProto,
    tolerance: float = TOLERANCE,
    execute: Execute | None = None,
) -> None:
    """Run a lowered graph on three inputs and demand what onnxruntime computes.

    The outputs of all runs are kept and compared at the end, and the first input comes again: no
    run may leave anything behind for the next one.
    """
    xs = [random(*lowered.plan.input_shapes[0], seed=seed) for seed in (0, 1, 0)]
    results = (execute or run)(lowered, xs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (name,) = [one.name for one in session.get_inputs()]
    for x, result in zip(xs, results, strict=True):
        for wanted, got in zip(session.run(None, {name: x}), result, strict=True):
            assert got.shape == wanted.shape
            assert got.dtype == wanted.dtype
            exact = wanted.astype(np.float64)
            scale = float(np.ptp(exact)) or max(1.0, abs(float(exact.flat[0])))
            np.testing.assert_allclose(got / scale, exact / scale, rtol=0, atol=tolerance)


def run(lowered: Lowered, xs: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Build for this machine and run; return all outputs of every run."""
    executable = compiled(lowered.module, HOST, relax_pipeline=tvm.transform.Sequential(VM_PASSES))
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    inputs = [tvm.runtime.tensor(x) for x in xs]
    results = [main(x) for x in inputs]
    for x, given in zip(xs, inputs, strict=True):
        np.testing.assert_array_equal(x, given.numpy())
    several = len(lowered.plan.outputs) > 1
    return [[one.numpy() for one in (found if several else [found])] for found in results]


def kinds(lowered: Lowered) -> list[str]:
    return [step.kind for step in lowered.plan.steps]
