"""A small network, quantized and compiled once.

These tests need `pip install -e '.[npu,test]'`.
"""

from pathlib import Path

import onnx
import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from mbv3c.targets.ethos_u.backend import NpuCompiled, compile_npu
from mbv3c.targets.ethos_u.devices import find_npu


@pytest.fixture(scope="session")
def network() -> onnx.ModelProto:
    """Return Small of 96 pixels and 100 classes: every kind of operator, quickly."""
    return build_model(ModelSpec("small", resolution=96, classes=100))


@pytest.fixture(scope="session")
def quantized(network: onnx.ModelProto) -> onnx.ModelProto:
    return quantize(network, random_inputs(network, 4), rank_layers=False)[0]


@pytest.fixture(scope="session")
def compiled(network: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> NpuCompiled:
    """Return a bundle for ethos-u55-128; tests must not change it."""
    return compile_npu(
        network,
        find_npu("npu"),
        tmp_path_factory.mktemp("npu") / "bundle",
        random_inputs(network, 4),
        progress=lambda step: None,
    )


@pytest.fixture
def bundle(compiled: NpuCompiled) -> Path:
    return compiled.path
