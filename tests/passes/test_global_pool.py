"""Every mean over the whole map becomes GlobalAveragePool, and no other mean does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.passes.global_pool import MeanToGlobalPool
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, operators, refuses

TOLERANCE = 1e-6  # sums in another order
MEAN = "g (float[1, 4, 6, 5] x) => (float[1, n, h, w] y) {{ {before} [pool] y = {pool} }}"


def with_pool(pool: str, before: str = "") -> str:
    return MEAN.format(pool=pool, before=before)


@settings(max_examples=25, deadline=None)
@given(
    axes=st.permutations([(2, -2), (3, -1)]),
    negative=st.tuples(st.booleans(), st.booleans()),
    keepdims=st.booleans(),
    opset=st.sampled_from([13, 14, 17, 18]),
    shape=st.sampled_from([(1, 4, 6, 5), (2, 3, 1, 7), (1, 1, 7, 7)]),
)
def test_any_mean_over_height_and_width_fires(
    axes: list[tuple[int, int]],
    negative: tuple[bool, bool],
    keepdims: bool,
    opset: int,
    shape: tuple[int, ...],
) -> None:
    given_axes = [pair[minus] for pair, minus in zip(axes, negative, strict=True)]
    keep = f"keepdims = {int(keepdims)}"
    body = f"y = ReduceMean <axes = {given_axes}, {keep}> (x)"
    if opset >= 18:
        body = f"axes = Constant <value_ints = {given_axes}> () y = ReduceMean <{keep}> (x, axes)"
    result = [*shape[:2], 1, 1] if keepdims else list(shape[:2])
    model = graph(f"g (float{list(shape)} x) => (float{result} y) {{ {body} }}", opset)
    rewritten, _ = fires(MeanToGlobalPool(), model, TOLERANCE)
    wanted = ["GlobalAveragePool"] if keepdims else ["GlobalAveragePool", "Flatten"]
    assert [op for op in operators(rewritten) if op != "Constant"] == wanted


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape = [6, 5]",
        "kernel_shape = [6, 5], strides = [6, 5]",
        "kernel_shape = [6, 5], pads = [0, 0, 0, 0], count_include_pad = 1",
        'kernel_shape = [6, 5], auto_pad = "VALID", ceil_mode = 1',
    ],
)
def test_a_pool_over_the_whole_map_fires(attributes: str) -> None:
    model = graph(with_pool(f"AveragePool <{attributes}> (x)"))
    rewritten, report = fires(MeanToGlobalPool(), model, TOLERANCE)
    assert operators(rewritten) == ["GlobalAveragePool"]
    assert report.matched == ("pool",)


@pytest.mark.parametrize("axes", ["[2]", "[3]", "[1, 2]", "[1, 2, 3]", "[0, 2, 3]", "[0, 2]"])
def test_refuses_a_mean_over_other_axes(axes: str) -> None:
    reason = refuses(MeanToGlobalPool(), graph(with_pool(f"ReduceMean <axes = {axes}> (x)")))
    assert reason == f"ReduceMean must be over axes 2 and 3, got {axes}"


def test_refuses_a_mean_over_all_axes() -> None:
    reason = refuses(MeanToGlobalPool(), graph(with_pool("ReduceMean(x)")))
    assert reason == "ReduceMean must be over axes 2 and 3, got []"


def test_refuses_axes_that_are_not_constant() -> None:
    text = with_pool("ReduceMean(x, axes)", before="axes = Neg(given)")
    reason = refuses(MeanToGlobalPool(), graph(text, 18, given=np.array([-2, -3])))
    assert reason == "ReduceMean's axes are not a constant"


def test_refuses_a_mean_of_five_dimensions() -> None:
    """Axes 2 and 3 of five leave depth: GlobalAveragePool would not."""
    text = with_pool("ReduceMean <axes = [2, 3]> (x)").replace("6, 5]", "6, 5, 3]")
    reason = refuses(MeanToGlobalPool(), graph(text.replace("h, w]", "h, w, d]")))
    assert reason == "ReduceMean's input is not known to be an image of four dimensions"


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("kernel_shape = [5, 5]", "AveragePool's kernel is 5x5, the map 6x5"),
        ("kernel_shape = [6, 5], pads = [1, 0, 0, 0]", "AveragePool pads the map"),
        ('kernel_shape = [6, 5], auto_pad = "SAME_UPPER"', "AveragePool pads the map"),
    ],
)
def test_refuses_a_pool_that_is_not_over_the_whole_map(attributes: str, reason: str) -> None:
    assert (
        refuses(MeanToGlobalPool(), graph(with_pool(f"AveragePool <{attributes}> (x)"))) == reason
    )


@pytest.mark.parametrize("pool", ["GlobalMaxPool(x)", "GlobalAveragePool(x)"])
def test_ignores_other_pools(pool: str) -> None:
    ignores(MeanToGlobalPool(), graph(with_pool(pool)))


def test_means_without_names() -> None:
    """Were both named alike, onnxruntime would not load the graph."""
    model = graph("""
        g (float[1, 4, 6, 6] x) => (float[1, 4] y) {
            a = ReduceMean <axes = [2, 3], keepdims = 0> (x)
            n = Neg(x)
            b = ReduceMean <axes = [2, 3], keepdims = 0> (n)
            y = Mul(a, b)
        }
    """)
    fires(MeanToGlobalPool(), model, TOLERANCE)
