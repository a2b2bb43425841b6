"""`mbv3c compile` as a user runs it."""

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.command_line import command_line, document, mbv3c
from tests.commands.conftest import TINY
from tests.onnx_text import graph


def test_android_bundle_verifies_under_the_emulator(
    emulator_kit: object, blocks_file: Path, tmp_path: Path
) -> None:
    target = "arm_cpu:cortex-a53-android"
    done = mbv3c("compile", blocks_file, "--target", target, "-o", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["parity"]["ran_on"] == "emulated cortex-a53"


def test_two_runs_write_identical_bundles(
    arm_bundle: Path, blocks_file: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert mbv3c("compile", blocks_file, "--target", "arm_cpu", "-o", again).returncode == 0
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) == 8
    for name in files:
        assert (again / name).read_bytes() == (arm_bundle / name).read_bytes(), name


def test_hardswish_as_one_operator_without_batchnorm(blocks_file: Path, tmp_path: Path) -> None:
    """What torchvision and timm export: what `optimize` leaves, but for the SE gates."""
    fused = tmp_path / "fused.onnx"
    assert mbv3c("optimize", blocks_file, "-o", fused).returncode == 0
    model = onnx.load(fused)
    operators = {node.op_type for node in model.graph.node}
    assert "HardSwish" in operators
    assert "BatchNormalization" not in operators
    done = mbv3c("compile", fused, "--target", "host_cpu", "-o", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["parity"]["passed"] is True


def test_unknown_operators_are_all_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("StringNormalizer", ["x"], ["a"], name="first", domain="my.domain"),
        helper.make_node("Frobnicate", ["a"], ["y"], name="second", domain="my.domain"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    done = mbv3c("compile", tmp_path / "m.onnx", "--target", "host_cpu", "-o", tmp_path / "b")
    assert done.returncode == 1
    assert "StringNormalizer (nodes: first); Frobnicate (nodes: second)" in done.stderr
    assert "Traceback" not in done.stderr


def test_existing_bundle_is_kept_without_force(host_bundle: Path, blocks_file: Path) -> None:
    before = (host_bundle / "manifest.json").stat()
    done = mbv3c("compile", blocks_file, "--target", "host_cpu", "-o", host_bundle)
    assert done.returncode == 2
    assert "write over it with --force" in done.stderr
    assert (host_bundle / "manifest.json").stat() == before


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_compile_leaves_nothing(
    sent: signal.Signals, small_file: Path, tmp_path: Path
) -> None:
    command = command_line("compile", small_file, "--target", "host_cpu", "-o", tmp_path / "b")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "compiling" not in process.stderr.readline():
            time.sleep(0)
        process.send_signal(sent)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert not list(tmp_path.iterdir())


def test_force_deletes_nothing_but_bundles(blocks_file: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    arguments = ("compile", blocks_file, "--target", "host_cpu", "--force")
    done = mbv3c(*arguments, "-o", tmp_path / "thesis")
    assert done.returncode == 2
    assert "--force does not delete it" in done.stderr
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


@pytest.mark.parametrize("target", ["host_cpu", "arm_cpu"])
def test_segmentation_compiles_and_verifies(
    emulator_kit: object, target: str, tmp_path: Path
) -> None:
    # Minimalistic: half as many kernels to compile, and the same head.
    options = (*TINY[:6], "--head", "lraspp", "--minimalistic")
    done = mbv3c("compile", *options, "--target", target, "-o", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["parity"]["passed"] is True
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["outputs"][0]["shape"] == [1, 21, 96, 96]


@pytest.fixture(scope="module")
def two_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two") / "two.onnx"
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] map, float[1, 3] scores)
        { map = Relu(x) p = GlobalAveragePool(map) scores = Flatten(p) }"""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.mark.parametrize("target", ["host_cpu", "arm_cpu"])
def test_a_model_of_two_outputs_goes_all_the_way(
    emulator_kit: object, two_outputs: Path, target: str, tmp_path: Path
) -> None:
    bundle = tmp_path / "b"
    done = mbv3c("compile", two_outputs, "--target", target, "-o", bundle, "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["parity"]["passed"] is True
    assert document(done)["parity"]["worst_output"] in ("map", "scores")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["outputs"] == [
        {"name": "map", "shape": [1, 3, 8, 8], "dtype": "float32"},
        {"name": "scores", "shape": [1, 3], "dtype": "float32"},
    ]
    assert len((bundle / "golden" / "tolerance.txt").read_text().split()) == 2

    arguments = ("run", bundle, "--input", bundle / "golden" / "input.npy", "--json", "-o")
    done = mbv3c(*arguments, tmp_path / "y.npy")
    assert done.returncode == 2
    assert "several arrays (map, scores)" in done.stderr
    assert not (tmp_path / "y.npy").exists()
    done = mbv3c(*arguments, tmp_path / "y.npz")
    assert document(done)["shape"] is None
    assert document(done)["arrays"][1] == {"name": "scores", "shape": [1, 3]}
    ran = np.load(tmp_path / "y.npz")
    for name, golden in (("map", "output.npy"), ("scores", "output.1.npy")):
        wanted = np.load(bundle / "golden" / golden)
        np.testing.assert_allclose(ran[name], wanted, rtol=0, atol=1e-5 * np.ptp(wanted))


def test_explain_shows_what_tvm_said_of_a_refused_model(tmp_path: Path) -> None:
    onnx.save(graph("g (float[1, 4, 4] x) => (float[1] y) { y = Det(x) }"), tmp_path / "m.onnx")
    command = ("compile", tmp_path / "m.onnx", "--target", "host_cpu", "-o", tmp_path / "b")
    plain, explained = mbv3c(*command), mbv3c(*command, "--explain")
    assert plain.returncode == explained.returncode == 1
    assert "because of" not in plain.stderr
    assert "Det" in plain.stderr.splitlines()[-1]
    assert "because of " in explained.stderr
