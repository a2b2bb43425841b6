"""Rounding the weights of dense layers to bf16, and to int8 with a scale per output."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from mbv3c.errors import ModelError
from mbv3c.graphs.narrow import (
    AS_BF16,
    AS_INT8,
    STORED,
    as_stored,
    dense_layers,
    from_bf16,
    narrowed,
    to_bf16,
    to_int8,
)
from tests.onnx_text import graph, random


def weights_of(model: onnx.ModelProto, node: int) -> np.ndarray:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return numpy_helper.to_array(tensors[model.graph.node[node].input[1]])


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=2.0**127))
def test_bf16_is_the_nearest_with_ties_to_even(number: float) -> None:
    given_bits = np.array([number], np.float32).view(np.uint32)
    (bits,) = to_bf16(np.array([number], np.float32))
    low, kept = int(given_bits[0]) & 0xFFFF, int(given_bits[0]) >> 16
    up = low > 0x8000 or (low == 0x8000 and kept % 2 == 1)
    assert bits == kept + up


def test_int8_takes_the_whole_range_of_each_output() -> None:
    weights = np.array([[1.0, -0.5, 0.25], [-1e-3, 5e-4, 0], [0, 0, 0]], np.float32)
    integers, scales = to_int8(weights)
    np.testing.assert_array_equal(integers, [[127, -64, 32], [-127, 64, 0], [0, 0, 0]])
    assert np.abs(weights - as_stored(weights, AS_INT8)).max() <= scales.max() / 2


@pytest.mark.parametrize("stored", STORED)
def test_what_is_stored_is_stored_again_as_it_is(stored: str) -> None:
    weights = as_stored(random(33, 17), stored)
    np.testing.assert_allclose(as_stored(weights, stored), weights, rtol=2e-7)
    if stored == AS_INT8:
        np.testing.assert_array_equal(to_int8(weights)[0], to_int8(random(33, 17))[0])


def test_numbers_that_are_nearly_nothing_stay_finite() -> None:
    assert np.isfinite(as_stored(np.full((2, 3), 1e-40, np.float32), AS_INT8)).all()
    np.testing.assert_array_equal(from_bf16(to_bf16(np.zeros((1, 1), np.float32))), 0)


DENSE = """
    g (float[2, 8, 4, 4] x) => (float[2, 5] y) {
      a = Conv(x, w1) pooled = GlobalAveragePool(a) squeezed = Conv(pooled, w2)
      flat = Flatten(squeezed) m = MatMul(flat, w3) y = Gemm<transB = 1>(m, w4, b)
    }"""


def dense(**other: np.ndarray) -> onnx.ModelProto:
    weights = {
        "w1": random(6, 8, 1, 1),
        "w2": random(4, 6, 1, 1, seed=1),
        "w3": random(4, 7, seed=2),
        "w4": random(5, 7, seed=3),
        "b": random(5),
    }
    return graph(DENSE, **weights | other)


def test_layers_with_one_row_per_image_are_dense() -> None:
    layers = dense_layers(dense())
    assert [layer.node.op_type for layer in layers] == ["Conv", "MatMul", "Gemm"]
    assert [layer.outputs_last for layer in layers] == [False, True, False]


@pytest.mark.parametrize(
    "text",
    [
        "g (float[1, 3, 4] x) => (float[1, 3, 5] y) { y = MatMul(x, w) }",  # a row per token
        "g (float[1, 4] x, float[4, 5] v) => (float[1, 5] y) { y = MatMul(x, v) }",  # computed
    ],
)
def test_others_are_not(text: str) -> None:
    model = graph(text, w=random(4, 5))
    assert dense_layers(model) == []
    with pytest.raises(ModelError, match="--dense-weights finds no dense layer"):
        narrowed(model, AS_BF16)


def test_grouped_convolutions_are_not() -> None:
    text = "g (float[1, 4, 1, 1] x) => (float[1, 4, 1, 1] y) { y = Conv<group = 2>(x, w) }"
    assert dense_layers(graph(text, w=random(4, 2, 1, 1))) == []


@pytest.mark.parametrize("stored", STORED)
def test_only_weights_of_dense_layers_are_rounded(stored: str) -> None:
    model = dense()
    made = narrowed(model, stored)
    onnx.checker.check_model(made, full_check=True)
    np.testing.assert_array_equal(weights_of(made, 0), weights_of(model, 0))
    for node, outputs_last in ((2, False), (4, True), (5, False)):
        before, after = weights_of(model, node), weights_of(made, node)
        rows = before.T if outputs_last else before.reshape(len(before), -1)
        rounded = as_stored(rows, stored)
        wanted = rounded.T if outputs_last else rounded.reshape(before.shape)
        np.testing.assert_array_equal(after, wanted)
    assert len(made.graph.initializer) == len(model.graph.initializer)


def test_shared_weights_stay_as_they_are_elsewhere() -> None:
    text = """
        g (float[1, 4, 3, 3] x) => (float[1, 4, 1, 1] y) {
          a = Conv(x, w) pooled = GlobalAveragePool(a) y = Conv(pooled, w)
        }"""
    model = graph(text, w=random(4, 4, 1, 1))
    made = narrowed(model, AS_BF16)
    np.testing.assert_array_equal(weights_of(made, 0), weights_of(model, 0))
    assert np.abs(weights_of(made, 2) - weights_of(model, 2)).max() > 0


def test_weights_beyond_bf16_are_named() -> None:
    with pytest.raises(ModelError, match="has weights beyond what bf16 holds; leave --dense-weig"):
        narrowed(dense(w4=np.full((5, 7), 3.4e38, np.float32)), AS_BF16)
