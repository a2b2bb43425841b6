"""Segmentation and detection on an NPU; these tests need `pip install -e '.[npu,test]'`."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.job import Job
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import run, session
from mbv3c.pipeline import compile_model
from mbv3c.precision import INT8
from mbv3c.quantization.calibration import random_inputs
from mbv3c.targets import find_target
from tests.command_line import mbv3c
from tests.targets.ethos_u.verifying import inspect, verify


def compiled(model: onnx.ModelProto, target: str, path: Path) -> dict:
    """Compile a model, unverified, and return the manifest."""
    job = Job(find_target(target), INT8, calibration=random_inputs(model, 2))
    compile_model(model, job, path, verify=False)
    return inspect(path)


@pytest.mark.parametrize(
    ("target", "checked", "resizes"),
    [("npu:ethos-u55-32", True, 0), ("npu:ethos-u85-128", None, 2)],
)
def test_segmentation_is_on_the_npu_whole(
    target: str, checked: bool | None, resizes: int, tmp_path: Path
):
    spec = ModelSpec("small", width=0.35, resolution=96, classes=3, head="lraspp")
    path = tmp_path / "bundle"
    manifest = compiled(build_model(spec), target, path)
    placed = {one["operator"]: one["on"] for one in manifest["npu"]["placement"]}
    assert placed["resize"] == "npu"
    assert set(placed.values()) == {"npu"}
    assert manifest["npu"]["cost"]["cpu_operators"] == 0
    (end,) = manifest["npu"]["outputs"]
    assert (end["name"], tuple(end["shape"])) == ("logits", (1, 96, 96, 3))
    # Ethos-U85 resizes by itself; for the others it is convolutions.
    cost = [one["operation"] for one in manifest["npu"]["cost"]["layers"]]
    assert cost.count("Resize") == resizes
    parity = verify(path)
    assert parity.passed
    assert parity.stream_equal is checked
    assert parity.alone.lsb <= 1


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle; tests must not change it."""
    # Minimalistic: half as many operators, and the same head.
    spec = ModelSpec(
        "small", width=0.35, classes=3, resolution=320, head="ssdlite", minimalistic=True
    )
    path = tmp_path_factory.mktemp("ssdlite") / "bundle"
    compiled(build_model(spec), "npu:ethos-u55-256", path)
    return path


def test_what_follows_the_npu_is_named_and_stays(detector: Path):
    manifest = json.loads((detector / "manifest.json").read_text())
    placement = manifest["npu"]["placement"]
    left = {one["name"]: one for one in placement if one["on"] == "cpu"}
    assert left["scores.softmax"]["operator"] == "Softmax"
    assert {one["why"] for one in left.values()} == {"fp32 in the quantized model"}
    # Nothing with weights stays, and every operator of the model is in one place.
    assert not {"Conv", "Gemm"} & {one["operator"] for one in left.values()}
    pairs = ("QuantizeLinear", "DequantizeLinear")
    nodes = onnx.load(detector / "quantized.onnx").graph.node
    placed = [name for one in placement for name in one["nodes"]]
    assert sorted(placed) == sorted(one.name for one in nodes if one.op_type not in pairs)
    given = [one.name for one in onnx.load(detector / manifest["host"]).graph.input]
    assert given == [one["name"] for one in manifest["npu"]["outputs"]]
    assert [one["name"] for one in manifest["outputs"]] == ["boxes", "scores"]
    said = mbv3c("inspect", detector).stdout
    assert f"{len(left)} operators on the CPU" in said
    assert "in host.onnx, fp32 in the quantized model: Transpose (head.classes.0" in said


def test_npu_and_cpu_together_are_the_model(detector: Path, tmp_path: Path):
    parity = verify(detector)
    assert parity.passed
    assert parity.stream_equal is True
    assert parity.host is not None
    assert parity.host.same
    assert parity.host.max_error_of_range <= 1e-6
    x = parity_inputs((1, 3, 320, 320))[0]
    np.save(tmp_path / "x.npy", x)
    arguments = ("run", detector, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npz", "--raw")
    done = mbv3c(*arguments)
    assert done.returncode == 0, done.stderr
    assert "onnxruntime for what stays on the CPU" in done.stdout
    boxes, scores = run(session(onnx.load(detector / "quantized.onnx")), x)
    with np.load(tmp_path / "y.npz") as made:
        assert np.abs(made["scores"] - scores).max() < 0.1
        assert np.abs(made["boxes"] - boxes).max() < 0.05 * np.ptp(boxes)


def test_a_changed_host_part_misses_parity(detector: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(detector, broken)
    host = onnx.load(broken / "host.onnx")
    (exp,) = (node for node in host.graph.node if node.op_type == "Exp")
    exp.op_type = "Sigmoid"
    onnx.save(host, broken / "host.onnx")
    manifest = json.loads((broken / "manifest.json").read_text())
    digest = hashlib.sha256((broken / "host.onnx").read_bytes()).hexdigest()
    manifest["files"]["host.onnx"] = digest
    (broken / "manifest.json").write_text(json.dumps(manifest))
    parity = verify(broken)
    assert not parity.passed
    assert parity.host is not None
    assert not parity.host.same
    assert parity.host.max_error_of_range > 1e-3
