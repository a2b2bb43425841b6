"""Max(x, 0) and Clip(x, 0) become Relu, and nothing else does."""

import numpy as np
import pytest

from mbv3c.passes.fuse_relu import FuseRelu
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, operators, refuses

MAX = "g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) { [act] y = Max(x, zero) }"


@pytest.mark.parametrize("relu", ["Max(x, zero)", "Max(zero, x)", "Clip(x, zero)"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_fires(relu: str, shape: tuple[int, ...]) -> None:
    shape = () if relu.startswith("Clip") else shape
    model = graph(MAX.replace("Max(x, zero)", relu), zero=np.zeros(shape, np.float32))
    rewritten, report = fires(FuseRelu(), model, tolerance=0)
    assert operators(rewritten) == ["Relu"]
    assert report.matched == ("act",)


@pytest.mark.parametrize("op", ["Max", "Clip"])
def test_refuses_another_bound(op: str) -> None:
    model = graph(MAX.replace("Max", op), zero=np.array(0.1, np.float32))
    assert refuses(FuseRelu(), model) == f"{op}'s bound must be 0, got 0.1"


def test_refuses_integers() -> None:
    model = graph(MAX.replace("float", "int32"), zero=np.array(0, np.int32))
    assert refuses(FuseRelu(), model) == "'x' is INT32, not a float"


def test_refuses_a_bound_that_raises_the_rank() -> None:
    text = MAX.replace("[1, 4, 3, 3] x", "[3, 3] x").replace("[1, 4, 3, 3] y", "[1, 1, 3, 3] y")
    model = graph(text, zero=np.zeros((1, 1, 1, 1), np.float32))
    assert refuses(FuseRelu(), model) == "'zero' has more dimensions than 'x' may have"


@pytest.mark.parametrize("relu", ["Max(x, x)", "Min(x, zero)", "Clip(x, zero, zero)", "Max(x)"])
def test_ignores_what_only_resembles_it(relu: str) -> None:
    ignores(FuseRelu(), graph(MAX.replace("Max(x, zero)", relu), zero=np.array(0, np.float32)))
