"""`mbv3c run` as a user runs it."""

import hashlib
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import document, mbv3c, mbv3c_process


def test_run_writes_what_the_golden_output_says(host_bundle: Path, tmp_path: Path) -> None:
    golden = host_bundle / "golden"
    out = tmp_path / "y.npy"
    done = mbv3c("run", host_bundle, "--input", golden / "input.npy", "-o", out, "--json")
    assert done.returncode == 0
    wanted = np.load(golden / "output.npy")
    tolerance = float((golden / "tolerance.txt").read_text())
    assert np.abs(np.load(out) - wanted).max() <= tolerance * np.ptp(wanted)


def test_without_a_file_figures_are_printed(host_bundle: Path) -> None:
    golden = host_bundle / "golden"
    y = np.load(golden / "output.npy")
    done = mbv3c("run", host_bundle, "--input", golden / "input.npy")
    assert done.returncode == 0, done.stderr
    best = ", ".join(map(str, np.unravel_index(y.argmax(), y.shape)))
    assert f"(at {best})" in done.stdout
    told = document(mbv3c("run", host_bundle, "--input", golden / "input.npy", "--json"))
    (row,) = told["arrays"]
    assert (told["output"], row["dtype"]) == (None, "float32")
    figures = [row["least"], row["largest"], row["mean"]]
    np.testing.assert_allclose(figures, [y.min(), y.max(), y.mean()], rtol=1e-4)
    refused = mbv3c("run", host_bundle, "--input", golden / "input.npy", "--force")
    assert refused.returncode == 2
    assert "name it with --output" in refused.stderr


