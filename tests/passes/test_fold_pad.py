"""Zeros padded before a convolution or a mean become its own padding."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from mbv3c.passes.fold_pad import FoldPad
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, operators, refuses

TOLERANCE = 1e-6  # sums in another order
CONV = """
    g (float[1, 3, 7, 6] x) => (float[1, 4, h, w] y) {
        [pad] p = Pad(x, pads)
        [conv] y = Conv(p, weight)
    }
"""
POOL = CONV.replace("Conv(p, weight)", "AveragePool <kernel_shape = [3, 3]> (p)")


def padded(
    text: str, widths: tuple[int, ...] = (0, 1, 2, 1), opset: int = 17, **more: np.ndarray
) -> onnx.ModelProto:
    """Return a graph that pads top, left, bottom and right of the image by these."""
    top, left, bottom, right = widths
    arrays = {"pads": np.array([0, 0, top, left, 0, 0, bottom, right]), **more}
    if "weight" in text and "weight" not in arrays:
        rng = np.random.default_rng(0)
        arrays["weight"] = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    if "AveragePool" in text:
        text = text.replace("1, 4, h", "1, 3, h")
    return graph(text, opset, **arrays)


def pads(model: onnx.ModelProto) -> list[int]:
    return next(
        helper.get_attribute_value(a) for a in model.graph.node[0].attribute if a.name == "pads"
    )


@settings(max_examples=25, deadline=None)
@given(
    widths=st.tuples(*[st.integers(0, 2)] * 4),
    own=st.tuples(*[st.integers(0, 2)] * 4),
    value=st.sampled_from(["", ", zero"]),
    bias=st.booleans(),
    stride=st.integers(1, 2),
    opset=st.sampled_from([13, 17, 18]),
)
def test_any_zeros_before_a_convolution_fold(
    widths: tuple[int, ...],
    own: tuple[int, ...],
    value: str,
    bias: bool,
    stride: int,
    opset: int,
) -> None:
    text = CONV.replace("Pad(x, pads)", f"Pad(x, pads{value})").replace(
        "Conv(p, weight)",
        f"Conv <pads = {list(own)}, strides = [{stride}, {stride}]> "
        f"(p, weight{', bias' if bias else ''})",
    )
    more = {"zero": np.array(0, np.float32)} if value else {}
    if bias:
        more["bias"] = np.arange(4, dtype=np.float32)
    rewritten, report = fires(FoldPad(), padded(text, widths, opset, **more), TOLERANCE)
    assert operators(rewritten) == ["Conv"]
    assert pads(rewritten) == [a + b for a, b in zip(widths, own, strict=True)]
    assert rewritten.graph.node[0].name == "conv"
    assert len(report.matched) == 1


def test_a_convolution_that_said_valid_says_its_padding_now() -> None:
    text = CONV.replace("Conv(p", 'Conv <auto_pad = "VALID"> (p')
    rewritten, _ = fires(FoldPad(), padded(text), TOLERANCE)
    assert [a.name for a in rewritten.graph.node[0].attribute] == ["pads"]


@pytest.mark.parametrize("own", ["", ", pads = [1, 0, 0, 1], count_include_pad = 1"])
def test_zeros_before_a_mean_fold(own: str) -> None:
    text = POOL.replace("[3, 3]>", f"[3, 3]{own}>")
    rewritten, _ = fires(FoldPad(), padded(text, (0, 1, 1, 1)), TOLERANCE)
    assert operators(rewritten) == ["AveragePool"]


@pytest.mark.parametrize(
    ("attributes", "widths", "reason"),
    [
        (", pads = [1, 1, 1, 1]", (0, 1, 1, 1), "counts the zeros of Pad, but not its own"),
        (", ceil_mode = 1", (0, 1, 1, 1), "rounds its output size up"),
        ("", (0, 3, 0, 0), "as wide as AveragePool's kernel"),
    ],
)
def test_refuses_a_mean_that_would_change(
    attributes: str, widths: tuple[int, ...], reason: str
) -> None:
    text = POOL.replace("[3, 3]>", f"[3, 3]{attributes}>")
    assert reason in refuses(FoldPad(), padded(text, widths))


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_refuses_other_modes(mode: str) -> None:
    text = CONV.replace("Pad(", f'Pad <mode = "{mode}"> (')
    assert refuses(FoldPad(), padded(text)) == f"Pad's mode is {mode}, not constant"


def test_refuses_another_value_than_zero() -> None:
    model = padded(CONV.replace("x, pads", "x, pads, one"), one=np.array(1, np.float32))
    assert refuses(FoldPad(), model) == "Pad's value is not the constant 0"


def test_refuses_widths_that_are_not_constant() -> None:
    model = graph(
        CONV.replace("[pad]", "pads = Neg(given) [pad]"),
        given=np.array([0, 0, -1, 0, 0, 0, 0, 0]),
        weight=np.ones((4, 3, 3, 3), np.float32),
    )
    assert refuses(FoldPad(), model) == "Pad's widths are not a constant"


def test_refuses_a_pad_that_crops() -> None:
    reason = refuses(FoldPad(), padded(CONV, (-1, 0, 0, 0)))
    assert reason == "Pad's widths must not be negative: it crops"


def test_refuses_a_pad_of_the_channels() -> None:
    model = padded(
        CONV,
        pads=np.array([0, 1, 0, 0, 0, 0, 0, 0]),
        weight=np.ones((4, 4, 3, 3), np.float32),
    )
    assert refuses(FoldPad(), model) == "Pad widens the batch or the channels"


def test_refuses_a_convolution_that_pads_by_itself() -> None:
    text = CONV.replace("Conv(p", 'Conv <auto_pad = "SAME_UPPER"> (p')
    reason = refuses(FoldPad(), padded(text))
    assert reason == "Conv chooses its padding by itself (auto_pad)"


def test_refuses_a_shared_pad() -> None:
    text = CONV.replace("w] y)", "w] y, float[1, 3, i, j] z)").replace(
        "[conv]", "[other] z = Neg(p) [conv]"
    )
    assert refuses(FoldPad(), padded(text)) == "intermediate 'p' is also used by 'other'"


def test_refuses_a_pad_that_is_an_output() -> None:
    text = CONV.replace("w] y)", "w] y, float[1, 3, i, j] p)")
    assert refuses(FoldPad(), padded(text)) == "intermediate 'p' is an output of the graph"


def test_ignores_a_pad_before_something_else() -> None:
    text = CONV.replace("Conv(p, weight)", "MaxPool <kernel_shape = [3, 3]> (p)")
    model = padded(text.replace("1, 4, h", "1, 3, h"))
    ignores(FoldPad(), model)
