"""Labels, masks and other whole numbers are equal, but for ties."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from mbv3c.feeds import Array
from mbv3c.parity.compare import compare
from mbv3c.parity.labels import decisions_of
from mbv3c.parity.reference import ReferenceOutput, run_reference
from mbv3c.parity.tolerance import TOLERANCES
from tests.onnx_text import graph

SCORES = np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 2.0 - 1e-6], [0.0, -1.0, 5.0]], np.float32)


def reference(model: onnx.ModelProto, x: Array) -> ReferenceOutput:
    ((output,),) = run_reference(model, [x])
    return output


def margins(text: str, x: Array) -> list[float]:
    output = reference(graph(text), x)
    assert output.margins is not None
    return [float(margin) for margin in output.margins.ravel()]


RANGE = 6.0  # of SCORES


@pytest.mark.parametrize(
    ("nodes", "output"),
    [
        ("y = ArgMax <axis = 1, keepdims = 0> (x)", "int64[3] y"),
        ("y = ArgMax <axis = -1> (x)", "int64[3, 1] y"),
        ("n = Neg(x) y = ArgMin <axis = 1> (n)", "int64[3, 1] y"),
        ("l = ArgMax <axis = 1> (x) y = Cast <to = 1> (l)", "float[3, 1] y"),
        ("l = ArgMax <axis = 1> (x) y = Transpose <perm = [1, 0]> (l)", "int64[1, 3] y"),
        ("l = ArgMax <axis = 1> (x) f = Cast <to = 1> (l) y = Mul(f, k)", "float[3, 1] y"),
    ],
)
def test_the_margin_of_a_class_is_that_to_the_second(nodes: str, output: str) -> None:
    text = f"g (float[3, 3] x) => ({output}) <float k = {{255}}> {{ {nodes} }}"
    assert margins(text, SCORES) == pytest.approx([1 / RANGE, 1e-6 / RANGE, 5 / RANGE], rel=0.1)


def test_the_margin_of_a_position_is_the_gap_to_its_neighbours() -> None:
    text = (
        "g (float[1, 4] x) => (int64[1, 2] y) <int64[1] k = {2}>{ v, y = TopK <axis = 1> (x, k) }"
    )
    x = np.array([[1.0, 5.0, 4.5, 3.0]], np.float32)
    assert margins(text, x) == pytest.approx([0.5 / 4, 0.5 / 4])


@pytest.mark.parametrize(
    ("nodes", "output", "expected"),
    [
        ("y = Greater(x, k)", "bool[3] y", [0.25, 0.05, 0.0]),
        ("g = Greater(x, k) y = Not(g)", "bool[3] y", [0.25, 0.05, 0.0]),
        ("y = Cast <to = 9> (x)", "bool[3] y", [0.25, 0.55, 0.5]),
        ("m = Mul(x, ten) y = Cast <to = 6> (m)", "int32[3] y", [0.5, 0.5, 0.0]),
        ("m = Mul(x, ten) r = Round(m) y = Cast <to = 2> (r)", "uint8[3] y", [0.0, 0.0, 0.5]),
        ("m = Mul(x, ten) y = Floor(m)", "float[3] y", [0.5, 0.5, 0.0]),
    ],
)
def test_the_margin_of_a_comparison_and_of_rounding(
    nodes: str, output: str, expected: Sequence[float]
) -> None:
    x = np.array([0.25, 0.55, 0.5], np.float32)
    text = f"g (float[3] x) => ({output}) <float k = {{0.5}}, float ten = {{10}}> {{ {nodes} }}"
    scale = 3.0 if "Mul" in nodes else 0.3  # the range of what decides
    assert margins(text, x) == pytest.approx(np.array(expected) / scale, abs=1e-5)


def test_ordinary_floats_have_no_margins() -> None:
    text = "g (float[3] x) => (float[3] y, float[3] z) { y = Relu(x) z = Cast <to = 1> (y) }"
    assert decisions_of(graph(text)) == {}


def test_whole_numbers_of_unknown_origin_must_be_equal() -> None:
    text = "g (float[3] x) => (int64[1] y) { y = Shape(x) }"
    assert margins(text, np.zeros(3, np.float32)) == [np.inf]


@pytest.mark.parametrize(
    ("labels", "passed"),
    [
        ([0, 1, 2], True),
        ([0, 2, 2], True),  # a tie
        ([0, 0, 2], True),  # margins do not say which the other one is
        ([1, 1, 2], False),
        ([0, 1, 0], False),
    ],
)
def test_only_labels_at_ties_may_differ(labels: list[int], passed: bool) -> None:
    model = graph("g (float[3, 3] x) => (int64[3] y) { y = ArgMax <axis = 1, keepdims = 0> (x) }")
    references = list(run_reference(model, [SCORES]))
    parity = compare(
        [[np.array(labels)]], references, TOLERANCES["fp32"], ran_on="a test", exact_program=True
    )
    assert parity.passed is passed
    assert parity.to_json()["labels"] is True
    if not passed:
        assert parity.worst.max_error_of_range == pytest.approx(1 / 3)
        assert "of labels in y" in parity.lines()[0]


def test_labels_of_another_type_are_wrong() -> None:
    model = graph("g (float[3, 3] x) => (int64[3] y) { y = ArgMax <axis = 1, keepdims = 0> (x) }")
    references = list(run_reference(model, [SCORES]))
    parity = compare(
        [[np.array([0, 1, 2], np.int32)]],
        references,
        TOLERANCES["fp32"],
        ran_on="a test",
        exact_program=True,
    )
    assert not parity.passed
