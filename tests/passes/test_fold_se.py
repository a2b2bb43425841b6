"""Hard-sigmoid's scale and shift disappear in the second convolution of squeeze-and-excite."""

import numpy as np
import pytest
from onnx import helper

from mbv3c.passes.fold_se import FoldSE
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, initializers, operators, refuses

TOLERANCE = 1e-6  # two fp32 roundings more or less

SE = """
    g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {
        ["se.pool"] p = GlobalAveragePool(x)
        ["se.reduce"] r = Conv(p, reduce_weight, reduce_bias)
        ["se.relu"] a = Relu(r)
        ["se.expand"] e = Conv(a, expand_weight, expand_bias)
        ["se.gate"] s = HardSigmoid <alpha = 0.16666667, beta = 0.5> (e)
        ["se.scale"] y = Mul(x, s)
    }
"""
POOL = "p = GlobalAveragePool(x)"
FOLDED = ["GlobalAveragePool", "Conv", "Relu", "Conv", "Clip", "Mul"]


def parameters(dtype: type = np.float32) -> dict[str, np.ndarray]:
    """Return weights for which some channels of the gate are inside its slope and some beyond."""
    rng = np.random.default_rng(0)
    values = {
        "reduce_weight": rng.standard_normal((8, 4, 1, 1)),
        "reduce_bias": rng.uniform(0, 1, 8),
        "expand_weight": rng.standard_normal((4, 8, 1, 1)) / 3,
        "expand_bias": np.array([-6.0, -1.0, 1.0, 6.0]),
    }
    return {name: value.astype(dtype) for name, value in values.items()}


@pytest.mark.parametrize("mul", ["Mul(x, s)", "Mul(s, x)"])
def test_fires_in_both_orders(mul: str) -> None:
    model = graph(SE.replace("Mul(x, s)", mul), **parameters())
    rewritten, report = fires(FoldSE(), model, TOLERANCE)
    assert operators(rewritten) == FOLDED
    assert [node.name for node in rewritten.graph.node] == [n.name for n in model.graph.node]
    assert report.matched == ("se",)
    assert report.refused == ()


@pytest.mark.parametrize(
    ("attributes", "alpha", "beta"),
    [
        ("<alpha = 0.16666667, beta = 0.5>", 1 / 6, 0.5),
        ("<alpha = 0.3, beta = 0.4>", 0.3, 0.4),
        ("", 0.2, 0.5),
    ],
)
def test_folds_any_slope_by_the_formula(attributes: str, alpha: float, beta: float) -> None:
    arrays = parameters()
    text = SE.replace("<alpha = 0.16666667, beta = 0.5>", attributes)
    rewritten, _ = fires(FoldSE(), graph(text, **arrays), TOLERANCE)
    after = initializers(rewritten)
    np.testing.assert_allclose(after["expand_weight"], arrays["expand_weight"] * alpha, 1e-6)
    np.testing.assert_allclose(after["expand_bias"], arrays["expand_bias"] * alpha + beta, 1e-6)
    np.testing.assert_array_equal(after["reduce_weight"], arrays["reduce_weight"])
    assert {after["se.gate.low"].item(), after["se.gate.high"].item()} == {0.0, 1.0}


def test_keeps_the_attributes_of_both_convolutions() -> None:
    text = SE.replace("Conv(", "Conv <kernel_shape = [1, 1], group = 2> (")
    arrays = parameters()
    arrays["reduce_weight"] = arrays["reduce_weight"][:, :2]
    arrays["expand_weight"] = arrays["expand_weight"][:, :4]
    rewritten, _ = fires(FoldSE(), graph(text, **arrays), TOLERANCE)
    for node in rewritten.graph.node:
        if node.op_type == "Conv":
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            assert attributes == {"kernel_shape": [1, 1], "group": 2}


def test_fires_in_fp16() -> None:
    text = SE.replace('["se.pool"]', 'h = Cast <to = 10> (x) ["se.pool"]').replace(
        "Pool(x)", "Pool(h)"
    )
    text = text.replace("y = Mul(x, s)", "m = Mul(h, s) y = Cast <to = 1> (m)")
    # fp16 weights, and sums of eight products in fp16.
    rewritten, _ = fires(FoldSE(), graph(text, **parameters(np.float16)), 2e-3)
    assert operators(rewritten) == ["Cast", *FOLDED, "Cast"]


