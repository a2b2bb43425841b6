"""A chain of shape changes becomes one, or none; what moves data is none of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.passes.merge_reshapes import merge_reshapes
from tests.onnx_text import graph
from tests.passes.rewriting import fires, initializers, leaves_alone, operators


def one(body: str, start: str = "1, 4, 1, 1", end: str = "1, 4", **arrays: list[int]) -> tuple:
    """Return arguments for a graph of these nodes, from x to y."""
    text = f"g (float[{start}] x) => (float[{end}] y) {{ {body} }}"
    return text, {name: np.array(array) for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("body", "arrays"),
    [
        ("y = Reshape(x, s)", {"s": [1, -1]}),
        ("y = Reshape(x, s)", {"s": [0, 4]}),
        ("y = Squeeze(x, s)", {"s": [2, 3]}),
        ("y = Squeeze(x, s)", {"s": [-1, -2]}),
        ("t = Transpose <perm = [0, 2, 3, 1]> (x) y = Reshape(t, s)", {"s": [1, 4]}),
        ("a = Squeeze(x, s) y = Squeeze(a, t)", {"s": [3], "t": [2]}),
        ("a = Squeeze(x, s) b = Unsqueeze(a, s) y = Flatten(b)", {"s": [2, 3]}),
    ],
)
def test_a_pixel_flattened_becomes_flatten(body: str, arrays: dict[str, list[int]]) -> None:
    text, stored = one(body, **arrays)
    rewritten, _ = fires(merge_reshapes, graph(text, **stored), tolerance=0)
    assert operators(rewritten) == ["Flatten"]


def test_a_pixel_flattened_and_raised_again_is_nothing() -> None:
    text, stored = one(
        "a = Relu(x) [flat] b = Flatten(a) [raise] c = Unsqueeze(b, s) y = Neg(c)",
        end="1, 4, 1, 1",
        s=[2, 3],
    )
    rewritten, report = fires(merge_reshapes, graph(text, **stored), tolerance=0)
    assert operators(rewritten) == ["Relu", "Neg"]
    assert report.matched == ("raise",)


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(
        st.sampled_from([(2, 6), (12,), (2, 6, 1, 1), (2, 1, 1, 6), (2, 3, 2), (1, 2, 2, 3)]),
        min_size=1,
        max_size=5,
    )
)
def test_any_chain_is_its_two_ends(shapes: list[tuple[int, ...]]) -> None:
    names = ["x0", *(f"t{i}" for i in range(1, len(shapes))), "t"]
    lines = [f"{names[i + 1]} = Reshape({names[i]}, s{i})" for i in range(len(shapes))]
    arrays = {f"s{i}": np.array(shape) for i, shape in enumerate(shapes)}
    size = ", ".join(map(str, shapes[-1]))
    model = graph(
        f"g (float[2, 6, 1, 1] x) => (float[{size}] y) "
        f"{{ x0 = Relu(x) {' '.join(lines)} y = Neg(t) }}",
        **arrays,
    )
    rewritten, report = merge_reshapes(model)
    assert len(rewritten.graph.node) <= 3
    if report.changed:
        rewritten, _ = fires(merge_reshapes, model, tolerance=0)
        middle = operators(rewritten)[1:-1]
        flat = len(shapes[-1]) == 2 and shapes[-1] == (2, math.prod(shapes[-1][1:]))
        assert middle == ([] if shapes[-1] == (2, 6, 1, 1) else ["Flatten" if flat else "Reshape"])


def test_what_is_used_in_the_middle_stays() -> None:
    text, stored = one("a = Flatten(x) z = Neg(a) y = Reshape(a, s)", end="4", s=[4])
    text = text.replace("(float[4] y)", "(float[4] y, float[1, 4] z)")
    rewritten, _ = fires(merge_reshapes, graph(text, **stored), tolerance=0)
    assert sorted(operators(rewritten)) == ["Flatten", "Neg", "Reshape"]
    assert [n.input[0] for n in rewritten.graph.node if n.op_type == "Reshape"] == ["x"]


def test_a_batch_of_images_is_flattened_too() -> None:
    text, stored = one("y = Reshape(x, s)", start="2, 3, 4, 4", end="2, 48", s=[2, 48])
    rewritten, _ = fires(merge_reshapes, graph(text, **stored), tolerance=0)
    assert operators(rewritten) == ["Flatten"]


def test_the_new_shape_takes_no_name_that_is_in_use() -> None:
    text, stored = one('["r"] y = Unsqueeze(x, "r.shape")', start="4", end="4, 1")
    rewritten, _ = fires(merge_reshapes, graph(text, **{"r.shape": np.array([1])}), tolerance=0)
    assert stored == {}
    assert initializers(rewritten)["r.shape.1"].tolist() == [4, 1]


@pytest.mark.parametrize(
    ("body", "start", "end"),
    [
        ("y = Transpose <perm = [0, 2, 3, 1]> (x)", "1, 4, 3, 3", "1, 3, 3, 4"),
        ("y = Transpose(x)", "3, 4", "4, 3"),
        ("y = Flatten(x)", "1, 4, 1, 1", "1, 4"),
        ("y = Flatten <axis = -3> (x)", "1, 4, 1, 1", "1, 4"),
        ("y = Flatten(x)", "1, 4, 3, 3", "1, 36"),
    ],
)
def test_leaves_alone_what_moves_data_or_is_right_already(body: str, start: str, end: str) -> None:
    leaves_alone(merge_reshapes, graph(one(body, start, end)[0]))


def test_leaves_a_reshape_with_an_unknown_size_alone() -> None:
    text = "g (float[n, 4, 1, 1] x) => (float[n, 4] y) { y = Reshape(x, s) }"
    leaves_alone(merge_reshapes, graph(text, s=np.array([-1, 4])))


def test_leaves_a_reshape_alone_that_connects_an_input_with_an_output() -> None:
    model = graph("g (float[1, 4] x) => (float[1, 4] y) { y = Reshape(x, s) }", s=np.array([1, 4]))
    leaves_alone(merge_reshapes, model)
