"""The digits of tests/data, and small classifiers for them."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from mbv3c.graphs.architecture import Architecture, Block
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.training.examples import Examples, open_examples

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


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep prepared images out of the user's cache."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MBV3C_CACHE", str(place))
        yield place


@pytest.fixture(scope="session")
def digits_model() -> onnx.ModelProto:
    """Return a classifier of ten classes of 32 pixels, not trained; tests must not change it."""
    return build_model(ModelSpec(layers=LAYERS, layers_name="three", resolution=32, classes=10))


@pytest.fixture(scope="session")
def digits(cache: Path, digits_model: onnx.ModelProto) -> Examples:
    """Return the digits for that classifier."""
    return open_examples(DIGITS, digits_model)
