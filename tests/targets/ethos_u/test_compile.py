import ctypes
import hashlib
import json
import platform
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from mbv3c.bundle import NPU_STREAM
from mbv3c.errors import ModelError, UsageError
from mbv3c.job import Job
from mbv3c.parity.inputs import inputs_of, parity_inputs
from mbv3c.parity.reference import run, session
from mbv3c.parity.tolerance import LSB
from mbv3c.pipeline import compile_model
from mbv3c.precision import INT8
from mbv3c.provenance import PROVENANCE, SBOM
from mbv3c.quantization.calibration import Calibration, random_inputs
from mbv3c.targets import find_target, open_bundle
from mbv3c.targets.ethos_u.backend import BACKEND
from mbv3c.targets.ethos_u.c_source import read_layout
from mbv3c.targets.ethos_u.compiling import TOSA
from mbv3c.targets.ethos_u.interpreter.interpreter import interpret
from mbv3c.targets.ethos_u.interpreter.program import Registers, StreamError, decode, read_program
from mbv3c.targets.ethos_u.lowering.convert import LoweringOptions
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.lowering.region import Region
from mbv3c.targets.ethos_u.made_again import MadeAgain, made_again
from mbv3c.targets.ethos_u.verdict import NpuParity
from mbv3c.targets.ethos_u.verify import other_constants
from mbv3c.trust import MADE_HERE
from mbv3c.version import __version__
from tests.command_line import mbv3c
from tests.targets.ethos_u.verifying import inspect, verify


def npu_job(calibration: Calibration | None = None) -> Job:
    return Job(find_target("npu"), INT8, calibration=calibration)


def test_the_manifest_says_what_was_made(bundle: Path):
    manifest = inspect(bundle)
    assert manifest["precision"] == "int8"
    assert manifest["input"]["dtype"] == "int8"
    placement = manifest["npu"]["placement"]
    assert {one["on"] for one in placement} == {"npu"}
    cost = manifest["npu"]["cost"]
    assert cost["figures"] == "estimated by vela"
    assert cost["cpu_operators"] == 0
    (given,) = manifest["npu"]["inputs"]
    assert tuple(given["shape"]) == (1, 96, 96, 3)
    assert (given["layout"], given["dtype"]) == ("NHWC", "int8")


