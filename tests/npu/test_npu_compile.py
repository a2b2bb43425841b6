import ctypes
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c.errors import UsageError
from mbv3c.lowering.ethos_u.convert import Lowering
from mbv3c.lowering.ethos_u.partition import partition
from mbv3c.npu_pipeline import PRECISION, RAW, TOSA, NpuCompiled, compile_npu, verify_npu
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.npu import LSB
from mbv3c.parity.reference import run, session
from mbv3c.quantization.calibration import random_inputs
from mbv3c.targets.npu_table import find_npu

QUICK = ("--variant", "small", "--resolution", "96", "--classes", "10")


def mbv3c(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mbv3c", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_manifest_says_what_was_made(compiled: NpuCompiled):
    manifest = json.loads((compiled.path / "manifest.json").read_text())
    assert manifest["precision"] == PRECISION
    assert manifest["input"]["dtype"] == "int8"
    placement = manifest["npu"]["placement"]
    assert {one["on"] for one in placement} == {"npu"}
    cost = manifest["npu"]["cost"]
    assert cost["figures"] == "estimated by vela"
    assert cost["cpu_operators"] == 0
    (given,) = manifest["npu"]["inputs"]
    assert (given["shape"], given["layout"], given["dtype"]) == ([1, 96, 96, 3], "NHWC", "int8")


def test_every_step_is_the_one_before_it(bundle: Path):
    parity = verify_npu(bundle)
    assert parity.passed
    assert parity.stream_equal is True
    assert parity.stream_inputs == 2
    spread = max(one.spread_lsb for one in parity.inputs)
    for one in parity.inputs:
        assert one.lsb <= one.allowed_lsb == max(LSB, 2 * spread)


def test_golden_files_are_what_the_device_computes(bundle: Path):
    x, y = (np.load(bundle / "golden" / f"{name}.npy") for name in ("input", "output"))
    assert (x.dtype, x.shape) == (np.int8, (1, 96, 96, 3))
    assert (y.dtype, y.shape) == (np.int8, (1, 1, 1, 100))
    assert (bundle / "golden" / "tolerance.txt").read_text() == "0\n"


def test_the_same_model_gives_the_same_bytes(
    compiled: NpuCompiled, network: onnx.ModelProto, tmp_path: Path
):
    again = tmp_path / "again"
    calibration = random_inputs(network, 4)
    compile_npu(network, find_npu("npu"), again, calibration, progress=lambda step: None)
    for path in sorted(compiled.path.rglob("*")):
        if path.is_file():
            assert (again / path.relative_to(compiled.path)).read_bytes() == path.read_bytes()


def test_a_quantized_model_is_taken_as_it_is(
    compiled: NpuCompiled, quantized: onnx.ModelProto, tmp_path: Path
):
    path = tmp_path / "bundle"
    target = find_npu("npu")
    compile_npu(quantized, target, path, verify=False, progress=lambda step: None)
    assert (path / RAW).read_bytes() == (compiled.path / RAW).read_bytes()
    with pytest.raises(UsageError, match="QDQ pairs already"):
        calibration = random_inputs(quantized, 4)
        compile_npu(quantized, target, tmp_path / "b", calibration, progress=lambda step: None)
    assert not (tmp_path / "b").exists()


def test_the_c_source_builds_for_a_cortex_m(bundle: Path, tmp_path: Path):
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi"]
    flags = ["-mcpu=cortex_m55", "-c", "-Wall", "-Wextra", "-Werror", "-std=c99"]
    built = tmp_path / "model.o"
    subprocess.run([*compiler, *flags, str(bundle / "model.c"), "-o", str(built)], check=True)
    # What the header describes is in the object, where and as it says.
    with np.load(bundle / RAW) as raw:
        assert raw["cmd_data"].tobytes() in built.read_bytes()
        assert raw["weight_data"].tobytes() in built.read_bytes()


@pytest.mark.parametrize("share", [0.1, 0.6, 0.85])
def test_one_flipped_bit_of_the_constants_misses_parity(
    bundle: Path, tmp_path: Path, share: float
):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    flip(broken / RAW, share)
    assert mbv3c("verify", broken).returncode == 1
    rehash(broken, RAW)
    done = mbv3c("verify", broken, "--json")
    assert done.returncode == 3, done.stderr
    parity = json.loads(done.stdout)
    assert parity["passed"] is False
    assert parity["stream_bit_equal"] is False
    assert parity["stream_error"]


def test_a_tosa_file_that_is_not_of_the_model_misses_parity(
    bundle: Path, quantized: onnx.ModelProto, tmp_path: Path
):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / TOSA).write_bytes(partition(quantized, Lowering("pool")).regions[0].tosa)
    rehash(broken, TOSA)
    parity = verify_npu(broken)
    assert not parity.same_tosa
    assert not parity.passed


def test_every_operator_by_itself_is_that_of_onnxruntime(bundle: Path):
    alone = verify_npu(bundle).alone
    assert alone.count == 99
    assert alone.lsb <= alone.allowed_lsb == 1


def flip(raw: Path, share: float) -> None:
    """Flip a bit of the constants: of a weight, a bias or a scale."""
    with zipfile.ZipFile(raw) as archive:
        files = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    data = files["weight_data.npy"]
    data[128 + int(share * (len(data) - 128))] ^= 4
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, bytes(content))


