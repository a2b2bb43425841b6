"""The table of CPUs."""

import onnx
import pytest

from mbv3c.execution.emulator.cores import CoresKit
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.job import Job
from mbv3c.pipeline import compile_model
from mbv3c.precision import FP32, INT8, Precision
from mbv3c.scratch import scratch_folder
from mbv3c.targets.cpu.devices import CPUS, CpuTarget
from mbv3c.targets.cpu.isa import ISAS
from mbv3c.targets.library.target import NATIVE


@pytest.mark.parametrize("target", CPUS, ids=lambda target: target.name)
def test_every_target_is_complete(target: CpuTarget) -> None:
    assert target.cores >= 1
    assert target.example
    assert target.triple.split("-")[0] == target.arch
    assert (target.cpu == NATIVE) == (target.arch == NATIVE) == (target.triple == NATIVE)
    if target.isa:  # LLVM's name is that of a level, which nobody says
        assert target.isa in ISAS
    elif target.family == "arm_cpu":
        assert target.device.removesuffix("-android").removesuffix("-nodotprod") == target.cpu
        assert ("-nodotprod" in target.device) == ("dotprod" in target.without)
    assert target.device.endswith("-android") == target.triple.endswith("-android")
    assert target.family in ("arm_cpu", "host_cpu", "riscv_cpu")
    assert target.has_runtime == (target.arch in (NATIVE, "aarch64", "x86_64"))


@pytest.mark.parametrize("precision", [FP32, INT8], ids=str)
@pytest.mark.parametrize(
    "target", [one for one in CPUS if one.emulated_as], ids=lambda target: target.device
)
def test_every_core_is_verified_emulated(
    target: CpuTarget,
    precision: Precision,
    blocks: onnx.ModelProto,
    emulator_kit: EmulatorKit,
    cores_kit: CoresKit,
) -> None:
    with scratch_folder("core") as folder:
        verdict = compile_model(blocks, Job(target, precision), folder / "bundle").verdict
    assert verdict is not None
    assert verdict.passed
    assert verdict.ran_on == f"emulated {target.emulated_as}"
