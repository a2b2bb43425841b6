"""`mbv3c quantize` as a user runs it: real files."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from mbv3c.graphs.outputs import class_names, metadata_of
from tests.command_line import Done, mbv3c

NAMES = [f"kind {number}" for number in range(9)] + ["kind 0"]
BUILT = ("--variant", "small", "--width", "0.35", "--resolution", "96", "--classes", "10")


def quantize(*arguments: object) -> Done:
    return mbv3c("quantize", *arguments)


@pytest.fixture
def model(blocks_file: Path) -> Path:
    return blocks_file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (12, 9, 3), np.uint8)
        Image.fromarray(pixels).resize((130, 110)).save(folder / f"{index}.jpg")
    return folder


def test_images_to_a_model_that_onnxruntime_runs(
    model: Path, images: Path, tmp_path: Path
) -> None:
    output, labels = tmp_path / "int8.onnx", tmp_path / "labels.txt"
    for number in (1, 2):
        (images / f"class{number}").mkdir()
        (images / f"{number}.jpg").rename(images / f"class{number}" / "x.jpg")
    labels.write_text("\n".join(NAMES) + "\n")
    said = ("--mean", "0.5", "--labels", labels)
    done = quantize(
        *(model, "-o", output, "--calibration", images, "--keep-float", 2, *said, "--json")
    )
    assert done.returncode == 0, done.stderr
    assert "RANDOM" not in done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == str(output)
    assert (report["calibrated_on"], report["measured_on"]) == (6, 2)
    assert report["random_inputs"] is False
    assert sum(layer["kept_float"] is not None for layer in report["layers"]) == 2
    assert report["outputs"][0]["name"] == "logits"
    assert report["calibration"].startswith(f"8 inputs in 8 files of {images}, evenly from its 2")
    assert report["preprocessing"]["from"]["mean"] == "the model's metadata mbv3c.mean"
    assert report["class_names"] == NAMES
    assert report["int8_against_fp32"]["inputs"] == 2
    assert class_names(metadata_of(onnx.load(output)), 10) == tuple(NAMES)
    onnx.checker.check_model(onnx.load(output), full_check=True)
    opened = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    (logits,) = opened.run(None, {"x": np.zeros((1, 3, 32, 32), np.float32)})
    assert np.isfinite(logits).all()


def test_a_built_model_on_random_inputs_is_said_to_be_random(tmp_path: Path) -> None:
    output = tmp_path / "int8.onnx"
    done = quantize(*BUILT, "-o", output, "--random-inputs", 8, "--no-layers")
    assert done.returncode == 0, done.stderr
    assert "WARNING: calibrating on RANDOM inputs" in done.stderr
    assert "RANDOM inputs: nothing here speaks of real images" in done.stdout
    assert "8 random inputs (seed 0)" in done.stdout
    assert output.is_file()


def test_the_same_inputs_give_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        done = quantize(model, "-o", tmp_path / name, "--random-inputs", 4, "--no-layers")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "say what to calibrate on"),
        (("--random-inputs", 4, "--calibration", "."), 2, "say what to calibrate on"),
        (("--calibration", "nowhere"), 2, "no such folder: nowhere"),
        (("--random-inputs", 4, "--keep-float", "most"), 2, "neither a number of layers"),
        (("--random-inputs", 4, "--activations", "int4"), 2, "unknown activations 'int4'"),
        (("--random-inputs", 4, "--percentile", 99), 2, "belongs to --method percentile"),
        (("--random-inputs", 4, "--width", 0.5), 2, "cannot be combined with a MODEL"),
        (("--random-inputs", 4, "--keep-float", "auto:500"), 1, "cannot be kept at 500 dB"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    model: Path, tmp_path: Path, arguments: tuple[object, ...], code: int, message: str
) -> None:
    done = quantize(model, "-o", tmp_path / "int8.onnx", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 3, 64, 64), np.float32), "(1, 3, 64, 64), the model takes (1, 3, 32, 32)"),
        (np.full((3, 32, 32), np.nan, np.float32), "NaN or infinity"),
        (np.zeros((3, 32, 32), np.int32), "holds int32"),
        (b"cut short", "is no .npy file, or it is broken"),
    ],
    ids=["shape", "nan", "integers", "broken"],
)
def test_a_file_that_does_not_fit_is_named(
    model: Path, tmp_path: Path, array: np.ndarray | bytes, message: str
) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    if isinstance(array, bytes):
        (folder / "bad.npy").write_bytes(array)
    else:
        np.save(folder / "bad.npy", array)
    done = quantize(model, "-o", tmp_path / "int8.onnx", "--calibration", folder, "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "calibration"
    assert "bad.npy" in error["message"]
    assert message in error["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["arrays"]


def test_an_existing_file_is_kept_without_force(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "int8.onnx"
    output.write_text("precious")
    done = quantize(model, "-o", output, "--random-inputs", 4)
    assert done.returncode == 2
    assert output.read_text() == "precious"
