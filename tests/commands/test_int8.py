"""`mbv3c compile --precision int8` as a user runs it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.command_line import document, mbv3c
from tests.commands.conftest import SMALL
from tests.onnx_text import graph


def test_integers_take_fewer_instructions(
    emulator_kit: object, arm_small: Path, tmp_path: Path
) -> None:
    integers = tmp_path / "int8"
    options = ("--target", "arm_cpu", "--cores", 2, "--precision", "int8", "--json")
    done = mbv3c("compile", *SMALL, *options, "-o", integers)
    parity = document(done)["parity"]
    assert "RANDOM" in done.stderr
    assert parity["passed"]
    assert parity["ran_on"] == "emulated cortex-a76"
    alone = parity["kernels_alone"]
    assert alone["passed"]
    assert alone["missed"] == []
    assert alone["count"] == len(alone["kernels"]) > 70
    assert alone["differing"] < 1e-4 * alone["values"]
    # Seeded weights let noise through to the logits, so this is no figure of merit.
    assert parity["against_model_as_given"].keys() == {"cosine", "top1", "top5", "too_far"}
    assert parity["against_model_as_given"]["cosine"] > 0.5
    slow, fast = (document(mbv3c("bench", one, "--json")) for one in (arm_small, integers))
    assert fast["instructions"] < 0.6 * slow["instructions"]
    manifest = json.loads((integers / "manifest.json").read_text())
    assert manifest["quantization"]["random_inputs"] is True
    assert "quantized.onnx" in manifest["files"]


def test_a_bundle_calibrated_on_a_folder(blocks_file: Path, tmp_path: Path) -> None:
    folder, bundle = tmp_path / "inputs", tmp_path / "bundle"
    folder.mkdir()
    inputs = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    np.save(folder / "inputs.npy", inputs)
    options = ("--precision", "int8", "--calibration", folder, "--keep-float", 1)
    given = (blocks_file, "--target", "host_cpu", *options, "-o", bundle)
    done = mbv3c("compile", *given, "--explain", "--no-verify")
    assert done.returncode == 0, done.stderr
    assert "RANDOM" not in done.stderr
    assert "depthwise" in done.stdout
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["quantization"]["random_inputs"] is False
    assert len(manifest["quantization"]["layers_in_fp32"]) == 1
    done = mbv3c("verify", bundle)
    assert done.returncode == 0, done.stderr
    assert "kernels by itself: " in done.stdout
    np.save(tmp_path / "x.npy", inputs[:1])
    done = mbv3c("run", bundle, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "y.npy").dtype == np.float32
    assert document(mbv3c("inspect", bundle, "--json"))["precision"] == "int8"
    found = document(mbv3c("bench", bundle, "--runs", 5, "--profile", "--json"))
    assert found["against"] == "onnxruntime"

    again = mbv3c(
        *("compile", bundle / "quantized.onnx", "--target", "host_cpu", "--precision", "int8"),
        *("-o", tmp_path / "again"),
    )
    assert again.returncode == 0, again.stderr
    manifest = json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert manifest["quantization"] is None
    assert "quantized.onnx" not in manifest["files"]


def test_images_are_calibrated_on_as_the_options_say(blocks_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    calibrated = ("--precision", "int8", "--calibration", folder, "--no-verify")
    given = ("compile", blocks_file, "--target", "host_cpu", *calibrated)
    options = ("--scale", 1, "--mean", 127.5, "--std", 127.5, "--bgr")
    recorded = []
    for name, more in (("plain", ()), ("prepared", options)):
        done = mbv3c(*given, *more, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        recorded.append(manifest["quantization"]["calibration"])
    assert recorded[0] == f"4 inputs in 4 files of {folder}"
    assert "pixels times 1, mean 127.5 127.5 127.5, std 127.5 127.5 127.5, BGR" in recorded[1]
    plain, prepared = (
        (tmp_path / name / "quantized.onnx").read_bytes() for name in ("plain", "prepared")
    )
    assert plain != prepared  # other ranges


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--calibration", "/"), "--calibration is for --precision int8"),
        (("--precision", "int8", "--calibration", "nowhere"), "no such folder"),
        (("--precision", "int8", "--keep-float", "some"), "keep-float"),
        (("--mean", "pool"), "--mean is for --target npu only"),
    ],
)
def test_wrong_usage(
    options: tuple[str, ...], message: str, blocks_file: Path, tmp_path: Path
) -> None:
    done = mbv3c("compile", blocks_file, "--target", "host_cpu", *options, "-o", tmp_path / "b")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "b").exists()


def test_activations_of_16_bits_compute_in_fp32_and_that_is_said(tmp_path: Path) -> None:
    model = graph(
        "g (float[1, 3, 6, 6] x) => (float[1, 8, 6, 6] y) {"
        "q = QuantizeLinear (x, steps, zero) d = DequantizeLinear (q, steps, zero)"
        "v = DequantizeLinear (w, scale, none) [one] c = Conv <pads = [1, 1, 1, 1]> (d, v)"
        "p = QuantizeLinear (c, steps, zero) y = DequantizeLinear (p, steps, zero) }",
        21,
        steps=np.float32(2e-4),
        zero=np.array(30000, np.uint16),
        scale=np.float32(0.01),
        none=np.array(0, np.int8),
        w=np.random.default_rng(0).integers(-60, 60, (8, 3, 3, 3)).astype(np.int8),
    )
    onnx.save(model, tmp_path / "model.onnx")
    options = ("--target", "host_cpu", "--precision", "int8", "-o", tmp_path / "bundle")
    done = mbv3c("compile", tmp_path / "model.onnx", *options)
    assert done.returncode == 0, done.stderr
    assert (
        "WARNING: 1 kernel with 100.0% of the multiply-adds computes in fp32: one" in done.stdout
    )
