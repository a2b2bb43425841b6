"""Networks of 96 pixels: no rewrite looks at the resolution, and onnxruntime is sooner done."""

import onnx
import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec


@pytest.fixture(scope="session")
def small() -> onnx.ModelProto:
    return build_model(ModelSpec("small", resolution=96))


@pytest.fixture(scope="session")
def large() -> onnx.ModelProto:
    return build_model(ModelSpec("large", resolution=96))


@pytest.fixture(scope="session", params=["small", "large"])
def network(request: pytest.FixtureRequest) -> onnx.ModelProto:
    model: onnx.ModelProto = request.getfixturevalue(request.param)
    return model
