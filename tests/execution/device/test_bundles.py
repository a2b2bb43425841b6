"""Whole bundles on served devices: this machine's CPU, its OpenCL device, an emulated board."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mbv3c.execution.cache import ZIG_CACHES, cache_root
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.opencl import runtime
from mbv3c.execution.opencl.runtime import provide_plugin
from tests.command_line import mbv3c
from tests.execution.device import boards
from tests.execution.device.serving import Served, served

ROOT = Path(__file__).parents[3]


def _compiled(blocks_file: Path, target: str) -> Path:
    path = blocks_file.parent / f"device-{target.replace(':', '-')}"
    done = mbv3c("compile", blocks_file, "--target", target, "--no-verify", "-o", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def host_bundle(blocks_file: Path) -> Path:
    return _compiled(blocks_file, "host_cpu")


@pytest.fixture(scope="module")
def gpu_bundle(blocks_file: Path, opencl_environment: object) -> Path:
    return _compiled(blocks_file, "mobile_gpu:generic_opencl")


@pytest.fixture(scope="module")
def arm_bundle(blocks_file: Path) -> Path:
    return _compiled(blocks_file, "arm_cpu")


@pytest.fixture(scope="module")
def opencl_environment() -> dict[str, str]:
    """Return an environment in which PoCL is the OpenCL device."""
    from mbv3c.execution.opencl.kit import fetch_kit

    fetch_kit(print)
    provide_plugin(print)
    return {"MBV3C_OPENCL_DEVICE": "Portable Computing Language"}


@pytest.fixture(scope="module")
def opencl_device(
    tmp_path_factory: pytest.TempPathFactory, opencl_environment: dict[str, str]
) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("opencl"), environment=opencl_environment) as one:
        yield one


def _verified(bundle: Path, device: Served) -> str:
    done = mbv3c("verify", bundle, "--device", device.address, "--json")
    assert done.returncode == 0, done.stderr
    parity = json.loads(done.stdout)
    assert parity["passed"]
    assert parity["exact_program"] is True
    assert len(parity["inputs"]) == 5
    assert parity["kernels_alone"]["passed"]
    assert parity["not_checked"] is None
    ran_on: str = parity["ran_on"]
    assert ran_on.endswith(f"device {device.address} (the library itself)")
    return ran_on


def test_host_cpu(host_bundle: Path, device: Served, tmp_path: Path) -> None:
    ran_on = _verified(host_bundle, device)
    assert device.document["machine"]["name"] in ran_on
    options = ("--input", host_bundle / "golden" / "input.npy", "-o", tmp_path / "y.npy")
    done = mbv3c("run", host_bundle, *options, "--device", device.address, "--json")
    assert json.loads(done.stdout)["ran_on"] == ran_on
    golden = np.load(host_bundle / "golden" / "output.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), golden, atol=1e-5 * np.ptp(golden))


def test_opencl(gpu_bundle: Path, opencl_device: Served) -> None:
    assert opencl_device.document["machine"]["opencl"]["platform"] == (
        "Portable Computing Language"
    )
    assert "(Portable Computing Language, a CPU) of " in _verified(gpu_bundle, opencl_device)


def test_gpu_bundle_needs_a_gpu(gpu_bundle: Path, device: Served) -> None:
    done = mbv3c("verify", gpu_bundle, "--device", device.address)
    assert done.returncode == 1
    assert "has no OpenCL device for mobile_gpu:generic_opencl: no OpenCL driver" in done.stderr


def test_wrong_library_misses(host_bundle: Path, arm_bundle: Path, device: Served) -> None:
    done = mbv3c("verify", arm_bundle, "--device", device.address)
    assert done.returncode == 2
    assert "has a library for aarch64, and the device" in done.stderr
    done = mbv3c("verify", host_bundle, "--timeout", 5)
    assert done.returncode == 2
    assert "--timeout belongs to --device or --tracker" in done.stderr


def test_emulated_board(
    arm_bundle: Path,
    host_bundle: Path,
    emulator_kit: EmulatorKit,
    no_opencl: dict[str, str],
    tmp_path: Path,
) -> None:
    python = boards.board_python(emulator_kit, boards.provide_board(), "cortex-a76")
    with served(tmp_path, environment=no_opencl, python=python) as board:
        assert board.document["machine"]["architecture"] == "aarch64"
        assert _verified(arm_bundle, board).startswith("cortex-a76 (aarch64, ")
        done = mbv3c("verify", host_bundle, "--device", board.address)
        assert done.returncode == 2
        assert "compile the model for aarch64" in done.stderr
        options = ("--device", board.address, "--runs", 2, "--threads", 1, "--json")
        found = json.loads(mbv3c("bench", arm_bundle, *options).stdout)
        (row,) = found["configurations"]
        assert row["ours"]["spread"]["runs"] == 2
        assert " emulated) of " in found["ran_on"] and found["machine"]["emulated"] is True
        assert row["theirs"] is None  # this board has no onnxruntime, and is told so
        assert any(text.startswith("onnxruntime: it is not inst") for text in found["missing"])


# ---- the program for boards, on this machine ----


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build mbv3c_run for this machine, against the libraries of the installed packages."""
    path = tmp_path_factory.mktemp("program") / "mbv3c_run"
    packages = [Path(str(find_spec(name).origin)).parent for name in ("tvm_ffi", "tvm")]  # type: ignore[union-attr]
    headers = (packages[0] / "include", packages[0] / "3rdparty" / "dlpack" / "include")
    command = [sys.executable, "-m", "ziglang", "c++", "-O2", "-std=c++17", "-fno-exceptions"]
    command += ["-target", f"{os.uname().machine}-linux-gnu.2.28", "-fno-rtti", "-nostdlib++"]
    command += [str(ROOT / "mbv3c/execution/emulator/mbv3c_run.cc"), "-o", str(path)]
    command += [f"-I{folder}" for folder in headers]
    command += [f"-L{package / 'lib'}" for package in packages]
    command += [f"-Wl,-rpath,{package / 'lib'}" for package in packages]
    command += ["-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"]
    command += ["-ltvm_runtime", "-ltvm_ffi", "-ldl"]
    zig = dict.fromkeys(ZIG_CACHES, str(cache_root() / "zig"))
    subprocess.run(command, check=True, env={**os.environ, **zig})
    return path


