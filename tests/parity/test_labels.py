"""Labels, masks and other whole numbers are equal, but for ties."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from mbv3c.feeds import Array, as_feed
from mbv3c.parity.compare import Parity, compare
from mbv3c.parity.labels import decisions_of
from mbv3c.parity.reference import run_reference
from mbv3c.parity.tolerance import TOLERANCES
from tests.onnx_text import graph

SCORES = np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 2.0 - 1e-6], [0.0, -1.0, 5.0]], np.float32)


def judged(text: str, inputs: Sequence[Array], ours: Callable[[Array], Array]) -> Parity:
    """Judge what `ours` makes of the reference's only output."""
    references = list(run_reference(graph(text), [as_feed(list(inputs))]))
    outputs = [[ours(references[0][0].output.copy())]]
    return compare(outputs, references, TOLERANCES["fp32"], ran_on="a test", exact_program=True)


def swapped(places: Mapping[int, float]) -> Callable[[Array], Array]:
    """Return what writes other numbers into an output."""

    def change(y: Array) -> Array:
        for place, number in places.items():
            y.ravel()[place] = number
        return y

    return change


LABELS = [
    ("y = ArgMax <axis = 1, keepdims = 0> (x)", "int64[3] y"),
    ("y = ArgMax <axis = -1> (x)", "int64[3, 1] y"),
    ("n = Neg(x) y = ArgMin <axis = 1> (n)", "int64[3, 1] y"),
    ("l = ArgMax <axis = 1> (x) y = Cast <to = 1> (l)", "float[3, 1] y"),
    ("l = ArgMax <axis = 1> (x) y = Transpose <perm = [1, 0]> (l)", "int64[1, 3] y"),
    ("l = ArgMax <axis = 1, keepdims = 0> (x) y = Gather(places, l)", "int64[3] y"),
]


@pytest.mark.parametrize(("nodes", "output"), LABELS)
@pytest.mark.parametrize(
    ("places", "passed"),
    [({}, True), ({1: 2}, True), ({1: 0}, False), ({0: 1}, False), ({1: 1000}, False)],
)
def test_a_tie_takes_the_second_best_alone(
    nodes: str, output: str, places: dict[int, float], passed: bool
) -> None:
    stored = "<int64[3] places = {0, 1, 2}, float o = {1}>"
    text = f"g (float[3, 3] given) => ({output}) {stored} {{ x = Mul(given, o) {nodes} }}"
    assert judged(text, [SCORES + 2], swapped(places)).passed is passed


@pytest.mark.parametrize(("label", "passed"), [(0, True), (1, True), (2, True), (3, False)])
def test_of_three_near_each_other_each_is_right(label: int, passed: bool) -> None:
    scores = np.array([[1, 1 + 1e-6, 1 - 1e-6, 0.5]], np.float32)
    text = """g (float[1, 4] given) => (int64[1, 1] y) <float o = {1}> {
        x = Mul(given, o) y = ArgMax <axis = 1> (x)
    }"""
    assert judged(text, [scores], swapped({0: label})).passed is passed


def test_each_of_several_labels_has_scores_of_its_own() -> None:
    text = (
        "g (float[4, 3] x, float[4, 3] z) => (int64[8, 1] y) <float far = {1000000}>"
        "{ s = Mul(x, far) r = Exp(z) a = ArgMax <axis = 1> (s) b = ArgMax <axis = 1> (r)"
        " y = Concat <axis = 0> (a, b) }"
    )
    drawn = [np.abs(np.random.default_rng(seed).standard_normal((4, 3))) for seed in (0, 1)]
    inputs = [each.astype(np.float32) for each in drawn]
    assert judged(text, inputs, lambda y: y).passed
    second = np.arange(8)[:, None] >= 4
    assert not judged(text, inputs, lambda y: np.where(second, (y + 1) % 3, y)).passed


@pytest.mark.parametrize(
    ("places", "passed"), [({0: 3}, True), ({1: 1}, True), ({0: 0}, False), ({1: -7}, False)]
)
def test_a_position_may_be_its_neighbours_at_a_tie(places: dict[int, float], passed: bool) -> None:
    text = (
        "g (float[1, 4] given) => (int64[1, 2] y) <int64[1] k = {2}, float o = {1}>"
        "{ x = Mul(given, o) v, y = TopK <axis = 1> (x, k) }"
    )
    x = np.array([[1.0, 5.0, 3.0, 5.0]], np.float32)
    assert judged(text, [x], swapped(places)).passed is passed


