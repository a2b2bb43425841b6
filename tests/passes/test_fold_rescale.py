"""What rescales the image disappears in the convolution, as far as its padding permits."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.passes.fold_rescale import fold_rescale
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, initializers, operators, refuses

TOLERANCE = 2e-6  # sums of 27 products in another order, and one rounding of each weight
STAYS = "the shift stays: Conv pads with zeros behind it, which are other numbers before it"
KERAS = """
    g (float[1, 3, 8, 8] x) => (float[1, 4, h, w] y) {
        [scale] m = Mul(x, small)
        [shift] s = Add(m, minus)
        [stem] y = Conv(s, w, b)
    }
"""


def rescaled(text: str = KERAS, pads: str = "", **more: np.ndarray) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    arrays = {
        "small": np.array(1 / 127.5),
        "minus": np.array(-1),
        "w": rng.standard_normal((4, 3, 3, 3)),
        "b": rng.standard_normal(4),
    }
    text = text.replace("Conv(", f"Conv <pads = {pads}> (" if pads else "Conv(")
    used = {name: a for name, a in arrays.items() if f"{name})" in text or f"{name}," in text}
    return graph(text, **{name: a.astype(np.float32) for name, a in (used | more).items()})


def test_all_of_it_folds_where_nothing_is_padded() -> None:
    rewritten, report = fires(fold_rescale, rescaled(), TOLERANCE)
    assert operators(rewritten) == ["Conv"]
    assert report.matched == ("stem",)
    assert report.refused == ()


def test_the_shift_stays_before_a_padded_convolution() -> None:
    model = rescaled(pads="[0, 0, 1, 1]")
    rewritten, report = fold_rescale(model)
    assert operators(rewritten) == ["Add", "Conv"]
    assert initializers(rewritten)["stem.shift"].ravel() == pytest.approx([-127.5] * 3)
    assert [(r.node, r.reason) for r in report.refused] == [("shift", STAYS)]
    assert refuses(fold_rescale, rewritten) == STAYS


def test_the_scale_folds_into_a_padded_convolution() -> None:
    model = rescaled(
        KERAS.replace("Add(m, minus)", "Div(m, two)"), "[1, 1, 1, 1]", two=np.array(2)
    )
    rewritten, _ = fires(fold_rescale, model, TOLERANCE)
    assert operators(rewritten) == ["Conv"]


def test_looks_through_the_transpose_of_an_nhwc_image() -> None:
    text = KERAS.replace("[1, 3, 8, 8] x", "[1, 8, 8, 3] x").replace(
        "[stem]", "[nchw] t = Transpose <perm = [0, 3, 1, 2]> (s) [stem]"
    )
    text = text.replace("Conv(s", "Conv(t").replace("minus", "means")
    means = np.array([1, 2, 3])
    rewritten, _ = fires(fold_rescale, rescaled(text, means=means), TOLERANCE)
    assert operators(rewritten) == ["Transpose", "Conv"]
    rewritten, report = fold_rescale(rescaled(text, "[0, 0, 1, 1]", means=means))
    assert operators(rewritten) == ["Transpose", "Add", "Conv"]
    assert [refusal.reason for refusal in report.refused] == [STAYS]


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["Add", "Mul", "Div"]), st.booleans(), st.booleans()),
        min_size=1,
        max_size=3,
    ),
    rank=st.sampled_from([0, 1, 3, 4]),
    group=st.sampled_from([1, 3]),
    bias=st.booleans(),
)
def test_any_line_folds(
    steps: list[tuple[str, bool, bool]], rank: int, group: int, bias: bool
) -> None:
    """Any number of them, from both sides, scalars and channels; into grouped convolutions too."""
    rng = np.random.default_rng(len(steps))
    lines, arrays = [], {}
    for i, (op, swap, scalar) in enumerate(steps):
        count = 1 if scalar or rank < 3 else 3
        shape = (1,) * (rank - 3) + (count, 1, 1) if rank >= 3 else (1,) * rank
        arrays[f"k{i}"] = rng.uniform(0.5, 2, shape).astype(np.float32)
        operands = f"k{i}, t{i}" if swap and op != "Div" else f"t{i}, k{i}"
        lines.append(f"t{i + 1} = {op}({operands})")
    arrays["w"] = rng.standard_normal((6, 3 // group, 3, 3)).astype(np.float32)
    if bias:
        arrays["b"] = rng.standard_normal(6).astype(np.float32)
    model = graph(
        f"""
        g (float[1, 3, 8, 8] t0) => (float[1, 6, h, w] y) {{
            {" ".join(lines)}
            y = Conv <group = {group}> (t{len(steps)}, w{", b" if bias else ""})
        }}
        """,
        **arrays,
    )
    rewritten, _ = fires(fold_rescale, model, TOLERANCE)
    assert operators(rewritten) == ["Conv"]


def test_refuses_a_lone_shift_before_a_padded_convolution() -> None:
    text = KERAS.replace("[scale] m = Mul(x, small)", "").replace("Add(m", "Add(x")
    assert refuses(fold_rescale, rescaled(text, "[1, 1, 1, 1]")) == STAYS


def test_refuses_a_shared_intermediate() -> None:
    text = KERAS.replace("w] y)", "w] y, float[1, 3, 8, 8] z)")
    text = text.replace("[stem]", "[other] z = Neg(s) [stem]")
    reason = refuses(fold_rescale, rescaled(text))
    assert reason == "intermediate 's' is also used by 'other'"


def test_refuses_an_intermediate_that_is_an_output() -> None:
    text = KERAS.replace("w] y)", "w] y, float[1, 3, 8, 8] m)")
    reason = refuses(fold_rescale, rescaled(text))
    assert reason == "intermediate 'm' is an output of the graph"


def test_refuses_a_weight_that_is_not_constant() -> None:
    text = KERAS.replace("[stem]", "v = Neg(w) [stem]").replace("s, w, b", "s, v, b")
    weight = np.ones((4, 3, 3, 3))
    reason = refuses(fold_rescale, rescaled(text, w=weight))
    assert reason == "'v' of Conv is not a constant"


def test_refuses_a_convolution_that_pads_by_itself() -> None:
    text = KERAS.replace("Conv(", 'Conv <auto_pad = "SAME_UPPER"> (')
    assert "auto_pad" in refuses(fold_rescale, rescaled(text))


@pytest.mark.parametrize(
    ("shape", "op"), [((1, 1, 8, 8), "Mul"), ((8,), "Add"), ((3, 8, 8), "Mul"), ((), "Sub")]
)
def test_ignores_other_operands(shape: tuple[int, ...], op: str) -> None:
    text = KERAS.replace("Add(m, minus)", "Neg(m)").replace("Mul(x, small)", f"{op}(x, k)")
    ignores(fold_rescale, rescaled(text.replace("Neg(m)", f"{op}(m, k)"), k=np.ones(shape)))


def test_ignores_a_scale_of_zero() -> None:
    ignores(fold_rescale, rescaled(KERAS.replace("Add(m, minus)", "Mul(m, z)"), z=np.array(0)))
