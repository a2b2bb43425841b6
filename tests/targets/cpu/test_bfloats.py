"""`--precision bf16`: a network on an emulated core, and who refuses it."""

import json
from pathlib import Path

import pytest

from mbv3c.execution.features import features_of
from mbv3c.job import Job
from mbv3c.precision import BF16, FP32
from mbv3c.targets import find_target
from mbv3c.targets.library.building import target_of
from mbv3c.targets.library.target import tvm_target
from tests.command_line import mbv3c

NETWORK = ("--variant", "small", "--width", "0.35", "--resolution", "64")


def test_a_network_is_verified_kernel_by_kernel(emulator_kit: object, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    target = ("--target", "arm_cpu:cortex-a710", "--precision", "bf16")
    done = mbv3c("compile", *NETWORK, *target, "-o", bundle)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["precision"] == "bf16"
    assert 1e-4 < manifest["parity"]["max_error_of_range"] < 5e-2
    kinds = {kernel["kind"] for kernel in manifest["kernels"]}
    assert "bfloat_pointwise" in kinds
    assert "pointwise" not in kinds
    again = mbv3c("verify", bundle)
    assert again.returncode == 0, again.stderr


def test_only_a_library_in_bfloat16_needs_it() -> None:
    for name in ("cortex-a710", "cortex-a715-android"):
        target = find_target(f"arm_cpu:{name}")
        needed = {
            precision: [
                each.llvm for each in features_of(tvm_target(target_of(Job(target, precision))))
            ]
            for precision in (FP32, BF16)
        }
        assert "bf16" not in needed[FP32]
        assert set(needed[BF16]) == {*needed[FP32], "bf16"}


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("arm_cpu:cortex-a76", "does not compute in bf16; these do: arm_cpu:cortex-a510, "),
        ("host_cpu", "does not compute in bf16"),
        ("arm_cpu:cortex-a7", "choose --precision fp32 or int8"),
        ("mobile_gpu:mali", "bf16"),
        ("npu:ethos-u55-128", "bf16"),
    ],
)
def test_other_targets_refuse_it(target: str, says: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    done = mbv3c(
        "compile", "--variant", "small", "--target", target, "--precision", "bf16", "-o", bundle
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert not bundle.exists()


def test_c_sources_refuse_it(tmp_path: Path) -> None:
    target = ("--target", "arm_cpu:cortex-a710", "--precision", "bf16")
    done = mbv3c("compile", *NETWORK, *target, "--artifact", "c-source", "-o", tmp_path / "bundle")
    assert done.returncode == 2
    assert "C11 has no bfloat16: choose --precision fp32 or int8" in done.stderr
