"""`mbv3c verify --inputs` as a user runs it: the normal verdict, on files of the user's."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from mbv3c.bundle import LIBRARY
from tests.command_line import Done, document, mbv3c
from tests.parity.small_network import small_network

TARGET = ("--target", "host_cpu")


def verify(*arguments: object) -> Done:
    return mbv3c("verify", *arguments)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two images and two inputs in an array, of 32 pixels."""
    folder, rng = tmp_path_factory.mktemp("own") / "inputs", np.random.default_rng(0)
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name)
    np.save(folder / "c.npy", rng.standard_normal((2, 3, 32, 32)).astype(np.float32))
    return folder


def test_own_inputs_take_the_place_of_the_seeded_ones(
    host_bundle: Path, inputs: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"w.{name}" for name in ("npz", "html", "json", "xml")}
    done = verify(
        *(host_bundle, "--inputs", inputs, "--bgr", "--max-of-range", 1e-4, "--json"),
        *("--save-outputs", files["npz"], "--html", files["html"], "--report", files["json"]),
        *("--junit", files["xml"]),
    )
    found = document(done)
    assert found["passed"] is True
    assert found["ran_on"] == "this machine"
    own = found["own_inputs"]
    assert own["files"] == ["a.png", "b.jpg", "c.npy", "c.npy"]
    assert own["preprocessing"]["channels"] == "BGR"
    assert len(found["inputs"]) == len(found["checks"]) == 4
    assert [row["input"] for row in found["metrics"]] == [0, 1, 2, 3]
    assert {len(block["errors"]) for block in found["blocks"]} == {4}
    assert own["source"] in files["html"].read_text()
    again = verify("--check", files["npz"])
    assert again.returncode == 0, again.stderr
    assert f"inputs: {own['source']}" in again.stdout
    # A report of other inputs is no baseline.
    report = ("--baseline", files["json"])
    assert verify(host_bundle, "--inputs", inputs, "--bgr", *report).returncode == 0
    for others in ((), ("--inputs", inputs, "--bgr", "--limit", 2), ("--inputs", inputs)):
        other = verify(host_bundle, *others, *report)
        assert other.returncode == 2
        assert "its own_inputs_sha256 is" in other.stderr


def test_the_outputs_are_those_of_the_files(
    host_bundle: Path, inputs: Path, tmp_path: Path
) -> None:
    done = verify(host_bundle, "--inputs", inputs / "c.npy", "--save-outputs", tmp_path / "o.npz")
    assert done.returncode == 0, done.stderr
    assert "over 2 inputs; " in done.stdout
    assert f"\ninputs: 2 inputs of {inputs / 'c.npy'}\n" in done.stdout
    np.save(tmp_path / "x.npy", np.load(inputs / "c.npy")[1:])
    done = mbv3c("run", host_bundle, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "o.npz") as saved:
        assert (saved["bundle.1.0"] == np.load(tmp_path / "y.npy")).all()


def test_a_wrong_library_misses(host_bundle: Path, inputs: Path, tmp_path: Path) -> None:
    other = small_network()
    weights = next(one for one in other.graph.initializer if len(one.dims) == 4)
    changed = numpy_helper.to_array(weights) * np.float32(1.05)
    weights.CopyFrom(numpy_helper.from_array(changed, weights.name))
    onnx.save(other, tmp_path / "other.onnx")
    made, forged = tmp_path / "made", tmp_path / "forged"
    done = mbv3c("compile", tmp_path / "other.onnx", *TARGET, "-o", made, "--no-verify")
    assert done.returncode == 0, done.stderr
    shutil.copytree(host_bundle, forged)
    shutil.copy(made / LIBRARY, forged / LIBRARY)
    digests = [json.loads((one / "manifest.json").read_text())["files"] for one in (made, forged)]
    manifest = json.loads((forged / "manifest.json").read_text())
    manifest["files"] = digests[1] | {LIBRARY: digests[0][LIBRARY]}
    (forged / "manifest.json").write_text(json.dumps(manifest))
    found = document(verify(forged, "--trust", "--inputs", inputs, "--json"), code=3)
    assert found["passed"] is False


def test_an_int8_bundle_is_held_to_both_models(
    blocks_file: Path, inputs: Path, tmp_path: Path
) -> None:
    calibrated = ("--precision", "int8", "--calibration", inputs, "--no-verify")
    done = mbv3c("compile", blocks_file, *TARGET, *calibrated, "-o", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    found = document(verify(tmp_path / "b", "--inputs", inputs, "--json"))
    assert found["passed"] is True
    assert len(found["inputs"]) == 4
    assert found["kernels_alone"]["passed"] is True
    assert found["against_model_as_given"]["cosine"] > 0.9
    # Inputs far from those that it was calibrated on: another network than the given one.
    np.save(tmp_path / "far.npy", 100 * np.load(inputs / "c.npy"))
    far = document(verify(tmp_path / "b", "--inputs", tmp_path / "far.npy", "--json"), code=3)
    assert far["against_model_as_given"]["too_far"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--inputs", "gone"), 2, "no such file or folder: gone"),
        (("--inputs", "empty"), 2, "empty holds none of"),
        (("--inputs", "broken"), 1, "broken/x.png is no image, or it is broken"),
        (("--inputs", "shape"), 1, "shape/x.npy has the shape (1, 3, 8, 8)"),
        (("--inputs", "shape/x.npy"), 1, "shape/x.npy has the shape (1, 3, 8, 8)"),
        (("--inputs", "type"), 1, "type/x.npy holds float64, the model takes float32"),
        (("--inputs", "nan"), 1, "nan/x.npy holds NaN or infinity, in input 0"),
        (("--inputs", "nan", "--limit", 0), 2, "--limit 0 leaves no input"),
        (("--inputs", "nan", "--images", "nan"), 2, "--images measures accuracy: leave one out"),
        (("--inputs", "nan", "--seed", 1), 2, "--seed belongs to --images FOLDER"),
        (("--inputs", "nan", "--ladder"), 2, "--inputs takes a bundle"),
        (("--limit", 1), 2, "--limit belongs to --images or --inputs FOLDER"),
        (("--mean", 1), 2, "--mean belongs to --images or --inputs FOLDER"),
    ],
)
def test_wrong_inputs_are_named(
    host_bundle: Path, tmp_path: Path, arguments: tuple[object, ...], code: int, said: str
) -> None:
    for name in ("empty", "broken", "shape", "type", "nan"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"no image")
    np.save(tmp_path / "shape" / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    np.save(tmp_path / "type" / "x.npy", np.zeros((1, 3, 32, 32)))
    np.save(tmp_path / "nan" / "x.npy", np.full((3, 32, 32), np.nan, np.float32))
    done = mbv3c("verify", host_bundle, *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