WIDE = np.array([0.25, 0.5, 0.75, 0.5 + 1e-7, -1, 1, 2.5, 1.0001], np.float32)


@pytest.mark.parametrize(
    ("nodes", "output", "sure", "unsure"),
    [
        ("y = Greater(x, half)", "bool[8] y", 0, 3),
        ("g = Greater(x, half) y = Not(g)", "bool[8] y", 2, 1),
        ("r = Relu(x) y = Greater(r, zero)", "bool[8] y", 4, None),
        ("r = Relu(x) y = Equal(r, zero)", "bool[8] y", 4, None),
        ("r = Relu(x) y = Cast <to = 9> (r)", "bool[8] y", 4, None),
        ("r = Round(x) y = Cast <to = 6> (r)", "int32[8] y", 0, 1),
        ("r = Relu(x) f = Floor(r) y = Cast <to = 2> (f)", "uint8[8] y", 4, 5),
    ],
)
def test_masks_and_rounded_numbers(nodes: str, output: str, sure: int, unsure: int | None) -> None:
    text = (
        f"g (float[8] given) => ({output}) <float half = {{0.5}}, float zero = {{0}},"
        f" float one = {{1}}> {{ x = Mul(given, one) {nodes} }}"
    )

    def changed(place: int) -> Callable[[Array], Array]:
        def change(y: Array) -> Array:
            old = y[place]
            y[place] = not old if y.dtype == bool else 0 if old == 1 else old + 1
            return y

        return change

    assert judged(text, [WIDE], lambda y: y).passed
    assert not judged(text, [WIDE], changed(sure)).passed
    if unsure is not None:
        assert judged(text, [WIDE], changed(unsure)).passed


@pytest.mark.parametrize(
    "text",
    [
        "g (float[8] x) => (bool[8] y) <float z = {1}> { f = Floor(x) y = Equal(f, z) }",
        "g (int32[8] i) => (bool[8] y) <float z = {1}> { f = Cast <to = 1> (i) y = Equal(f, z) }",
        "g (float[8] x) => (bool[8] y) <float z = {1}> { r = Relu(x) y = Greater(r, z) }",
        "g (int32[8] i) => (int64[1] y) { y = Shape(i) }",
    ],
)
def test_what_is_exact_has_no_ties(text: str) -> None:
    x = WIDE if "float[8] x" in text else np.arange(8, dtype=np.int32)
    assert judged(text, [x], lambda y: y).passed
    assert not judged(text, [x], lambda y: ~y if y.dtype == bool else y + 1).passed


def test_what_follows_a_rounding_may_round_itself() -> None:
    text = (
        "g (float[64] given) => (float[64] y)"
        "<float step = {0.1}, float zero = {0.3}, float o = {1}>"
        "{ x = Mul(given, o) r = Round(x) m = Mul(r, step) y = Add(m, zero) }"
    )
    x = np.linspace(-9, 9, 64).astype(np.float32)
    assert judged(text, [x], lambda y: np.nextafter(y, np.float32(9))).passed
    assert not judged(text, [x], lambda y: y + np.float32(0.09)).passed


def test_a_palette_paints_labels() -> None:
    text = (
        "g (float[1, 3, 2, 2] given) => (float[1, 3, 2, 2] y) <float o = {1}>"
        "{ x = Mul(given, o) l = ArgMax <axis = 1> (x) f = Cast <to = 1> (l) y = Mul(f, colours) }"
    )
    model = graph(text, colours=np.array([3, 5, 7], np.float32).reshape(1, 3, 1, 1))
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 2)).astype(np.float32)
    references = list(run_reference(model, [x]))
    for change, passed in ((0, True), (3, False)):
        ours = [[references[0][0].output + np.float32(change)]]
        parity = compare(ours, references, TOLERANCES["fp32"], ran_on="a test", exact_program=True)
        assert parity.passed is passed


def test_ordinary_floats_are_no_labels() -> None:
    text = (
        "g (float[3] x, uint8[3] i) => (float[3] y, float[3] z, float[3] w)"
        "{ y = Relu(x) z = Cast <to = 1> (y) w = Cast <to = 1> (i) }"
    )
    assert decisions_of(graph(text)) == {}


def test_a_miss_says_which_share_is_wrong() -> None:
    text = "g (float[3, 3] x) => (int64[3] y) { y = ArgMax <axis = 1, keepdims = 0> (x) }"
    parity = judged(text, [SCORES], swapped({0: 1}))
    assert parity.to_json()["labels"] is True
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
