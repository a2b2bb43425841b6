"""The digits of tests/data, and small classifiers for them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.graphs.architecture import Architecture, Block
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.training.examples import Examples, open_examples
from tests.onnx_text import graph, random

DIGITS = Path(__file__).parents[1] / "data" / "digits.npz"
LAYERS = Architecture(
    stem=8,
    blocks=(
        Block(kernel=3, expand=24, out=16, squeeze=8, activation="relu", stride=2),
        Block(kernel=5, expand=48, out=24, squeeze=16, activation="hardswish", stride=2),
        Block(kernel=5, expand=48, out=24, squeeze=0, activation="hardswish", stride=1),
    ),
    last_conv=64,
    hidden=48,
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep prepared images out of the user's cache, in which tests of other files find tools."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MBV3C_CACHE", str(place))
        yield place


@pytest.fixture(scope="session")
def tiny_model() -> onnx.ModelProto:
    """Return a classifier of the digits at 8 pixels, with made-up weights; not to be changed."""
    model = graph(
        """g (float[1, 3, 8, 8] input) => (float[1, 10] logits) {
            a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(input, stem)
            b = BatchNormalization(a, scale, bias, mean, variance)
            c = HardSwish(b)
            d = Conv<group = 8, pads = [2, 2, 2, 2]>(c, depthwise)
            e = GlobalAveragePool(d)
            f = Flatten(e)
            logits = Gemm<transB = 1>(f, head, head_bias)
        }""",
        stem=random(8, 3, 3, 3),
        scale=random(8, seed=1),
        bias=random(8, seed=2),
        mean=random(8, seed=3),
        variance=np.abs(random(8, seed=4)),
        depthwise=random(8, 1, 5, 5, seed=5),
        head=random(10, 8, seed=6),
        head_bias=random(10, seed=7),
    )
    model.metadata_props.add(key="mbv3c.seed", value="0")
    return model


@pytest.fixture(scope="module")
def tiny_digits(cache: Path, tiny_model: onnx.ModelProto) -> Examples:
    """Return the digits for that classifier."""
    return open_examples(DIGITS, tiny_model)


@pytest.fixture(scope="session")
def digits_model() -> onnx.ModelProto:
    """Return a classifier of ten classes of 32 pixels, not trained; tests must not change it."""
    return build_model(ModelSpec(layers=LAYERS, layers_name="three", resolution=32, classes=10))


@pytest.fixture(scope="module")
def digits(cache: Path, digits_model: onnx.ModelProto) -> Examples:
    """Return the digits for that classifier."""
    return open_examples(DIGITS, digits_model)
