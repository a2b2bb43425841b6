"""What scales or shifts the channels of a convolution disappears in it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.passes.fold_affine import FoldAffine
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, initializers, operators, refuses

TOLERANCE = 1e-5  # as for folding BatchNormalization
AFFINE = """
    g (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) {
        ["block.conv"] c = Conv(x, weight)
        ["block.mul"] m = Mul(c, scale)
        ["block.add"] y = Add(m, shift)
    }
"""
ONLY_SHIFT = """
    g (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) {
        ["block.conv"] c = Conv(x, weight)
        ["block.add"] y = Add(c, shift)
    }
"""


def parameters(*shape: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "scale": rng.uniform(-2, 2, shape or (1, 4, 1, 1)).astype(np.float32),
        "shift": rng.standard_normal(shape or (1, 4, 1, 1)).astype(np.float32),
    }


def only_shift(*shape: int) -> dict[str, np.ndarray]:
    arrays = parameters(*shape)
    del arrays["scale"]
    return arrays


@settings(max_examples=20, deadline=None)
@given(
    bias=st.booleans(),
    shape=st.sampled_from([(4, 1, 1), (1, 4, 1, 1), (1,), (1, 1, 1, 1)]),
    swap=st.tuples(st.booleans(), st.booleans()),
    divided=st.booleans(),
)
def test_any_affine_step_folds(
    bias: bool, shape: tuple[int, ...], swap: tuple[bool, bool], divided: bool
) -> None:
    text, arrays = AFFINE, parameters(*shape)
    if bias:
        text = text.replace("Conv(x, weight)", "Conv(x, weight, bias)")
        arrays["bias"] = np.arange(4, dtype=np.float32)
    if divided:
        text = text.replace("Mul(c, scale)", "Div(c, scale)")
    if swap[0]:
        text = text.replace("Mul(c, scale)", "Mul(scale, c)")
    if swap[1]:
        text = text.replace("Add(m, shift)", "Add(shift, m)")
    rewritten, report = fires(FoldAffine(), graph(text, **arrays), TOLERANCE)
    assert operators(rewritten) == ["Conv"]
    assert rewritten.graph.node[0].name == "block.conv"
    assert len(report.matched) == 2
    stored = initializers(rewritten)
    assert [stored[name].shape for name in rewritten.graph.node[0].input[1:]] == [
        (4, 3, 3, 3),
        (4,),
    ]


def test_a_scale_alone_adds_no_bias() -> None:
    text = AFFINE.replace('["block.add"] y = Add(m, shift)', "y = Neg(m)")
    arrays = parameters()
    del arrays["shift"]
    rewritten, _ = fires(FoldAffine(), graph(text, **arrays), TOLERANCE)
    assert operators(rewritten) == ["Conv", "Neg"]
    assert len(rewritten.graph.node[0].input) == 2


def test_a_shift_becomes_the_bias() -> None:
    rewritten, _ = fires(FoldAffine(), graph(ONLY_SHIFT, **only_shift()), TOLERANCE)
    assert list(rewritten.graph.node[0].input) == ["x", "weight", "shift"]


@pytest.mark.parametrize("shape", [(6,), (1, 1, 6, 6), (1, 4, 6, 6), (4, 6, 1)])
def test_refuses_what_is_not_one_number_per_channel(shape: tuple[int, ...]) -> None:
    reason = refuses(FoldAffine(), graph(ONLY_SHIFT, **only_shift(*shape)))
    assert reason == (
        f"the shift is {list(shape)}, neither one number nor one per channel, [4, 1, 1]"
    )


def test_refuses_a_shared_convolution() -> None:
    text = ONLY_SHIFT.replace("6] y)", "6] y, float[1, 4, 6, 6] z)")
    text = text.replace('["block.add"]', '[other] z = Neg(c) ["block.add"]')
    reason = refuses(FoldAffine(), graph(text, **only_shift()))
    assert reason == "intermediate 'c' is also used by 'other'"


def test_refuses_an_intermediate_that_is_an_output() -> None:
    text = ONLY_SHIFT.replace("6] y)", "6] y, float[1, 4, 6, 6] c)")
    reason = refuses(FoldAffine(), graph(text, **only_shift()))
    assert reason == "intermediate 'c' is an output of the graph"


def test_ignores_a_residual() -> None:
    arrays = only_shift(1, 4, 6, 6)
    arrays["stored"] = arrays.pop("shift")
    text = ONLY_SHIFT.replace('["block.add"]', 'shift = Neg(stored) ["block.add"]')
    ignores(FoldAffine(), graph(text, **arrays))


def test_refuses_to_divide_by_zero() -> None:
    arrays = parameters()
    arrays["scale"][0, 1] = 0
    text = AFFINE.replace("Mul(c, scale)", "Div(c, scale)")
    assert "the divisor is 0 for a channel" in str(FoldAffine()(graph(text, **arrays))[1].refused)
