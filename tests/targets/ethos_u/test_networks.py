"""Whole networks on an NPU; these tests need `pip install -e '.[npu,test]'`."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.inference_mode import inference_mode
from mbv3c.graphs.spec import ModelSpec
from mbv3c.job import Job
from mbv3c.pipeline import compile_model
from mbv3c.precision import INT8
from mbv3c.quantization.calibration import random_inputs
from mbv3c.targets import find_target
from tests.passes.exporters import EXPORTERS, written
from tests.targets.ethos_u.verifying import inspect

TINY = ModelSpec("small", width=0.35, resolution=96, classes=10)
SPECS = {
    "minimalistic, TensorFlow padding": replace(TINY, minimalistic=True, padding="same"),
    "width 0.5": replace(TINY, width=0.5),
    "width 0.75": replace(TINY, width=0.75),
    "minimalistic": replace(TINY, width=1.0, minimalistic=True),
    "TensorFlow padding": replace(TINY, width=1.0, padding="same"),
}
# torchvision's mobilenet_v3_large as torch's two exporters write it.
TORCH = ["torch.onnx, opset 17", "torch.onnx dynamo, opset 18"]


def check(model: onnx.ModelProto, target: str, path: Path) -> None:
    """Compile with verification, and see that nothing stays on the CPU."""
    job = Job(find_target(target), INT8, calibration=random_inputs(model, 4))
    compiled = compile_model(model, job, path)
    manifest = inspect(path)
    assert compiled.verdict is not None
    assert compiled.verdict.to_json() == manifest["parity"]
    assert manifest["parity"]["passed"]
    assert manifest["parity"]["stream_bit_equal"] is True
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