def test_run_refuses_another_shape(host_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 16, 16), np.float32))
    done = mbv3c("run", host_bundle, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert done.returncode == 2
    assert "the bundle wants float32 (1, 3, 32, 32)" in done.stderr
    assert not (tmp_path / "y.npy").exists()


def test_numbers_that_are_not_finite_are_refused(host_bundle: Path, tmp_path: Path) -> None:
    x = np.load(host_bundle / "golden" / "input.npy")
    for number in (np.nan, np.inf):
        x.flat[3] = number
        np.save(tmp_path / "x.npy", x)
        done = mbv3c("run", host_bundle, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
        assert done.returncode == 2
        assert "x.npy holds NaN or infinity" in done.stderr
        assert not (tmp_path / "y.npy").exists()


def test_an_image_is_prepared_as_the_options_say(host_bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).resize((32, 32)).save(tmp_path / "x.png")
    options = ("--scale", 1, "--mean", 127.5, "--std", 127.5, "--bgr", "--resize", "stretch")
    arguments = ("run", host_bundle, "--input", tmp_path / "x.png", *options)
    done = mbv3c(*arguments, "-o", tmp_path / "image.npy")
    assert done.returncode == 0, done.stderr
    rgb = np.asarray(Image.open(tmp_path / "x.png"), np.float32)
    x = ((rgb[:, :, ::-1] - np.float32(127.5)) / np.float32(127.5)).transpose(2, 0, 1)[None]
    np.save(tmp_path / "x.npy", np.ascontiguousarray(x))
    done = mbv3c("run", host_bundle, "--input", tmp_path / "x.npy", "-o", tmp_path / "array.npy")
    assert done.returncode == 0, done.stderr
    assert (np.load(tmp_path / "image.npy") == np.load(tmp_path / "array.npy")).all()


def test_an_image_that_cannot_be_read_is_named(host_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    arguments = ("-o", tmp_path / "y.npy", "--input")
    done = mbv3c("run", host_bundle, *arguments, tmp_path / "x.png")
    assert done.returncode == 1
    assert "x.png is no image, or it is broken" in done.stderr
    done = mbv3c("run", host_bundle, *arguments, tmp_path / "gone.png")
    assert done.returncode == 2
    assert "no such file" in done.stderr
    source = host_bundle / "golden" / "input.npy"
    done = mbv3c("run", host_bundle, *arguments, source, "--bgr")
    assert done.returncode == 2
    assert "--bgr belongs to an image as --input" in done.stderr
    assert not (tmp_path / "y.npy").exists()


def test_an_npz_takes_a_single_output_by_its_name(host_bundle: Path, tmp_path: Path) -> None:
    source = host_bundle / "golden" / "input.npy"
    done = mbv3c("run", host_bundle, "--input", source, "-o", tmp_path / "y.npz")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "y.npz")["logits"].shape == (1, 10)


# Minimalistic: half as many kernels to compile, and the same head and decoding of boxes.
DETECTOR = (
    *("--head", "ssdlite", "--variant", "small", "--width", "0.35", "--classes", "3"),
    "--minimalistic",
)


@pytest.fixture(scope="module")
def detector_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "host"
    done = mbv3c("compile", *DETECTOR, "--target", "host_cpu", "-o", path, "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["parity"]["passed"] is True
    return path


def test_a_detector_compiles_for_arm_and_verifies_emulated(
    emulator_kit: object, tmp_path: Path
) -> None:
    options = (*DETECTOR, "--target", "arm_cpu", "-o", tmp_path / "b")
    done = mbv3c("compile", *options, "--json")
    assert done.returncode == 0, done.stderr
    parity = document(done)["parity"]
    assert parity["passed"] is True
    assert parity["ran_on"] == "emulated cortex-a76"
    assert parity["top1_agreement"] == 1.0


def test_a_detector_runs_to_detections(detector_bundle: Path, tmp_path: Path) -> None:
    arguments = ("run", detector_bundle, "--input", detector_bundle / "golden" / "input.npy")
    limits = ("--score-threshold", "0.5", "--nms-threshold", "0.3", "--detections", "7")
    done = mbv3c(*arguments, "-o", tmp_path / "y.npz", *limits, "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["arrays"] == [
        {"name": "boxes", "shape": [7, 4]},
        {"name": "scores", "shape": [7]},
        {"name": "labels", "shape": [7]},
        {"name": "images", "shape": [7]},
    ]
    found = np.load(tmp_path / "y.npz")
    assert found["scores"].min() > 0.5
    assert (np.diff(found["scores"]) <= 0).all()
    assert set(found["labels"]) <= {1, 2}
    assert found["boxes"].min() >= 0
    assert found["boxes"].max() <= 320


def test_a_detector_runs_to_its_raw_outputs(detector_bundle: Path, tmp_path: Path) -> None:
    golden = detector_bundle / "golden"
    arguments = ("run", detector_bundle, "--input", golden / "input.npy", "--raw", "-o")
    done = mbv3c(*arguments, tmp_path / "y.npz")
    assert done.returncode == 0, done.stderr
    assert "boxes 1x3234x4, scores 1x3234x3" in done.stdout
    raw = np.load(tmp_path / "y.npz")
    for name, file in (("boxes", "output.npy"), ("scores", "output.1.npy")):
        wanted = np.load(golden / file)
        assert np.abs(raw[name] - wanted).max() <= 2e-5 * np.ptp(wanted)


def test_a_device_takes_several_outputs(detector_bundle: Path) -> None:
    source = detector_bundle / "golden" / "input.npy"
    done = mbv3c("run", detector_bundle, "--input", source, "--raw", "-o", "/dev/null", "--json")
    assert done.returncode == 0, done.stderr
    assert [array["name"] for array in document(done)["arrays"]] == ["boxes", "scores"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "y.npy"), "several arrays (boxes, scores, labels, images) and y.npy is no .npz"),
        (("-o", "y.npz", "--raw", "--detections", "3"), "--raw asks for its outputs as they are"),
        (("-o", "y.npz", "--nms-threshold", "2"), "nms-threshold must be from 0 to 1, got 2"),
    ],
)
def test_wrong_usage_of_a_detector(
    detector_bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    source = detector_bundle / "golden" / "input.npy"
    done = mbv3c("run", detector_bundle, "--input", source, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_thresholds_are_for_detectors(host_bundle: Path, tmp_path: Path) -> None:
    arguments = ("run", host_bundle, "--input", host_bundle / "golden" / "input.npy")
    done = mbv3c(*arguments, "-o", tmp_path / "y.npy", "--score-threshold", "0.5")
    assert done.returncode == 2
    assert "this bundle's model is no detector" in done.stderr


def test_a_library_that_is_cut_short_is_named(host_bundle: Path, tmp_path: Path) -> None:
    """Its pages lie beyond the end of the file: SIGBUS, where the loader does not see it."""
    bundle = tmp_path / "bundle"
    shutil.copytree(host_bundle, bundle)
    library, manifest = bundle / "model.so", bundle / "manifest.json"
    before = hashlib.sha256(library.read_bytes()).hexdigest()
    with library.open("r+b") as file:
        file.truncate(library.stat().st_size // 3)
    after = hashlib.sha256(library.read_bytes()).hexdigest()
    manifest.write_text(manifest.read_text().replace(before, after))
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 32, 32), np.float32))
    command = ("run", bundle, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    done = mbv3c_process(*command, "--trust", env={**os.environ, "TMPDIR": str(tmp_path)})
    last = done.stderr.splitlines()[-1]
    assert re.match(f"error: (the bundle's library crashed while running )?{library}", last), last
    assert done.returncode == (70 if "crashed" in last else 1)
    assert not (tmp_path / "y.npy").exists()
