"""Whole networks on an NPU; these tests need `pip install -e '.[npu,test]'`."""

import json
from pathlib import Path

import onnx
import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.inference_mode import inference_mode
from mbv3c.graphs.spec import ModelSpec
from mbv3c.quantization.calibration import random_inputs
from mbv3c.targets.ethos_u.backend import compile_npu
from mbv3c.targets.ethos_u.devices import find_npu
from tests.passes.exporters import EXPORTERS, written

SPECS = {
    "width 0.5": ModelSpec("small", width=0.5, resolution=96, classes=10),
    "width 0.75": ModelSpec("small", width=0.75, resolution=96, classes=10),
    "minimalistic": ModelSpec("small", minimalistic=True, resolution=96, classes=10),
    "TensorFlow padding": ModelSpec("small", padding="same", resolution=96, classes=10),
}
# torchvision's mobilenet_v3_large as torch's two exporters write it.
TORCH = ["torch.onnx, opset 17", "torch.onnx dynamo, opset 18"]


def check(model: onnx.ModelProto, target: str, path: Path) -> None:
    """Compile with verification, and see that nothing stays on the CPU."""
    compiled = compile_npu(
        model, find_npu(target), path, random_inputs(model, 4), progress=lambda step: None
    )
    manifest = json.loads((path / "manifest.json").read_text())
    assert compiled.manifest["parity"]["passed"]
    assert compiled.manifest["parity"]["stream_bit_equal"] is True
    assert manifest["host"] is None
    assert {one["on"] for one in manifest["npu"]["placement"]} == {"npu"}
    assert manifest["npu"]["cost"]["cpu_operators"] == 0


@pytest.mark.parametrize("name", SPECS)
def test_a_network_of_ours_is_on_the_npu_whole(name: str, tmp_path: Path):
    check(build_model(SPECS[name]), "npu:ethos-u55-64", tmp_path / "bundle")


@pytest.mark.parametrize("name", TORCH)
def test_a_network_that_torch_has_exported_is_on_the_npu_whole(name: str, tmp_path: Path):
    model, _ = inference_mode(written(EXPORTERS[name]))
    check(model, "npu:ethos-u55-128", tmp_path / "bundle")
