"""A network that leaves something to win."""

import onnx
import pytest

from tests.parity.small_network import small_network


@pytest.fixture(scope="session")
def blocks() -> onnx.ModelProto:
    """Return three bottlenecks whose channels no vector divides; tests must not change it."""
    return small_network(more_channels=3)
