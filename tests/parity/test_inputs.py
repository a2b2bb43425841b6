"""The inputs of a parity check, in the types and ranges that a model takes."""

import numpy as np
import pytest

from mbv3c.feeds import arrays_of, only_array
from mbv3c.parity.inputs import in_type, inputs_of
from tests.onnx_text import graph


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("uint8", 0, 255), ("int8", -128, 127), ("int32", 0, 255)]
)
def test_integers_are_pixels(dtype: str, low: int, high: int) -> None:
    model = graph(
        f"g ({dtype}[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) {{ y = Cast <to = 1> (x) }}"
    )
    for feed in inputs_of(model):
        x = only_array(feed)
        assert x.dtype == dtype
        assert low <= x.min() < x.max() <= high
        assert abs(float(x.mean()) - (low + high) / 2) < 50


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_floats_are_the_same_numbers_in_their_type(dtype: str) -> None:
    text = "g ({}[1, 3, 8, 8] x) => ({}[1, 3, 8, 8] y) {{ y = Identity(x) }}"
    wanted = only_array(inputs_of(graph(text.format("float", "float")))[0])
    got = only_array(inputs_of(graph(text.format(dtype, dtype)))[0])
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_allclose(got, wanted, rtol=1e-3)


def test_answers_are_both() -> None:
    model = graph("g (bool[64] x) => (bool[64] y) { y = Not(x) }")
    assert set(only_array(inputs_of(model)[0]).tolist()) == {True, False}


def test_positions_are_inside_of_their_table() -> None:
    model = graph(
        "g (int64[16] x) => (float[16, 1] y) <float[3, 1] table = {1, 2, 3}>"
        "{ y = Gather(table, x) }"
    )
    x = only_array(inputs_of(model)[0])
    assert 0 <= x.min() <= x.max() <= 2


def test_several_inputs_differ() -> None:
    model = graph("g (float[8] x, float[8] z) => (float[8] y) { y = Add(x, z) }")
    for feed in inputs_of(model):
        x, z = arrays_of(feed)
        assert not np.array_equal(x, z)


def test_what_integers_cannot_hold_is_clipped() -> None:
    x = np.array([-5.0, 1.6, 300.0], np.float32)
    assert in_type(x, np.uint8).tolist() == [0, 2, 255]
    assert in_type(x, np.int8).tolist() == [-128, -126, 127]
