"""`mbv3c verify` as a user runs it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.faults import changed, places_of, plant
from mbv3c.errors import BundleError
from mbv3c.parity.golden import check_golden
from mbv3c.targets import open_bundle
from mbv3c.targets.library.judging import golden_from
from mbv3c.targets.reference import reference_of
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


def forged_from(bundle: Path, folder: Path) -> Path:
    forged = folder / "forged"
    shutil.copytree(bundle, forged)
    return forged


def test_one_wrong_element_in_the_library_is_found(host_bundle: Path, tmp_path: Path) -> None:
    """A weight 3 % off in the last place of several, its hash made to fit."""
    place = places_of(open_bundle(host_bundle), 3)[-1]
    wrong = changed(place, "weight 3 % off")
    assert wrong is not None
    forged = forged_from(host_bundle, tmp_path)
    plant(forged, place, wrong)
    parity = document(mbv3c("verify", forged, "--trust", "--json"), code=3)
    assert parity["passed"] is False
    (fault,) = parity["constants"]["faults"]
    assert fault["kernel"] == place.kernel.kernel
    assert fault["nodes"] == list(place.kernel.nodes)
    assert fault["differing"] == 1


@pytest.mark.parametrize(
    ("file", "contents", "said"),
    [
        ("tolerance.txt", b"1e9\n", "it allows 1e\\+09, and `verify` "),
        ("tolerance.txt", b"", "it has 0 tolerances"),
        ("output.npy", b"", "it is no .npy array"),
        ("input.npy", b"", "it is no .npy array"),
    ],
)
def test_golden_files_that_prove_nothing(
    host_bundle: Path, tmp_path: Path, file: str, contents: bytes, said: str
) -> None:
    bundle = open_bundle(host_bundle)
    prepared = reference_of(bundle, None)
    right = golden_from(prepared, bundle.precision)
    check_golden(bundle, right)
    forged = forged_from(host_bundle, tmp_path)
    (forged / "golden" / file).write_bytes(contents)
    with pytest.raises(BundleError, match=said):
        check_golden(replace(bundle, path=forged), right)


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
