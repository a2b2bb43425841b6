"""A head of 1x1 convolutions becomes one of matrix products."""

import numpy as np
import pytest

from mbv3c.passes.head_to_gemm import head_to_gemm
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, operators, refuses

TOLERANCE = 1e-6  # sums in another order
KERAS = """
    g (float[2, 4, 6, 6] x) => (float[2, 3] y) {
        [pool] p = GlobalAveragePool(x)
        [hidden] h = Conv(p, w1, b1)
        [act] a = HardSwish(h)
        [logits] l = Conv(a, w2)
        [flat] y = Flatten(l)
    }
"""
TIMM = KERAS.replace("[logits] l = Conv(a, w2)", "").replace("Flatten(l)", "Flatten(a)")


def parameters(kernel: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"w1": (5, 4, 1, 1), "b1": (5,), "w2": (3, 5, kernel, kernel)}
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def test_fires_on_two_convolutions() -> None:
    rewritten, report = fires(head_to_gemm, graph(KERAS, **parameters()), TOLERANCE)
    assert operators(rewritten) == ["GlobalAveragePool", "Flatten", "Gemm", "HardSwish", "Gemm"]
    names = [node.name for node in rewritten.graph.node]
    assert names == ["pool", "flat", "hidden", "act", "logits"]
    assert report.matched == ("hidden", "act", "logits", "flat")
    assert report.refused == ()


def test_fires_on_one() -> None:
    arrays = parameters()
    del arrays["w2"]
    model = graph(TIMM.replace("3] y", "5] y"), **arrays)
    rewritten, _ = fires(head_to_gemm, model, TOLERANCE)
    assert operators(rewritten) == ["GlobalAveragePool", "Flatten", "Gemm", "HardSwish"]


@pytest.mark.parametrize("flat", ["Reshape(l, shape)", "Squeeze(l, axes)"])
def test_fires_before_every_flattening(flat: str) -> None:
    more = {"shape": np.array([2, -1])} if "shape" in flat else {"axes": np.array([2, 3])}
    model = graph(KERAS.replace("Flatten(l)", flat), **parameters(), **more)
    rewritten, _ = fires(head_to_gemm, model, TOLERANCE)
    assert operators(rewritten)[1] == "Flatten"


@pytest.mark.parametrize("tensor", ["h", "a", "l"])
def test_refuses_a_shared_intermediate(tensor: str) -> None:
    text = KERAS.replace("3] y)", "3] y, float[2, n, 1, 1] z)")
    text = text.replace("[flat]", f"[other] z = Neg({tensor}) [flat]")
    reason = refuses(head_to_gemm, graph(text, **parameters()))
    assert reason == f"intermediate '{tensor}' is also used by 'other'"


@pytest.mark.parametrize("tensor", ["h", "a", "l"])
def test_refuses_an_intermediate_that_is_an_output(tensor: str) -> None:
    text = KERAS.replace("3] y)", f"3] y, float[2, n, 1, 1] {tensor})")
    reason = refuses(head_to_gemm, graph(text, **parameters()))
    assert reason == f"intermediate '{tensor}' is an output of the graph"


def test_refuses_a_weight_that_is_not_constant() -> None:
    text = KERAS.replace("[pool]", "v = Neg(w2) [pool]").replace("a, w2", "a, v")
    assert refuses(head_to_gemm, graph(text, **parameters())) == "'v' of Conv is not a constant"


def test_refuses_groups() -> None:
    arrays = parameters() | {"w1": np.ones((6, 2, 1, 1), np.float32)}
    arrays |= {"b1": np.ones(6, np.float32), "w2": np.ones((3, 6, 1, 1), np.float32)}
    text = KERAS.replace("Conv(p", "Conv <group = 2> (p")
    assert refuses(head_to_gemm, graph(text, **arrays)) == "Conv has 2 groups"


def test_refuses_a_larger_kernel() -> None:
    text = KERAS.replace("Conv(a", "Conv <pads = [1, 1, 1, 1]> (a")
    reason = refuses(head_to_gemm, graph(text, **parameters(kernel=3)))
    assert reason == "Conv's kernel is 3x3, not 1x1"


@pytest.mark.parametrize(
    "text",
    [
        KERAS.replace("Flatten(l)", "Neg(l)").replace("3] y", "3, 1, 1] y"),
        KERAS.replace("GlobalAveragePool(x)", "Neg(x)").replace("3] y", "n] y"),
    ],
    ids=["not flattened", "not one pixel"],
)
def test_ignores_what_only_resembles_it(text: str) -> None:
    ignores(head_to_gemm, graph(text, **parameters()))


def test_ignores_a_head_of_gemms() -> None:
    text = "g (float[1, 4, 1, 1] x) => (float[1, 5] y) { f = Flatten(x) y = Gemm(f, w) }"
    ignores(head_to_gemm, graph(text, w=np.ones((4, 5), np.float32)))
