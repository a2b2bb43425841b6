"""Transposes cancel where they can, and stay where that would only move them."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.passes.sink_transposes import sink_transposes
from tests.onnx_text import graph
from tests.passes.rewriting import error, fires, leaves_alone, operators, ports

TO_NHWC = "Transpose <perm = [0, 2, 3, 1]>"
TO_NCHW = "Transpose <perm = [0, 3, 1, 2]>"
TOLERANCE = 1e-6  # a mean may sum in another order


def island(body: str, opset: int = 17, **arrays: np.ndarray) -> onnx.ModelProto:
    """Return a graph that leaves NCHW (t), computes `z` from it in NHWC, and comes back."""
    return graph(
        f"""
        g (float[1, 4, 3, 5] x) => (float[1, c, h, w] y) {{
            [first] r = Relu(x)
            [leave] t = {TO_NHWC}(r)
            {body}
            [back] b = {TO_NCHW}(z)
            [last] y = Neg(b)
        }}
        """,
        opset,
        **arrays,
    )


def scalars() -> dict[str, np.ndarray]:
    return {name: np.array(n, np.float32) for name, n in (("zero", 0), ("three", 3), ("six", 6))}


def test_a_pair_cancels() -> None:
    model = island("z = Identity(t)")
    rewritten, report = fires(sink_transposes, model, tolerance=0)
    assert operators(rewritten) == ["Relu", "Identity", "Neg"]
    assert "back" in report.matched


def test_a_pair_at_the_output_cancels() -> None:
    model = graph(f"""
        g (float[1, 4, 3, 5] x) => (float[1, 4, 3, 5] y) {{
            r = Relu(x) t = {TO_NHWC}(r) y = {TO_NCHW}(t)
        }}
    """)
    rewritten, _ = fires(sink_transposes, model, tolerance=0)
    assert operators(rewritten) == ["Relu"]


def test_a_pair_between_two_outputs_leaves_an_identity() -> None:
    model = graph(f"""
        g (float[1, 4, 3, 5] x) => (float[1, 4, 3, 5] y, float[1, 4, 3, 5] r) {{
            r = Relu(x) t = {TO_NHWC}(r) y = {TO_NCHW}(t)
        }}
    """)
    rewritten, _ = fires(sink_transposes, model, tolerance=0)
    assert operators(rewritten) == ["Relu", "Identity"]


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("z = Relu(t)", ["Relu"]),
        ("z = HardSwish(t)", ["HardSwish"]),
        ("z = Clip(t, zero, six)", ["Clip"]),
        ("a = Add(t, three) c = Clip(a, zero, six) m = Mul(t, c) z = Div(m, six)", None),
        ("s = Sigmoid(t) z = Mul(t, s)", ["Sigmoid", "Mul"]),
        ("s = HardSigmoid(t) z = Max(s, t)", ["HardSigmoid", "Max"]),
        (f"n = Neg(x) u = {TO_NHWC}(n) z = Add(t, u)", ["Neg", "Add"]),
    ],
)
def test_elementwise_operators_lie_above_afterwards(body: str, kept: list[str] | None) -> None:
    arrays = {n: a for n, a in scalars().items() if n in body}
    rewritten, _ = fires(sink_transposes, island(body, **arrays), TOLERANCE)
    wanted = ["Add", "Clip", "Mul", "Div"] if kept is None else kept
    assert operators(rewritten) == ["Relu", *wanted, "Neg"]


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (5, 1), (1, 3, 5, 4), (1, 1, 1, 4)])
@pytest.mark.parametrize("op", ["Mul(t, k)", "Sub(k, t)"])
def test_constants_are_laid_out_anew(shape: tuple[int, ...], op: str) -> None:
    k = np.arange(1, 1 + np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    rewritten, _ = fires(sink_transposes, island(f"z = {op}", k=k), TOLERANCE)
    assert operators(rewritten) == ["Relu", op[:3], "Neg"]


@pytest.mark.parametrize("axes", [[1, 2], [-2, 1], [1], [3], [1, 2, 3]])
@pytest.mark.parametrize("opset", [17, 18])
def test_means_are_over_other_axes_afterwards(axes: list[int], opset: int) -> None:
    mean = f"z = ReduceMean <axes = {axes}> (t)"
    arrays = {}
    if opset == 18:
        mean, arrays = "z = ReduceMean(t, axes)", {"axes": np.array(axes)}
    rewritten, _ = fires(sink_transposes, island(mean, opset, **arrays), TOLERANCE)
    assert operators(rewritten) == ["Relu", "ReduceMean", "Neg"]


def test_a_mean_that_drops_height_and_width_needs_no_transpose() -> None:
    model = graph(f"""
        g (float[1, 4, 3, 5] x) => (float[1, 4] y) {{
            t = {TO_NHWC}(x)
            y = ReduceMean <axes = [1, 2], keepdims = 0> (t)
        }}
    """)
    rewritten, _ = fires(sink_transposes, model, TOLERANCE)
    assert operators(rewritten) == ["ReduceMean"]


@pytest.mark.parametrize("value", ["", ", three"])
def test_a_pad_is_of_other_axes_afterwards(value: str) -> None:
    arrays = {"pads": np.array([0, 1, 2, 0, 0, 3, 0, 1])}
    if value:
        arrays["three"] = scalars()["three"]
    rewritten, _ = fires(sink_transposes, island(f"z = Pad(t, pads{value})", **arrays), TOLERANCE)
    assert operators(rewritten) == ["Relu", "Pad", "Neg"]


def test_a_gate_of_one_pixel_is_laid_out_for_nothing() -> None:
    """The Transpose that remains moves ones only; merge_reshapes takes it."""
    body = f"""
        p = GlobalAveragePool(r)
        q = {TO_NHWC}(p)
        e = Neg(q)
        z = Mul(t, e)
    """
    rewritten, _ = fires(sink_transposes, island(body), TOLERANCE)
    last = rewritten.graph.node[-2]
    assert last.op_type == "Mul"
    assert {name.startswith("r") for name in last.input} == {True, False}


def test_a_pair_that_does_not_cancel_becomes_one() -> None:
    model = graph(f"""
        g (float[1, 4, 3, 5] x) => (float[1, 5, 4, 3] y) {{
            a = {TO_NHWC}(x)
            y = {TO_NHWC}(a)
        }}
    """)
    rewritten, _ = fires(sink_transposes, model, tolerance=0)
    assert operators(rewritten) == ["Transpose"]


def test_outputs_keep_their_names() -> None:
    model = graph(f"""
        g (float[1, 4, 3, 5] x) => (float[1, 4, 3, 5] y, float[1, 3, 5, 4] t) {{
            t = {TO_NHWC}(x)
            y = {TO_NCHW}(t)
        }}
    """)
    rewritten, _ = sink_transposes(model)
    assert ports(rewritten) == ports(model)
    assert error(model, rewritten) == 0


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.sampled_from(
            ["Relu(a)", "HardSwish(a)", "Mul(a, k)", "Add(k, a)", "Mul(a, t)", "Add(t, a)"]
        ),
        min_size=1,
        max_size=6,
    ),
    returns=st.booleans(),
)
def test_any_island_computes_the_same(steps: list[str], returns: bool) -> None:
    lines = []
    for i, step in enumerate(steps):
        value = f"v{i - 1}" if i else "t"
        lines.append(f"v{i} = {step.replace('(a', f'({value}').replace(', a', f', {value}')}")
    k = np.array([0.5, 1, -1, 2], np.float32)
    if returns:
        body = f"{' '.join(lines)} z = Relu(v{len(steps) - 1})"
        rewritten, _ = fires(sink_transposes, island(body, k=k), TOLERANCE)
        assert "Transpose" not in operators(rewritten)
        return
    model = graph(
        f"""
        g (float[1, 4, 3, 5] x) => (float[1, 3, 5, 4] y) {{
            t = {TO_NHWC}(x) {" ".join(lines)} y = Relu(v{len(steps) - 1})
        }}
        """,
        k=k,
    )
    leaves_alone(sink_transposes, model)


@pytest.mark.parametrize(
    "body",
    [
        "z = Softmax <axis = 2> (t)",  # over an axis that would be another one
        "z = Mul(t, other)",  # no constant, and in NHWC for real
        f"u = {TO_NHWC}(t) z = Mul(t, u)",  # two layouts
        "z = Add(t, wide)",  # more dimensions than the Transpose has
    ],
)
def test_leaves_alone_what_cannot_sink(body: str) -> None:
    arrays = {}
    text = f"""
        g (float[1, 4, 4, 4] x) => (y) {{
            [leave] t = {TO_NHWC}(x)
            other = Neg(x)
            {body}
            [back] y = {TO_NCHW}(z)
        }}
    """
    if "wide" in body:
        arrays["wide"] = np.ones((1, 1, 1, 1, 4), np.float32)
        text = text.replace(f"y = {TO_NCHW}(z)", "y = Relu(z)")
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    rewritten, _ = sink_transposes(model)
    assert operators(rewritten).count("Transpose") == operators(model).count("Transpose")


def test_leaves_a_graph_alone_whose_input_is_nhwc() -> None:
    model = graph(
        f"""
        g (float[1, 8, 8, 3] x) => (float[1, 4, 6, 6] y) {{
            t = {TO_NCHW}(x)
            y = Conv(t, w)
        }}
        """,
        w=np.ones((4, 3, 3, 3), np.float32),
    )
    leaves_alone(sink_transposes, model)
