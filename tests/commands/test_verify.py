"""`mbv3c verify` as a user runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.command_line import document, mbv3c, mbv3c_process


def test_host_bundle_verifies(host_bundle: Path) -> None:
    done = mbv3c("verify", host_bundle, "--json")
    assert done.returncode == 0
    parity = document(done)
    assert parity["passed"] is True
    assert parity["ran_on"] == "this machine"
    assert parity["max_error_of_range"] < 1e-5
    assert parity["top1_agreement"] == 1.0


def test_arm_bundle_verifies_under_the_emulator(arm_bundle: Path) -> None:
    done = mbv3c("verify", arm_bundle, "--json")
    assert done.returncode == 0
    assert document(done)["ran_on"] == "emulated cortex-a76"


def test_without_an_emulator_the_same_program_is_checked_here(
    arm_bundle: Path, tmp_path: Path
) -> None:
    done = mbv3c("verify", arm_bundle, "--json", MBV3C_CACHE=str(tmp_path))
    assert done.returncode == 0
    parity = document(done)
    assert parity["exact_program"] is False
    assert "not the arm_cpu:cortex-a76 library itself" in parity["ran_on"]


def test_perturbed_weight_in_the_library_is_found(host_bundle: Path, tmp_path: Path) -> None:
    """One weight, 1 % off: compile such a model and put its library into the true bundle."""
    model = onnx.load(host_bundle / "model.onnx")
    weight = next(t for t in model.graph.initializer if t.name == "stem.weight")
    values = numpy_helper.to_array(weight).copy()
    values.flat[np.abs(values).argmax()] *= 1.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "off.onnx")
    off = tmp_path / "off"
    arguments = ("--target", "host_cpu", "-o", off, "--no-verify")
    assert mbv3c("compile", tmp_path / "off.onnx", *arguments).returncode == 0
    forged = tmp_path / "forged"
    shutil.copytree(host_bundle, forged)
    shutil.copy(off / "model.so", forged / "model.so")
    manifest = json.loads((forged / "manifest.json").read_text())
    manifest["files"]["model.so"] = json.loads((off / "manifest.json").read_text())["files"][
        "model.so"
    ]
    (forged / "manifest.json").write_text(json.dumps(manifest))
    done = mbv3c("verify", forged, "--trust", "--json")
    assert document(done, code=3)["passed"] is False


def test_quiet_on_stderr_but_for_progress(host_bundle: Path) -> None:
    done = mbv3c_process("verify", host_bundle)
    assert all(line.startswith("[") for line in done.stderr.splitlines()), done.stderr


def test_errors_are_json_too(tmp_path: Path) -> None:
    done = mbv3c("verify", tmp_path, "--json")
    assert document(done, code=1)["error"]["kind"] == "bundle"


def test_damaged_bundle_is_refused(host_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(host_bundle, copy)
    data = bytearray((copy / "model.so").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.so").write_bytes(data)
    done = mbv3c("verify", copy)
    assert done.returncode == 1
    assert "was changed after compile" in done.stderr


@pytest.mark.parametrize("command", ["verify", "bench", "inspect"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kernels": None}, "Expected `array`, got `null` - at `$.kernels`"),
        ({"input": {"name": "input"}}, "missing required field `shape` - at `$.input`"),
        ({"precision": "fp8"}, "its precision is 'fp8'"),
    ],
)
def test_a_damaged_manifest_is_one_clear_line(
    host_bundle: Path, tmp_path: Path, changes: dict[str, object], said: str, command: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(host_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | changes))
    done = mbv3c(command, copy)
    assert done.returncode == 1
    assert f"{copy / 'manifest.json'} is damaged: " in done.stderr
    assert said in done.stderr
