"""Models whose inputs and outputs are not one fp32 image and fp32 scores.

    pytest -m long tests/commands/test_typed_models.py --update-docs

writes the table of docs/networks.md anew, and takes a few minutes.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import networks_page
from tests.command_line import document, mbv3c
from tests.typed_models import INPUTS, OUTPUTS, recurrent_state

CASES = {**INPUTS, **OUTPUTS}
COLUMNS = (
    ("host_cpu", "fp32"),
    ("host_cpu", "int8"),
    ("arm_cpu", "fp32"),
    ("mobile_gpu", "fp32"),
)
ELSEWHERE = (
    "frames of uint8, NHWC",
    "a frame and a state that comes back",
    "a map of labels (int32)",
    "four images at a time",
)


@pytest.mark.parametrize("name", CASES)
def test_here(name: str, tmp_path: Path) -> None:
    """In fp32; the table says what comes of it."""
    result = networks_page.tried(CASES[name](), tmp_path, "host_cpu", "fp32")
    assert networks_page.row(name, result, "")[:-2] in networks_page.PAGE.read_text()


@pytest.mark.parametrize(("target", "precision"), COLUMNS[1:])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_some_elsewhere(name: str, target: str, precision: str, tmp_path: Path) -> None:
    assert networks_page.tried(CASES[name](), tmp_path, target, precision) == networks_page.RIGHT


def test_all_targets(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rows = []
    for number, (name, build) in enumerate(CASES.items()):
        folders = (tmp_path / f"{number}.{column}" for column in range(len(COLUMNS)))
        results = [
            networks_page.tried(build(), folder, *column)
            for folder, column in zip(folders, COLUMNS, strict=True)
        ]
        rows.append((name, *results))
    heads = [f"`{target}`, {precision}" for target, precision in COLUMNS]
    tables = {"Inputs and outputs of other types": rows}
    networks_page.check("types", tables, request, heads)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with a frame and a state as inputs, and scores and a state as outputs."""
    folder = tmp_path_factory.mktemp("several")
    onnx.save(recurrent_state(), folder / "model.onnx")
    compiled = mbv3c(
        "compile", folder / "model.onnx", "-o", folder / "bundle", "--target", "host_cpu"
    )
    assert compiled.returncode == 0, compiled.stderr
    return folder / "bundle"


FRAME = np.linspace(-1, 1, 3 * 32 * 32, dtype=np.float32).reshape(1, 3, 32, 32)
STATE = np.zeros((1, 32, 8, 8), np.float32)


def test_the_manifest_names_all_inputs(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["input"]["name"] == "frame"
    assert manifest["further_inputs"] == [
        {"name": "state", "shape": [1, 32, 8, 8], "dtype": "float32"}
    ]
    assert (bundle / "golden" / "input.1.npy").is_file()


def test_a_state_goes_round(bundle: Path, tmp_path: Path) -> None:
    state = STATE
    for turn in range(2):
        np.savez(tmp_path / f"in{turn}.npz", state=state, frame=FRAME)
        output = tmp_path / f"out{turn}.npz"
        ran = mbv3c("run", bundle, "--input", tmp_path / f"in{turn}.npz", "-o", output)
        assert ran.returncode == 0, ran.stderr
        with np.load(output) as arrays:
            assert set(arrays.files) == {"scores", "next_state"}
            assert not np.array_equal(arrays["next_state"], state)
            state = arrays["next_state"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"frame": FRAME}, "has no array state; it has frame"),
        ({"frame": FRAME, "state": STATE[:, :5]}, "state holds float32 (1, 5, 8, 8); the bundle"),
        ({"frame": FRAME.astype(float), "state": STATE}, "frame holds float64"),
    ],
)
def test_inputs_that_do_not_fit(
    arrays: dict[str, np.ndarray], message: str, bundle: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "in.npz", **arrays)
    ran = mbv3c("run", bundle, "--input", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert ran.returncode == 2
    assert message in ran.stderr
    assert not (tmp_path / "out.npz").exists()


def test_one_array_is_too_few(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", FRAME)
    ran = mbv3c("run", bundle, "--input", tmp_path / "in.npy", "-o", tmp_path / "out.npz")
    assert ran.returncode == 2
    assert "holds 1 arrays; the bundle takes 2: frame, state; give an .npz file" in ran.stderr


def test_the_ladder_takes_several_inputs(bundle: Path) -> None:
    climbed = mbv3c("verify", "--ladder", bundle, "--json")
    assert climbed.returncode == 0, climbed.stderr
    assert document(climbed)["passed"] is True


def test_images_are_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    ran = mbv3c("verify", bundle, "--images", tmp_path / "images")
    assert ran.returncode in (1, 2)
    assert "Traceback" not in ran.stderr


def test_calibration_takes_files_with_all_inputs(bundle: Path, tmp_path: Path) -> None:
    folder, model = tmp_path / "inputs", bundle.parent / "model.onnx"
    folder.mkdir()
    for seed in range(4):
        random = np.random.default_rng(seed)
        drawn = {
            name: random.standard_normal(like.shape).astype(np.float32)
            for name, like in (("frame", FRAME), ("state", STATE))
        }
        np.savez(folder / f"{seed}.npz", **drawn)
    asked = ("--target", "host_cpu", "--precision", "int8", "--calibration", folder)
    compiled = mbv3c("compile", model, *asked, "-o", tmp_path / "bundle")
    assert compiled.returncode == 0, compiled.stderr
    np.savez(folder / "5.npz", frame=FRAME)
    refused = mbv3c("compile", model, *asked, "-o", tmp_path / "other")
    assert refused.returncode == 1
    assert "5.npz has no array 'state'; the model takes frame, state" in refused.stderr


def test_several_shapes_are_fixed_by_name(tmp_path: Path) -> None:
    model = recurrent_state()
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, tmp_path / "model.onnx")
    asked = ("compile", tmp_path / "model.onnx", "--target", "host_cpu", "-o", tmp_path / "bundle")
    refused = mbv3c(*asked)
    assert (
        "fix it with --input-shape, for example --input-shape 'frame:1,3,32,32'" in refused.stderr
    )
    compiled = mbv3c(*asked, "--input-shape", "frame:1,3,32,32 state:1,32,8,8")
    assert compiled.returncode == 0, compiled.stderr
