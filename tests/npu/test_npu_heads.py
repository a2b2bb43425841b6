"""Segmentation and detection on an NPU; these tests need `pip install -e '.[npu,test]'`."""

import json
from pathlib import Path

import onnx
import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.npu_pipeline import compile_npu, verify_npu
from mbv3c.quantization.calibration import random_inputs
from mbv3c.targets.npu_table import find_npu


def compiled(model: onnx.ModelProto, target: str, path: Path) -> dict:
    compile_npu(model, find_npu(target), path, random_inputs(model, 2), progress=lambda step: None)
    return json.loads((path / "manifest.json").read_text())


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
    assert (end["name"], end["shape"]) == ("logits", [1, 96, 96, 3])
    # Ethos-U85 resizes by itself; for the others it is convolutions.
    cost = [one["operation"] for one in manifest["npu"]["cost"]["layers"]]
    assert cost.count("Resize") == resizes
    parity = verify_npu(path)
    assert parity.passed
    assert parity.stream_equal is checked
    assert parity.alone.lsb <= 1