def test_two_branches_that_share_weights_are_folded_for_each() -> None:
    model = graph(
        """
        g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {
            ["one.pool"] p = GlobalAveragePool(x)
            ["one.reduce"] r = Conv(p, reduce_weight, reduce_bias)
            ["one.relu"] a = Relu(r)
            ["one.expand"] e = Conv(a, expand_weight, expand_bias)
            ["one.gate"] s = HardSigmoid <alpha = 0.16666667, beta = 0.5> (e)
            ["one.scale"] m = Mul(x, s)
            ["two.pool"] p2 = GlobalAveragePool(m)
            ["two.reduce"] r2 = Conv(p2, reduce_weight, reduce_bias)
            ["two.relu"] a2 = Relu(r2)
            ["two.expand"] e2 = Conv(a2, expand_weight, expand_bias)
            ["two.gate"] s2 = HardSigmoid <alpha = 0.3, beta = 0.4> (e2)
            ["two.scale"] y = Mul(m, s2)
        }
        """,
        **parameters(),
    )
    rewritten, report = fires(FoldSE(), model, TOLERANCE)
    assert operators(rewritten) == FOLDED * 2
    assert report.matched == ("one", "two")


@pytest.mark.parametrize("name", ["expand_weight", "expand_bias"])
def test_refuses_a_tensor_that_is_not_constant(name: str) -> None:
    arrays = parameters()
    arrays["stored"] = arrays.pop(name)
    text = SE.replace('["se.expand"]', f'{name} = Neg(stored) ["se.expand"]')
    reason = refuses(FoldSE(), graph(text, **arrays))
    assert reason == f"'{name}' of the second convolution is not a constant"


def test_does_not_need_the_first_convolution_to_be_constant() -> None:
    arrays = parameters()
    arrays["stored"] = arrays.pop("reduce_weight")
    text = SE.replace('["se.reduce"]', 'reduce_weight = Neg(stored) ["se.reduce"]')
    fires(FoldSE(), graph(text, **arrays), TOLERANCE)


@pytest.mark.parametrize("tensor", ["p", "r", "a", "e", "s"])
def test_refuses_a_shared_intermediate(tensor: str) -> None:
    text = SE.replace("6] y)", "6] y, float[1, n, 1, 1] z)")
    text = text.replace('["se.scale"]', f'[other] z = Neg({tensor}) ["se.scale"]')
    reason = refuses(FoldSE(), graph(text, **parameters()))
    assert reason == f"intermediate '{tensor}' is also used by 'other'"


@pytest.mark.parametrize("tensor", ["p", "r", "a", "e", "s"])
def test_refuses_an_intermediate_that_is_an_output(tensor: str) -> None:
    text = SE.replace("6] y)", f"6] y, float[1, n, 1, 1] {tensor})")
    reason = refuses(FoldSE(), graph(text, **parameters()))
    assert reason == f"intermediate '{tensor}' is an output of the graph"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("s = HardSigmoid <alpha = 0.16666667, beta = 0.5> (e)", "s = Sigmoid(e)"),
        ("Mul(x, s)", "Add(x, s)"),
        ("a = Relu(r)", "a = HardSwish(r)"),
        (POOL, "p = GlobalMaxPool(x)"),
        (POOL, "p = ReduceMean <axes = [2, 3]> (x)"),  # global_pool comes first
        ("p = GlobalAveragePool(x)", "n = Neg(x) p = GlobalAveragePool(n)"),
    ],
)
def test_ignores_what_only_resembles_it(old: str, new: str) -> None:
    ignores(FoldSE(), graph(SE.replace(old, new), **parameters()))


def test_bounds_of_the_gate_take_no_name_that_is_in_use() -> None:
    text = SE.replace("6] y) {", '6] y) <float "se.gate.high" = {5}> {')
    text = text.replace("y = Mul(x, s)", 'm = Mul(x, s) y = Add(m, "se.gate.high")')
    fires(FoldSE(), graph(text, **parameters()), TOLERANCE)


def test_bias_in_a_constant_node_folds() -> None:
    arrays = parameters()
    del arrays["expand_bias"]
    constant = "expand_bias = Constant <value = float[4] expand_bias {-6, -1, 1, 6}> ()"
    model = graph(SE.replace('["se.pool"]', f'{constant} ["se.pool"]'), **arrays)
    fires(FoldSE(), model, TOLERANCE)


@pytest.mark.parametrize("biases", [(), ("reduce",), ("expand",)])
def test_fires_without_biases(biases: tuple[str, ...]) -> None:
    arrays, text = parameters(), SE
    for name in {"reduce", "expand"} - set(biases):
        del arrays[f"{name}_bias"]
        text = text.replace(f", {name}_bias", "")
    rewritten, _ = fires(FoldSE(), graph(text, **arrays), TOLERANCE)
    assert operators(rewritten) == FOLDED
    if "expand" not in biases:
        np.testing.assert_array_equal(initializers(rewritten)["se.gate.bias"], [0.5] * 4)


def test_a_sigmoid_gate_stays() -> None:
    text = SE.replace("s = HardSigmoid <alpha = 0.16666667, beta = 0.5> (e)", "s = Sigmoid(e)")
    ignores(FoldSE(), graph(text, **parameters()))