def rehash(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_device_that_is_not_interpreted_says_so(tmp_path: Path):
    path = tmp_path / "bundle"
    done = mbv3c(
        "compile", *QUICK, "--target", "npu:ethos-u85-256", "-o", path, "--json", "--explain"
    )
    assert done.returncode == 0, done.stderr
    assert "RANDOM inputs" in done.stderr
    printed = json.loads(done.stdout)
    assert printed["parity"]["stream_bit_equal"] is None
    assert "Ethos-U55 and Ethos-U65-256 only" in printed["parity"]["stream_not_checked"]
    assert printed["alternatives"]["optimise size"]["cycles"] > 0
    assert printed["random_inputs"] is True


def test_calibration_and_float_ends(tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.standard_normal((8, 3, 96, 96), dtype=np.float32))
    path = tmp_path / "bundle"
    arguments = ("--target", "npu:ethos-u65-256", "-o", path, "--calibration", folder)
    done = mbv3c("compile", *QUICK, *arguments, "--float-io", "--optimise", "size")
    assert done.returncode == 0, done.stderr
    assert "RANDOM" not in done.stderr
    assert "bit-equal on 2 inputs" in done.stdout
    inspected = json.loads(mbv3c("inspect", path, "--json").stdout)
    on_cpu = [one["operator"] for one in inspected["npu"]["placement"] if one["on"] == "cpu"]
    assert on_cpu == ["quantize", "dequantize"]
    assert inspected["input"]["dtype"] == "float32"
    assert inspected["npu"]["knobs"]["optimise"] == "Size"
    assert "estimated by vela" in mbv3c("inspect", path).stdout
    check_conversions(path, tmp_path, inspected)


def check_conversions(path: Path, folder: Path, inspected: dict[str, Any]) -> None:
    """Run the functions of model.c on this machine, on the golden tensors and on hard values."""
    triple = f"{platform.machine()}-linux-gnu"
    library = folder / "model.so"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-nostdlib", "-shared"]
    flags = ["-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-std=c99"]
    subprocess.run([*compiler, *flags, str(path / "model.c"), "-o", str(library)], check=True)
    functions = ctypes.CDLL(str(library))
    given, made = (inspected["npu"][key][0] for key in ("inputs", "outputs"))
    x = np.load(path / "golden" / "input.npy")
    assert (x.dtype, x.shape) == (np.float32, (1, 3, 96, 96))
    middle = np.float32(given["scale"]) * (np.arange(-300, 300) + 0.5).astype(np.float32)
    x = x.copy()
    x.reshape(-1)[: middle.size] = middle
    x.reshape(-1)[middle.size : middle.size + 4] = (np.inf, -np.inf, 1e30, -1e30)
    q = np.zeros(given["shape"], np.int8)
    pointers = ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(q.ctypes.data)
    functions.mbv3c_model_quantize_input_0(*pointers)
    steps = np.rint(x / np.float32(given["scale"])) + given["zero_point"]
    assert (q == np.clip(steps, -128, 127).astype(np.int8).transpose(0, 2, 3, 1)).all()
    integers = np.arange(-50, 50, 10, dtype=np.int8)
    y = np.zeros(10, np.float32)
    pointers = ctypes.c_void_p(integers.ctypes.data), ctypes.c_void_p(y.ctypes.data)
    functions.mbv3c_model_dequantize_output_0(*pointers)
    wanted = (integers.astype(np.float32) - made["zero_point"]) * np.float32(made["scale"])
    assert (y == wanted).all()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--target", "npu", "--sram", "16"), 1, "of SRAM on npu:ethos-u55-128 and --sram allows"),
        (("--target", "npu", "--calibration", "none"), 2, "no such folder: none"),
        (("--target", "npu", "--batch", "2"), 2, "one image, 1x3xHxW, at a time"),
        (("--target", "npu", "--precision", "fp16"), 2, "computes in int8 only"),
        (("--target", "npu", "--cores", "2"), 2, "--cores is for CPUs"),
        (("--target", "npu", "--optimise", "speed"), 2, "known: performance, size"),
        (("--target", "npu", "--mean", "sum"), 2, "known: depthwise, pool"),
        (("--target", "npu", "--memory-mode", "Flash"), 2, "known: Shared_Sram, Sram_Only"),
        (("--target", "host_cpu", "--float-io"), 2, "--float-io are for --target npu only"),
    ],
)
def test_a_wrong_request_leaves_nothing(
    arguments: tuple[str, ...], code: int, message: str, tmp_path: Path
):
    path = tmp_path / "bundle"
    done = mbv3c("compile", *QUICK, *arguments, "-o", path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_run_interprets_the_stream(bundle: Path, quantized: onnx.ModelProto, tmp_path: Path):
    x = parity_inputs((1, 3, 96, 96))[0]
    np.save(tmp_path / "x.npy", x)
    done = mbv3c("run", bundle, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert done.returncode == 0, done.stderr
    assert "interpreter of the command stream" in done.stdout
    y = np.load(tmp_path / "y.npy")
    (wanted,) = run(session(quantized), x)
    assert (y.dtype, y.shape) == (np.float32, (1, 100))
    (end,) = json.loads((bundle / "manifest.json").read_text())["npu"]["outputs"]
    # A step or a few, as in the parity report; another input is far away.
    assert np.abs(y - wanted).max() <= 12 * end["scale"]
    (other,) = run(session(quantized), -x)
    assert np.abs(y - other).max() > 24 * end["scale"]
