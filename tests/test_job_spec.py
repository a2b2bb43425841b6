"""What a user says becomes a job, or one sentence about what does not go together."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c.errors import UsageError
from mbv3c.job_spec import NO_TUNE_LOGS, JobSpec
from mbv3c.lowering.plan import NO_CHOICES
from mbv3c.precision import FP16, FP32, INT8
from mbv3c.quantization.calibration_files import Sampling
from mbv3c.quantization.options import QuantizeOptions, parse_keep_float
from mbv3c.targets.cpu.devices import CpuTarget
from mbv3c.targets.ethos_u.devices import NpuOptions
from mbv3c.targets.opencl.backend import GpuOptions
from tests.onnx_text import graph

A76, MALI, NPU = "arm_cpu:cortex-a76", "mobile_gpu:mali", "npu:ethos-u55-128"


@pytest.mark.parametrize(
    ("target", "precision"), [("arm_cpu", FP32), ("mobile_gpu", FP32), ("npu", INT8)]
)
def test_a_target_by_itself(target: str, precision: object) -> None:
    job = JobSpec(target).job()
    assert job.target.name in (A76, MALI, NPU)
    assert job.precision == precision
    assert (job.keep_float, job.calibration, job.quantizing) == ((), None, None)


def test_options_go_to_the_backend() -> None:
    every = dict.fromkeys(("cores", "emit_source", "optimise", "sram", "float_io", "mean"))
    target = JobSpec("arm_cpu", options=every | {"cores": 2}).job().target
    assert isinstance(target, CpuTarget)
    assert target.cores == 2
    assert JobSpec(MALI, options=every | {"emit_source": True}).job().options == GpuOptions(True)
    options = JobSpec("npu", options=every | {"sram": 512}, explain=True).job().options
    assert isinstance(options, NpuOptions)
    assert (options.sram_bytes, options.compare_size) == (512 << 10, True)


def test_layers_that_stay_in_fp32() -> None:
    half = JobSpec("arm_cpu", "fp16", keep_float="stem,blocks.*").job()
    assert (half.precision, half.keep_float) == (FP16, ("stem", "blocks.*"))
    assert half.quantizing is None
    integers = JobSpec("arm_cpu", "int8", keep_float="2").job()
    assert (integers.precision, integers.keep_float) == (INT8, ())
    assert integers.quantizing == QuantizeOptions(keep_float=parse_keep_float("2"))


def test_the_inputs_for_calibration_come_with_the_model(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((1, 3, 4, 4), np.float32))
    model = graph("g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { y = Relu(x) }")
    spec = JobSpec("arm_cpu", "int8", tmp_path)
    job = spec.job()
    assert job.calibration is None
    calibrated = spec.calibrated(job, model)
    assert calibrated.calibration is not None
    assert (calibrated.calibration.batches, calibrated.calibration.random) == (1, False)
    assert JobSpec("arm_cpu", "int8").calibrated(job, onnx.ModelProto()) is job


def test_without_tuning_databases_nothing_is_chosen() -> None:
    assert JobSpec("arm_cpu", tune_logs=NO_TUNE_LOGS).job().choices is NO_CHOICES
    assert JobSpec("arm_cpu", tune_logs=None).job().choices is not NO_CHOICES


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        (
            "arm_cpx",
            {},
            "unknown target 'arm_cpx'; nearest: arm_cpu, ",
        ),
        (
            "arm_cpu",
            {"precision": "fp8"},
            "unknown precision 'fp8'; known: fp32, fp16, bf16, int8",
        ),
        (MALI, {"precision": "int8"}, f"{MALI} does not compute in int8"),
        (NPU, {"precision": "fp32"}, f"{NPU} computes in int8 only; leave --precision fp32 out"),
        ("arm_cpu", {"keep_float": "a"}, "--keep-float is for --precision int8 and fp16"),
        (NPU, {"keep_float": "a"}, f"--keep-float is for CPUs; {NPU} computes no fp32"),
        ("arm_cpu", {"calibration": Path("x")}, "--calibration is for --precision int8"),
        (
            "arm_cpu",
            {"precision": "int8", "calibration": Path("no/such")},
            "no such folder: no/such",
        ),
        (
            "arm_cpu",
            {"tune_logs": Path("no/such")},
            "no/such is no folder of tuning databases; `mbv3c tune` writes one",
        ),
        ("npu", {"sampling": Sampling(3)}, "--calibration-limit and --calibration-seed belong to"),
        ("arm_cpu", {"options": {"cores": 0}}, "--cores 0 is not possible; choose 1 to 64"),
        ("arm_cpu", {"options": {"sram": 512}}, "--sram is for --target npu and mcu only"),
        (
            "host_cpu",
            {"options": {"sram": 512, "mean": "pool"}},
            "--sram, --mean are for --target npu only",
        ),
        ("npu", {"options": {"cores": 2}}, f"--cores is for CPUs; {NPU} has one core"),
        (MALI, {"options": {"cores": 2}}, f"--cores is for CPUs; on {MALI} the GPU computes"),
        (
            "arm_cpu",
            {"options": {"emit_source": True}},
            f"--emit-source is for GPUs; the kernels of {A76} have no source",
        ),
    ],
)
def test_what_does_not_go_together(target: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        JobSpec(target, **given).job()
    assert message in str(refused.value)
