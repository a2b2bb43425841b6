"""Squeeze-and-excite of Linear layers becomes one of 1x1 convolutions."""

import numpy as np
import pytest

from mbv3c.passes.gemm_to_conv import gemm_to_conv
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, operators, refuses

TOLERANCE = 1e-6  # sums in another order
SE = """
    g (float[2, 4, 6, 6] x) => (float[2, 4, 6, 6] y) {
        ["se.pool"] p = GlobalAveragePool(x)
        ["se.flat"] f = Flatten(p)
        ["se.reduce"] r = Gemm <transB = 1> (f, w1, b1)
        ["se.relu"] a = Relu(r)
        ["se.expand"] e = Gemm <transB = 1> (a, w2, b2)
        ["se.gate"] s = HardSigmoid <alpha = 0.16666667, beta = 0.5> (e)
        ["se.raise"] u = Reshape(s, shape)
        ["se.scale"] y = Mul(x, u)
    }
"""
CONVERTED = ["GlobalAveragePool", "Conv", "Relu", "Conv", "HardSigmoid", "Mul"]


def parameters(dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = {
        "w1": rng.standard_normal((8, 4)),
        "b1": rng.uniform(0, 1, 8),
        "w2": rng.standard_normal((4, 8)),
        "b2": np.array([-6.0, -1.0, 1.0, 6.0]),
    }
    shape = {"shape": np.array([2, 4, 1, 1])}
    return {name: value.astype(dtype) for name, value in values.items()} | shape


def test_fires_on_gemm() -> None:
    rewritten, report = fires(gemm_to_conv, graph(SE, **parameters()), TOLERANCE)
    assert operators(rewritten) == CONVERTED
    names = [node.name for node in rewritten.graph.node]
    assert names == ["se.pool", "se.reduce", "se.relu", "se.expand", "se.gate", "se.scale"]
    assert report.matched == tuple(
        f"se.{part}" for part in ("flat", "reduce", "relu", "expand", "gate", "raise")
    )
    assert report.refused == ()


@pytest.mark.parametrize("gate", ["Sigmoid(e)", "Relu(e)", "HardSwish(e)", "Clip(e)"])
def test_fires_with_other_gates(gate: str) -> None:
    text = SE.replace("HardSigmoid <alpha = 0.16666667, beta = 0.5> (e)", gate)
    rewritten, _ = fires(gemm_to_conv, graph(text, **parameters()), TOLERANCE)
    assert operators(rewritten)[:4] == CONVERTED[:4]


def test_fires_on_matmul_without_bias_and_on_gemm_without_transposition() -> None:
    arrays = parameters()
    del arrays["b1"]
    arrays["w1"], arrays["w2"] = arrays["w1"].T.copy(), arrays["w2"].T.copy()
    text = SE.replace("Gemm <transB = 1> (f, w1, b1)", "MatMul(f, w1)")
    text = text.replace("Gemm <transB = 1> (a, w2, b2)", "Gemm(a, w2, b2)")
    rewritten, _ = fires(gemm_to_conv, graph(text, **arrays), TOLERANCE)
    assert operators(rewritten) == CONVERTED


def test_fires_on_squeeze_and_unsqueeze() -> None:
    text = SE.replace("Flatten(p)", "Squeeze(p, axes)").replace(
        "Reshape(s, shape)", "Unsqueeze(s, axes)"
    )
    arrays = parameters() | {"axes": np.array([2, 3])}
    del arrays["shape"]
    rewritten, _ = fires(gemm_to_conv, graph(text, **arrays), TOLERANCE)
    assert operators(rewritten) == CONVERTED


@pytest.mark.parametrize("bias", [(), (1,), (1, 4), (1, 1)])
def test_fires_with_a_bias_of_any_shape(bias: tuple[int, ...]) -> None:
    arrays = parameters() | {"b2": np.full(bias, 0.5, np.float32)}
    fires(gemm_to_conv, graph(SE, **arrays), TOLERANCE)


def test_fires_in_fp16() -> None:
    text = SE.replace('["se.pool"]', 'h = Cast <to = 10> (x) ["se.pool"]')
    text = text.replace("Pool(x)", "Pool(h)")
    text = text.replace("y = Mul(x, u)", "m = Mul(h, u) y = Cast <to = 1> (m)")
    fires(gemm_to_conv, graph(text, **parameters(np.float16)), 5e-3)  # eleven bits


def test_what_else_uses_the_flattened_tensor_keeps_it() -> None:
    text = SE.replace("6] y)", "6] y, float[2, 4] z)").replace(
        '["se.scale"]', 'z = Neg(f) ["se.scale"]'
    )
    rewritten, _ = fires(gemm_to_conv, graph(text, **parameters()), TOLERANCE)
    assert "Flatten" in operators(rewritten)


def test_weights_that_two_branches_share_are_kept_for_the_other() -> None:
    text = SE.replace("6] y)", "6] y, float[2, 8] z)").replace(
        '["se.scale"]', 'z = Gemm <transB = 1> (k, w1, b1) ["se.scale"]'
    )
    arrays = parameters() | {"k": np.ones((2, 4), np.float32)}
    rewritten, _ = fires(gemm_to_conv, graph(text, **arrays), TOLERANCE)
    assert "Gemm" in operators(rewritten)


@pytest.mark.parametrize("tensor", ["r", "a", "e", "s"])
def test_refuses_a_shared_intermediate(tensor: str) -> None:
    text = SE.replace("6] y)", "6] y, float[2, n] z)")
    text = text.replace('["se.scale"]', f'[other] z = Neg({tensor}) ["se.scale"]')
    reason = refuses(gemm_to_conv, graph(text, **parameters()))
    assert reason == f"intermediate '{tensor}' is also used by 'other'"


@pytest.mark.parametrize("tensor", ["f", "r", "a", "e", "s"])
def test_refuses_an_intermediate_that_is_an_output(tensor: str) -> None:
    text = SE.replace("6] y)", f"6] y, float[2, n] {tensor})")
    reason = refuses(gemm_to_conv, graph(text, **parameters()))
    assert reason == f"intermediate '{tensor}' is an output of the graph"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<transB = 1> (f", "<transB = 1, alpha = 0.5> (f", "Gemm scales its operands"),
        ("Relu(r)", "Softmax(r)", "Softmax does not flatten one pixel per image"),
        ("(f, w1, b1)", "(f, w1, wide)", "the bias of Gemm is not one number per channel"),
    ],
)
def test_refuses_another_computation(old: str, new: str, reason: str) -> None:
    arrays = parameters()
    if "wide" in new:
        arrays["wide"] = np.ones((2, 8), np.float32)
    assert refuses(gemm_to_conv, graph(SE.replace(old, new), **arrays)) == reason


def test_refuses_more_than_one_pixel() -> None:
    arrays = parameters() | {"w1": np.ones((8, 144), np.float32)}
    reason = refuses(gemm_to_conv, graph(SE.replace("Flatten(p)", "Flatten(x)"), **arrays))
    assert reason == "Flatten flattens 2x4x6x6, which is not one pixel per image"


def test_refuses_a_weight_that_is_not_constant() -> None:
    arrays = parameters()
    arrays["stored"] = arrays.pop("w2")
    text = SE.replace('["se.pool"]', 'w2 = Neg(stored) ["se.pool"]')
    assert refuses(gemm_to_conv, graph(text, **arrays)) == "'w2' of Gemm is not a constant"


def test_ignores_a_classifier() -> None:
    text = """
        g (float[1, 4, 1, 1] x) => (float[1, 8] y) {
            f = Flatten(x)
            y = Gemm <transB = 1> (f, w1, b1)
        }
    """
    arrays = {name: parameters()[name] for name in ("w1", "b1")}
    ignores(gemm_to_conv, graph(text, **arrays))