def test_a_bundle_from_elsewhere_needs_no_trust(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its stream is interpreted: nothing in it is native code."""
    monkeypatch.setenv("MBV3C_STATE", str(tmp_path))
    assert open_bundle(bundle, MADE_HERE).path == bundle
    statement = json.loads((bundle / PROVENANCE).read_text())
    asked = statement["predicate"]["buildDefinition"]["externalParameters"]
    assert asked["knobs"] == json.loads((bundle / "manifest.json").read_text())["npu"]["knobs"]
    assert any("ethos-u-vela" in one["name"] for one in _components(bundle))
    assert not any(one.get("scope") == "required" for one in _components(bundle))


def _components(bundle: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((bundle / SBOM).read_text())["components"]
    return listed


@pytest.fixture(scope="module")
def parity(bundle: Path) -> NpuParity:
    return verify(bundle)


def test_every_step_is_the_one_before_it(bundle: Path, parity: NpuParity):
    assert parity.passed
    assert parity.stream_equal is True
    assert parity.stream_inputs == 2
    assert parity.again == MadeAgain(())
    spread = max(one.spread_lsb for one in parity.inputs)
    for one in parity.inputs:
        assert one.lsb <= one.allowed_lsb == max(LSB, 2 * spread)
    # The outputs that are kept are those that these integers stand for.
    step = json.loads((bundle / "manifest.json").read_text())["npu"]["outputs"][0]["scale"]
    for one, (pair,) in zip(parity.inputs, parity.pairs, strict=True):
        apart = np.abs(pair.ours.astype(float) - pair.reference.output).max() / step
        assert apart == pytest.approx(one.lsb, abs=1e-4)
        assert pair.ours.shape == pair.reference.output.shape == (1, 100)


def test_verify_is_a_gate(bundle: Path, tmp_path: Path):
    report, outputs = tmp_path / "r.json", tmp_path / "o.npz"
    written = ("--save-outputs", outputs, "--report", report, "--html", tmp_path / "p.html")
    done = mbv3c("verify", bundle, "--json", "--latency", "--junit", tmp_path / "j.xml", *written)
    assert done.returncode == 0, done.stderr
    assert [row["output"] for row in json.loads(done.stdout)["metrics"]] == ["logits"] * 3
    found = json.loads(report.read_text())
    assert found["speed"]["kind"] == "cycles, estimated by vela"
    assert found["sizes"]["sram_bytes"] > 0
    assert 'name="command stream"' in (tmp_path / "j.xml").read_text()
    assert "checked one by one" in (tmp_path / "p.html").read_text()
    assert mbv3c("verify", "--check", outputs, "--min-cosine", 0.9).returncode == 0
    assert "judges by more than its outputs" in mbv3c("verify", "--check", outputs).stderr
    found["speed"]["value"] *= 0.9
    report.write_text(json.dumps(found))
    assert mbv3c("verify", bundle, "--baseline", report).returncode == 4


def test_golden_files_are_what_the_device_computes(bundle: Path):
    x, y = (np.load(bundle / "golden" / f"{name}.npy") for name in ("input", "output"))
    assert (x.dtype, x.shape) == (np.int8, (1, 96, 96, 3))
    assert (y.dtype, y.shape) == (np.int8, (1, 1, 1, 100))
    assert (bundle / "golden" / "tolerance.txt").read_text() == "0\n"


def test_the_same_model_gives_the_same_bytes(
    bundle: Path, network: onnx.ModelProto, tmp_path: Path
):
    again = tmp_path / "again"
    compile_model(network, npu_job(random_inputs(network, 4)), again)
    for path in sorted(bundle.rglob("*")):
        if path.is_file():
            assert (again / path.relative_to(bundle)).read_bytes() == path.read_bytes()


def test_a_quantized_model_is_taken_as_it_is(
    bundle: Path, quantized: onnx.ModelProto, tmp_path: Path
):
    path = tmp_path / "bundle"
    compile_model(quantized, npu_job(), path, verify=False)
    assert (path / NPU_STREAM).read_bytes() == (bundle / NPU_STREAM).read_bytes()
    with pytest.raises(UsageError, match="QDQ pairs already"):
        compile_model(quantized, npu_job(random_inputs(quantized, 4)), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_integers_of_16_bits_are_refused(quantized: onnx.ModelProto, tmp_path: Path):
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    node = next(one for one in model.graph.node if one.op_type == "QuantizeLinear")
    zero = next(one for one in model.graph.initializer if one.name == node.input[2])
    zero.CopyFrom(onnx.helper.make_tensor(zero.name, TensorProto.INT16, [], [3]))
    with pytest.raises(ModelError, match=r"int8 here, and input is of int16 \(node input_Q"):
        compile_model(model, npu_job(), tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_the_c_source_builds_for_a_cortex_m(bundle: Path, tmp_path: Path):
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi"]
    flags = ["-mcpu=cortex_m55", "-c", "-Wall", "-Wextra", "-Werror", "-std=c99"]
    built = tmp_path / "model.o"
    subprocess.run([*compiler, *flags, str(bundle / "model.c"), "-o", str(built)], check=True)
    # What the header describes is in the object, where and as it says.
    with np.load(bundle / NPU_STREAM) as raw:
        assert raw["cmd_data"].tobytes() in built.read_bytes()
        assert raw["weight_data"].tobytes() in built.read_bytes()


@pytest.mark.parametrize("share", [0.6, 0.1, 0.85])
def test_one_flipped_bit_of_the_constants_misses_parity(
    bundle: Path, tmp_path: Path, share: float
):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    size = len(read_layout((broken / NPU_STREAM).read_bytes()).constants)
    flip(broken / NPU_STREAM, int(share * size), 4)
    assert mbv3c("verify", broken).returncode == 1
    rehash(broken, NPU_STREAM)
    done = mbv3c("verify", broken, "--json")
    assert done.returncode == 3, done.stderr
    parity = json.loads(done.stdout)
    assert parity["passed"] is False
    assert parity["stream_bit_equal"] is False
    assert parity["stream_error"]


@pytest.fixture(scope="module")
def region(quantized: onnx.ModelProto) -> Region:
    return partition(quantized).regions[0]


@pytest.fixture(scope="module")
def constants(bundle: Path, region: Region) -> dict[str, list[int]]:
    """Return where weights, biases, scales and tables of layers lie in the constants' region."""
    raw = bundle / NPU_STREAM
    layout, registers = read_layout(raw.read_bytes()), Registers()
    places: dict[str, list[int]] = {"bias": [], "scale": [], "weight": []}
    for command in decode(read_program(raw).words):
        if command.name.startswith("SET_"):
            registers.set(command)
        elif command.name in ("OP_CONV", "OP_DEPTHWISE"):
            if registers["WEIGHT_REGION"] != layout.constants_region:
                continue  # copied from there before
            assert registers["SCALE_REGION"] == layout.constants_region
            scales = registers.address("SCALE_BASE")
            places["bias"].append(scales)
            places["scale"].append(scales + 5)
            middle = registers.address("WEIGHT_LENGTH") // 2
            places["weight"].append(registers.address("WEIGHT_BASE") + middle)
    return {**places, "table": [layout.constants.find(one) for one in region.tables]}


@pytest.mark.parametrize("kind", ["bias", "scale", "weight", "table"])
@pytest.mark.parametrize("layer", [0.3, 1.0])
def test_the_lowest_bit_of_any_constant_is_found(
    bundle: Path,
    constants: dict[str, list[int]],
    region: Region,
    tmp_path: Path,
    kind: str,
    layer: float,
):
    # Many of these change no output of any input that is run; then comparing constants finds them.
    broken = tmp_path / "model.npz"
    shutil.copy(bundle / NPU_STREAM, broken)
    found = constants[kind]
    flip(broken, found[int(layer * (len(found) - 1))], 1)
    program = read_program(broken)
    try:
        interpret(program, [np.load(bundle / "golden" / "input.npy")])
    except StreamError:
        assert kind == "weight"  # a compressed stream can become one of another length
    else:
        assert other_constants(program, region)


def test_one_flipped_bit_of_a_bias_misses_parity(
    bundle: Path, constants: dict[str, list[int]], tmp_path: Path
):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    biases = constants["bias"]
    flip(broken / NPU_STREAM, biases[len(biases) // 2], 1)
    assert mbv3c("verify", broken).returncode == 1  # by its hash
    rehash(broken, NPU_STREAM)
    done = mbv3c("verify", broken, "--json")
    assert done.returncode == 3, done.stderr
    parity = json.loads(done.stdout)
    assert parity["stream_bit_equal"] is False
    assert parity["stream_error"]


def test_what_no_input_shows_is_found_by_making_the_files_again(
    bundle: Path, parity: NpuParity, region: Region, tmp_path: Path
):
    broken, raw = tmp_path / "broken", tmp_path / "broken" / NPU_STREAM
    shutil.copytree(bundle, broken)
    words = read_program(raw).words
    (first, *_) = (one.word for one in decode(words) if one.name == "SET_BLOCKDEP")
    flip(raw, len(words.tobytes()[: 4 * first]) - words.nbytes + 2, 1, "cmd_data.npy")
    c_source = (broken / "model.c").read_text()
    (broken / "model.c").write_text(c_source.replace("0x", "0X", 1))
    document = json.loads((broken / "manifest.json").read_text())
    document["npu"]["outputs"][0]["scale"] *= 2
    document["mbv3c"] = "0.0"  # which is no reason to let it pass
    (broken / "manifest.json").write_text(json.dumps(document))
    golden = np.load(broken / "golden" / "output.npy")
    np.save(broken / "golden" / "output.npy", golden ^ 1)
    np.save(broken / "golden" / "output.1.npy", golden)
    (broken / "string.h").write_text("#error\n")
    for name in (NPU_STREAM, "model.c", "golden/output.npy", "golden/output.1.npy", "string.h"):
        rehash(broken, name)
    (y,) = interpret(read_program(raw), [np.load(bundle / "golden" / "input.npy")])
    assert (y.ravel() == golden.ravel()).all()
    changed, x = open_bundle(broken), inputs_of(onnx.load(broken / "model.onnx"))[0]
    again = made_again(changed, BACKEND.device_of(changed), region, x)
    stream, *files = again.differing
    assert "1 bytes differ" in stream
    assert f"(SET_BLOCKDEP at word {first})" in stream
    # The C files are those of the changed stream, but for this letter.
    assert [text.split(":")[0] for text in files] == [
        *("model.c", "golden/output.npy", "golden/output.1.npy", "string.h", "manifest.json")
    ]
    found = replace(parity, again=again)
    assert not found.passed
    assert found.unproven
    assert "NOT PROVEN on" in found.lines()[0]
    (missed,) = found.missed
    assert missed.startswith(
        f"stream and C files are made by mbv3c 0.0, and {__version__} is here"
    )
    assert "compile the model again with the versions that are here" in missed
    assert replace(found, same_tosa=False).unproven is False


def test_a_tosa_file_that_is_not_of_the_model_misses_parity(
    bundle: Path, quantized: onnx.ModelProto, tmp_path: Path
):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / TOSA).write_bytes(partition(quantized, LoweringOptions("pool")).regions[0].tosa)
    rehash(broken, TOSA)
    parity = verify(broken)
    assert not parity.same_tosa
    assert not parity.passed


def test_every_operator_by_itself_is_that_of_onnxruntime(parity: NpuParity):
    alone = parity.alone
    assert alone.count == 100
    assert alone.lsb <= alone.allowed_lsb == 1


def flip(raw: Path, place: int, bit: int, name: str = "weight_data.npy") -> None:
    """Flip a bit of a byte of an array, of the constants' region; from the end if negative."""
    with zipfile.ZipFile(raw) as archive:
        files = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    data = files[name]
    (length,) = struct.unpack_from("<H", data, 8)  # of the header, as npy 1.0 has it
    assert data[6] == 1
    data[place if place < 0 else 10 + length + place] ^= bit
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, bytes(content))


def rehash(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_device_that_is_not_interpreted_says_so(blocks_file: Path, tmp_path: Path):
    path = tmp_path / "bundle"
    done = mbv3c(
        "compile", blocks_file, "--target", "npu:ethos-u85-256", "-o", path, "--json", "--explain"
    )
    assert done.returncode == 0, done.stderr
    assert "RANDOM inputs" in done.stderr
    printed = json.loads(done.stdout)
    assert printed["parity"]["stream_bit_equal"] is None
    assert "Ethos-U55 and Ethos-U65-256 only" in printed["parity"]["stream_not_checked"]
    assert printed["alternatives"]["optimise size"]["cycles"] > 0
    assert printed["random_inputs"] is True


def test_calibration_and_float_ends(blocks_file: Path, tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.standard_normal((8, 3, 32, 32), dtype=np.float32))
    path = tmp_path / "bundle"
    arguments = ("--target", "npu:ethos-u65-256", "-o", path, "--calibration", folder)
    done = mbv3c("compile", blocks_file, *arguments, "--float-io", "--optimise", "size")
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


def test_mean_is_of_the_pixels_in_numbers_and_of_the_npu_in_words(
    blocks_file: Path, tmp_path: Path
):
    folder, path = tmp_path / "images", tmp_path / "bundle"
    folder.mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    prepared = ("--scale", 1, "--mean", 127.5, "--std", 127.5)
    given = ("--target", "npu", "--calibration", folder, *prepared, "--mean", "pool")
    done = mbv3c("compile", blocks_file, *given, "-o", path, "--no-verify")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["npu"]["knobs"]["mean"] == "pool"
    assert "pixels times 1, mean 127.5" in manifest["quantization"]["calibration"]


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
    assert (x.dtype, x.shape) == (np.float32, (1, 3, 32, 32))
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
        (("--target", "npu", "--sram", "1"), 1, "of SRAM on npu:ethos-u55-128 and --sram allows"),
        (("--target", "npu", "--calibration", "none"), 2, "no such folder: none"),
        (
            ("--target", "npu", "--batch", "2"),
            2,
            "one image, 1x3xHxW, or one row, 1xCxL, at a time",
        ),
        (("--target", "npu", "--precision", "fp16"), 2, "computes in int8 only"),
        (("--target", "npu", "--cores", "2"), 2, "--cores is for CPUs"),
        (("--target", "npu", "--optimise", "speed"), 2, "known: performance, size"),
        (("--target", "npu", "--mean", "sum"), 2, "known: depthwise, pool"),
        (("--target", "npu", "--memory-mode", "Flash"), 2, "known: Shared_Sram, Sram_Only"),
        (("--target", "host_cpu", "--float-io"), 2, "--float-io is for --target npu only"),
    ],
)
def test_a_wrong_request_leaves_nothing(
    arguments: tuple[str, ...], code: int, message: str, blocks_file: Path, tmp_path: Path
):
    path = tmp_path / "bundle"
    done = mbv3c("compile", blocks_file, *arguments, "-o", path)
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