def _opencl_settings() -> dict[str, str]:
    """Return where PoCL is, which the program is not told."""
    settings = runtime._settings("")
    vendors = {"OCL_ICD_VENDORS": settings["vendors"]} if "vendors" in settings else {}
    return {"LD_LIBRARY_PATH": str(Path(settings["libraries"].splitlines()[-1]).parent), **vendors}


def _finished(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def _run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return _finished([str(program), *map(str, arguments)], _opencl_settings())


def test_program_runs_gpu_bundles(program: Path, gpu_bundle: Path, tmp_path: Path) -> None:
    done = _run(program, "--load", provide_plugin(print), "--repeat", 2, gpu_bundle)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASS max error of range ")
    assert "of 2 runs on this machine" in done.stderr
    golden = gpu_bundle / "golden"
    arrays = (golden / "input.npy", tmp_path / "y.npy")
    assert _run(program, "--load", provide_plugin(print), gpu_bundle, *arrays).returncode == 0
    wanted = np.load(golden / "output.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), wanted, atol=1e-5 * np.ptp(wanted))


def test_program_says_what_gpu_bundles_need(program: Path, gpu_bundle: Path) -> None:
    done = _run(program, gpu_bundle)
    assert done.returncode == 1
    assert "for a GPU, and this TVM runtime was built without OpenCL; --load" in done.stderr
    done = _run(program, "--load", "/no/such.so", gpu_bundle)
    assert done.returncode == 1
    assert "--load: /no/such.so" in done.stderr


def test_program_runs_cpu_bundles(program: Path, host_bundle: Path) -> None:
    done = _run(program, host_bundle)
    assert (done.returncode, done.stdout[:5]) == (0, "PASS "), done.stderr


# ---- scripts/android_selfcheck.sh, with an adb whose phone is a folder of this machine ----

ADB = r"""#!/bin/sh
set -e
case $1 in
    get-state) echo device ;;
    shell) shift; exec sh -c "$(echo "$*" | sed "s|/data/local/tmp|$PHONE|g")" ;;
    push) cp -r "$2" "$(echo "$3" | sed "s|/data/local/tmp|$PHONE|g")" ;;
esac
"""


@pytest.fixture
def phone(tmp_path: Path, program: Path) -> tuple[Path, Path]:
    """Return the folders of a phone and of the runtime that is pushed to it."""
    phone, built = tmp_path / "phone", tmp_path / "bin"
    phone.mkdir()
    built.mkdir()
    shutil.copy(program, built)
    for package, name in (("tvm", "libtvm_runtime.so"), ("tvm_ffi", "libtvm_ffi.so")):
        (built / name).symlink_to(Path(str(find_spec(package).origin)).parent / "lib" / name)  # type: ignore[union-attr]
    adb = tmp_path / "adb"
    adb.write_text(ADB)
    adb.chmod(0o755)
    return phone, built


def _selfcheck(phone: tuple[Path, Path], *arguments: object) -> subprocess.CompletedProcess[str]:
    script = ROOT / "scripts" / "android_selfcheck.sh"
    settings = {"ADB": str(phone[0].parent / "adb"), "PHONE": str(phone[0])}
    command = [str(script), *map(str, arguments)]
    return _finished(command, {**_opencl_settings(), **settings})


def test_phone_checks_a_bundle(phone: tuple[Path, Path], host_bundle: Path) -> None:
    done = _selfcheck(phone, host_bundle, phone[1], "--repeat", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASS ")
    assert "passed on the phone" in done.stdout
    assert "of 2 runs" in done.stderr
    assert list(phone[0].iterdir()) == []


def test_phone_that_misses(phone: tuple[Path, Path], host_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "changed"
    shutil.copytree(host_bundle, bundle)
    golden = np.load(bundle / "golden" / "output.npy")
    np.save(bundle / "golden" / "output.npy", golden[:, ::-1].copy())
    done = _selfcheck(phone, bundle, phone[1])
    assert done.returncode == 3
    assert "parity MISSED on the phone" in done.stderr
    assert list(phone[0].iterdir()) == []


def test_phone_with_a_gpu(phone: tuple[Path, Path], gpu_bundle: Path) -> None:
    done = _selfcheck(phone, gpu_bundle, phone[1])
    assert done.returncode == 2
    assert "is for a GPU, and" in done.stderr
    shutil.copy(provide_plugin(print), phone[1] / "libtvm_runtime_opencl.so")
    done = _selfcheck(phone, gpu_bundle, phone[1])
    assert (done.returncode, done.stdout[:5]) == (0, "PASS "), done.stderr


def test_what_is_not_whole_is_not_pushed(phone: tuple[Path, Path], tmp_path: Path) -> None:
    done = _selfcheck(phone, tmp_path, phone[1])
    assert done.returncode == 2
    assert "it has no manifest.json" in done.stderr
