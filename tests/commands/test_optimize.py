"""`mbv3c optimize` as a user runs it."""

import json
from pathlib import Path

import onnx
import pytest

from tests.command_line import document, mbv3c


def test_optimize_reports_and_is_idempotent(small_file: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    first = document(mbv3c("optimize", small_file, "-o", once, "--json"))
    fired = {one["name"]: len(one["matched"]) for one in first["passes"] if one["matched"]}
    assert fired == {
        "fold_batchnorm": 34,
        "fuse_hardsigmoid": 9,
        "fuse_hardswish": 19,
        "fold_se": 9,
    }
    assert max(one["max_error_of_range"] for one in first["passes"]) < 1e-5
    second = document(mbv3c("optimize", once, "-o", twice, "--json"))
    assert not any(one["matched"] for one in second["passes"])
    assert once.read_bytes() == twice.read_bytes()


def test_optimize_prints_refusals_with_reasons(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 4] x) => (float[1, 4] y)
        <float three = {2.9}, float zero = {0.0}, float six = {6.0}>
        {
            [add] a = Add(x, three)
            [clip] c = Clip(a, zero, six)
            [mul] m = Mul(x, c)
            [div] y = Div(m, six)
        }"""
    )
    onnx.save(model, tmp_path / "near.onnx")
    done = mbv3c("optimize", tmp_path / "near.onnx", "-o", tmp_path / "out.onnx")
    assert "fuse_hardswish refused div: Add's constant must be 3, got 2.9" in done.stdout


def test_optimize_explains_by_node(small_file: Path, tmp_path: Path) -> None:
    done = mbv3c("optimize", small_file, "-o", tmp_path / "out.onnx", "--explain")
    assert "fold_se rewrote features.4.se" in done.stdout.splitlines()
    assert "fuse_hardswish rewrote features.0.act" in done.stdout.splitlines()


@pytest.fixture(scope="module")
def dynamic_file(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same network, of any batch."""
    model = onnx.load(small_file)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    path = tmp_path_factory.mktemp("dynamic") / "dynamic.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def two_images(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `optimize --batch 2` makes of the network."""
    path = tmp_path_factory.mktemp("two") / "two_images.onnx"
    done = mbv3c("optimize", small_file, "--batch", 2, "-o", path, "--json", "--prove")
    assert document(done)["proof_failed"] == []
    return path


def test_another_batch(small_file: Path, two_images: Path, tmp_path: Path) -> None:
    (written,) = onnx.load(two_images).graph.input
    assert written.type.tensor_type.shape.dim[0].dim_value == 2
    arguments = (small_file, "--batch", 2, "--json")
    done = mbv3c("compile", *arguments, "--target", "host_cpu", "-o", tmp_path / "b")
    assert document(done)["parity"]["passed"] is True
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["input"]["shape"] == [2, 3, 96, 96]
    assert manifest["outputs"][0]["shape"] == [2, 10]
    assert document(mbv3c("inspect", *arguments))["architecture"]["batch"] == 2


def test_a_dynamic_batch_needs_a_shape(dynamic_file: Path, tmp_path: Path) -> None:
    done = mbv3c("compile", dynamic_file, "--target", "host_cpu", "-o", tmp_path / "b")
    assert done.returncode == 1
    assert "--input-shape 1,3,96,96" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fixed", [("--input-shape", "2,3,96,96"), ("--batch", "2")])
def test_a_dynamic_batch_that_is_fixed_is_the_network_of_that_batch(
    dynamic_file: Path, two_images: Path, fixed: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "o.onnx"
    done = mbv3c("optimize", dynamic_file, *fixed, "-o", out)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == two_images.read_bytes()


def test_a_batch_that_is_built_in_is_named(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 4, 6, 6] x) => (float[2, 72] y) <int64[2] s = {2, 72}> {
            [flat] y = Reshape(x, s)
        }"""
    )
    onnx.save(model, tmp_path / "m.onnx")
    done = mbv3c("optimize", tmp_path / "m.onnx", "--batch", 2, "-o", tmp_path / "o.onnx")
    assert done.returncode == 1
    assert "--batch 2 is not possible: node 'flat' (Reshape) has the shape [2, 72]" in done.stderr
    assert not (tmp_path / "o.onnx").exists()


def test_another_opset(small_file: Path, blocks_file: Path, tmp_path: Path) -> None:
    out, again, bundle = tmp_path / "o.onnx", tmp_path / "o2.onnx", tmp_path / "b"
    done = mbv3c("optimize", small_file, "-o", out, "--opset", 11, "--json", "--prove")
    steps = document(done)["passes"]
    assert steps[-1]["name"] == "convert_opset"
    assert len(steps[-1]["matched"]) == 19
    written = onnx.load(out)
    assert written.opset_import[0].version == 11
    assert "HardSwish" not in {node.op_type for node in written.graph.node}
    assert mbv3c("optimize", out, "-o", again, "--opset", 11).returncode == 0
    assert again.read_bytes() == out.read_bytes()
    found = document(mbv3c("inspect", out, "--opset", 18, "--json"))
    assert found["architecture"]["activations"]["hardswish"] == 19
    old = tmp_path / "blocks.onnx"
    assert mbv3c("optimize", blocks_file, "-o", old, "--opset", 11).returncode == 0
    done = mbv3c("compile", old, "--opset", 13, "--target", "host_cpu", "-o", bundle)
    assert done.returncode == 0, done.stderr
    assert onnx.load(bundle / "model.onnx").opset_import[0].version == 13


def test_an_opset_that_does_not_work_is_an_error(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 4] x) => (float[1, 4] y) <float[4] w = {1, 1, 1, 1}> {
            [norm] y = LayerNormalization(x, w)
        }"""
    )
    onnx.save(model, tmp_path / "m.onnx")
    done = mbv3c("optimize", tmp_path / "m.onnx", "--opset", 13, "-o", tmp_path / "o.onnx")
    assert done.returncode == 1
    assert "LayerNormalization (node 'norm') exists from opset 17 on" in done.stderr
    assert "the lowest that works is 17" in done.stderr
    assert not (tmp_path / "o.onnx").exists()
