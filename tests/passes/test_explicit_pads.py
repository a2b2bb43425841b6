"""Padding that an operator chooses by itself is said in numbers, and they are the right ones."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from mbv3c.passes.explicit_pads import explicit_pads
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, refuses

CONV = """
    g (float[1, 3, 9, 8] x) => (float[1, 4, h, w] y) {
        [conv] y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, weight)
    }
"""


def padded(text: str, kernel: tuple[int, int] = (3, 3)) -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((4, 3, *kernel)).astype(np.float32)
    return graph(text, **({"weight": weight} if "weight" in text else {}))


def attributes(model: onnx.ModelProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in model.graph.node[0].attribute}


def test_an_odd_zero_lies_at_the_end_or_the_beginning() -> None:
    upper, report = fires(explicit_pads, padded(CONV), tolerance=0)
    assert attributes(upper) == {"pads": [1, 0, 1, 1], "strides": [2, 2]}
    assert report.matched == ("conv",)
    lower, _ = fires(explicit_pads, padded(CONV.replace("UPPER", "LOWER")), tolerance=0)
    assert attributes(lower) == {"pads": [1, 1, 1, 0], "strides": [2, 2]}


def test_valid_is_no_padding() -> None:
    rewritten, _ = fires(explicit_pads, padded(CONV.replace("SAME_UPPER", "VALID")), tolerance=0)
    assert attributes(rewritten) == {"strides": [2, 2]}


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    op=st.sampled_from(["Conv", "AveragePool", "MaxPool"]),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    counted=st.booleans(),
)
def test_any_padding_is_what_onnxruntime_computes(
    mode: str,
    op: str,
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    counted: bool,
) -> None:
    # onnxruntime refuses pools that would skip pixels: the padding that it computes is negative.
    strides = (min(strides[0], kernel[0]), min(strides[1], kernel[1]))
    chosen = f'auto_pad = "{mode}", kernel_shape = {list(kernel)}, strides = {list(strides)}'
    if op == "AveragePool":
        chosen += f", count_include_pad = {int(counted)}"
    model = padded(
        f"g (float[1, 3, {size[0]}, {size[1]}] x) => (float[1, c, h, w] y) "
        f"{{ y = {op} <{chosen}> (x{', weight' if op == 'Conv' else ''}) }}",
        kernel,
    )
    fires(explicit_pads, model, tolerance=1e-6)  # a padded mean may sum in another order


def test_dilation_widens_the_kernel() -> None:
    """onnxruntime runs no such Conv: the numbers are the specification's."""
    rewritten, _ = explicit_pads(padded(CONV.replace("strides = [2, 2]", "dilations = [2, 2]")))
    assert attributes(rewritten)["pads"] == [2, 2, 2, 2]


def test_refuses_a_map_of_unknown_size() -> None:
    _, report = explicit_pads(padded(CONV.replace("9, 8] x", "n, n] x")))
    assert [refusal.reason for refusal in report.refused] == [
        "the size of Conv's input is not known, so that its padding is not"
    ]


def test_refuses_a_pool_that_rounds_up() -> None:
    text = CONV.replace("Conv <", "MaxPool <kernel_shape = [3, 3], ceil_mode = 1, ")
    text = text.replace("x, weight", "x").replace("1, 4, h", "1, 3, h")
    assert refuses(explicit_pads, padded(text)) == "MaxPool rounds its output size up"


@pytest.mark.parametrize("chosen", ["", 'auto_pad = "NOTSET", pads = [1, 1, 1, 1], '])
def test_ignores_padding_in_numbers(chosen: str) -> None:
    ignores(explicit_pads, padded(CONV.replace('auto_pad = "SAME_UPPER", ', chosen)))
