"""A small network, quantized and compiled once.

These tests need `pip install -e '.[npu,test]'`.
"""

from pathlib import Path

import onnx
import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.job import Job
from mbv3c.pipeline import compile_model
from mbv3c.precision import INT8
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from mbv3c.targets import find_target
from tests.built_once import built_once


@pytest.fixture(scope="session")
def network() -> onnx.ModelProto:
    """Return Small of 96 pixels and 100 classes: every kind of operator, quickly."""
    return build_model(ModelSpec("small", width=0.35, resolution=96, classes=100))


@pytest.fixture(scope="session")
def quantized(network: onnx.ModelProto) -> onnx.ModelProto:
    return quantize(network, random_inputs(network, 4), rank_layers=False)[0]


@pytest.fixture(scope="session")
def bundle(network: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle for ethos-u55-128; tests must not change it."""

    def build(folder: Path) -> None:
        job = Job(find_target("npu"), INT8, calibration=random_inputs(network, 4))
        compile_model(network, job, folder / "bundle")

    return built_once(tmp_path_factory, "npu", build) / "bundle"
