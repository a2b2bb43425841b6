"""Normalisations that TVM lacks, or computes less exactly, are basic operators."""

import numpy as np
import onnx
import pytest

from mbv3c.parity.reference import error_of_range, run, session
from mbv3c.passes.spell_normalization import spell_normalization
from tests.onnx_text import graph, random
from tests.passes.rewriting import fires, ignores, operators, refuses


def normalising(call: str, opset: int) -> onnx.ModelProto:
    text = f"g (float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y) {{ y = {call} (x) }}"
    return graph(text, opset)


def agrees(model: onnx.ModelProto, x: np.ndarray) -> None:
    rewritten, _ = fires(spell_normalization, model)
    (ours,), (theirs,) = (run(session(each), x) for each in (rewritten, model))
    assert error_of_range(ours, theirs) <= 1e-6


@pytest.mark.parametrize("opset", [13, 18, 22])
@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
@pytest.mark.parametrize("power", [1, 2])
def test_lp(power: int, axis: int, opset: int) -> None:
    x = random(2, 3, 4, 5)
    x[:, 1], x[1, :, 2], x[0, 0] = 0, 0, 1e-30  # the last is 0 squared
    agrees(normalising(f"LpNormalization <axis = {axis}, p = {power}>", opset), x)


def test_a_norm_of_zero_gives_zeros() -> None:
    model = normalising("LpNormalization", 17)
    rewritten, _ = spell_normalization(model)
    for scale in (0.0, 1e-30):
        x = np.full((2, 3, 4, 5), scale, np.float32)
        (ours,), (theirs,) = (run(session(each), x) for each in (rewritten, model))
        np.testing.assert_array_equal(theirs, 0)
        np.testing.assert_allclose(ours, 0, rtol=0, atol=1e-22)


def test_the_last_axis_and_squares_are_the_default() -> None:
    model = normalising("LpNormalization", 17)
    rewritten, _ = fires(spell_normalization, model)
    assert operators(rewritten) == ["ReduceL2", "Equal", "Where", "Div"]


@pytest.mark.parametrize("opset", [13, 18, 22])
@pytest.mark.parametrize("axes", ["1, 2, 3", "-1, 2", "0, 2, 3"])
def test_mean_and_variance(axes: str, opset: int) -> None:
    model = normalising(f"MeanVarianceNormalization <axes = [{axes}]>", opset)
    agrees(model, random(2, 3, 4, 5))
    agrees(model, random(2, 3, 4, 5) + 10)


@pytest.mark.parametrize("axis", [-1, 0, 2])
def test_root_mean_square(axis: int) -> None:
    shape = [2, 3, 4, 5][axis:]
    sizes = ", ".join(map(str, shape))
    text = (
        f"g (float[2, 3, 4, 5] x, float[{sizes}] s) => (float[2, 3, 4, 5] y)"
        f"{{ y = RMSNormalization <axis = {axis}, epsilon = 0.01> (x, s) }}"
    )
    agrees(graph(text, 23, s=random(*shape)), random(2, 3, 4, 5))


def test_other_types_stay() -> None:
    text = "g (double[2, 3] x) => (double[2, 3] y) { y = LpNormalization (x) }"
    reason = refuses(spell_normalization, graph(text))
    assert reason == "it computes in DOUBLE; this pass knows FLOAT"


def test_a_shape_that_is_open_stays() -> None:
    text = "g (float[N, 3] x) => (float[N, 3] y) { y = LpNormalization (x) }"
    assert refuses(spell_normalization, graph(text)) == "the shape of 'x' is not fixed"


def test_others_stay() -> None:
    ignores(spell_normalization, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))


@pytest.mark.parametrize("opset", [17, 18])
def test_a_layer_whose_mean_and_deviation_are_read(opset: int) -> None:
    text = (
        "g (float[2, 3, 4, 5] x) =>"
        "(float[2, 3, 4, 5] y, float[2, 3, 1, 1] m, float[2, 3, 1, 1] r)"
        "{ y, m, r = LayerNormalization <axis = 2> (x, s, b) }"
    )
    model = graph(text, opset, s=random(4, 5), b=random(4, 5, seed=1))
    rewritten, _ = fires(spell_normalization, model)
    assert "LayerNormalization" not in operators(rewritten)


def test_a_layer_of_which_nothing_else_is_read_stays() -> None:
    text = (
        "g (float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] z)"
        "{ y, m, r = LayerNormalization (x, s) z = Relu(y) }"
    )
    ignores(spell_normalization, graph(text, s=random(5)))


def test_groups_of_channels() -> None:
    text = (
        "g (float[2, 6, 4, 5] x) => (float[2, 6, 4, 5] y)"
        "{ y = GroupNormalization <num_groups = 3, epsilon = 0.01> (x, s, b) }"
    )
    model = graph(text, 21, s=random(6), b=random(6, seed=1))
    rewritten, _ = fires(spell_normalization, model, 5e-6)  # onnxruntime's own error
    found = operators(rewritten)
    assert found == ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]
