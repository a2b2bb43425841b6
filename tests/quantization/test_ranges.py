"""Ranges: from values, by each method, and from what is known of operators."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from mbv3c.errors import CalibrationError
from mbv3c.quantization.options import QuantizeOptions
from mbv3c.quantization.ranges import Range, known_ranges, observe, seen_bounds
from tests.quantization import quantizing

RELU = "g (float[1, 1000] x) => (float[1, 1000] y) { y = Relu(x) }"


def ranges(model: onnx.ModelProto, *inputs: np.ndarray, **options: object) -> dict[str, Range]:
    return observe(model, lambda: iter(inputs), spread=True).ranges(QuantizeOptions(**options))


def test_minmax_is_the_extremes_of_all_inputs() -> None:
    first, second = quantizing.random(1, 1000), quantizing.random(1, 1000, seed=1)
    first[0, 0], second[0, 0] = -9.0, 8.0
    found = ranges(quantizing.graph(RELU), first, second)
    assert found == {"x": Range(-9.0, 8.0), "y": Range(0.0, 8.0)}


def test_percentile_cuts_both_tails_of_all_inputs() -> None:
    x = np.linspace(-1, 1, 1000, dtype=np.float32)[None]
    found = ranges(quantizing.graph(RELU), x, x, method="percentile", percentile=90.0)
    # 1000 values are 2 / 999 apart, bins 2 / 2048 wide.
    assert found["x"].low == pytest.approx(-0.9, abs=2 / 999 + 2 / 2048)
    assert found["x"].high == pytest.approx(0.9, abs=2 / 999 + 2 / 2048)
    assert found["y"].low == 0.0  # half of the values are there


def test_every_value_is_the_hundredth_percentile() -> None:
    x = quantizing.random(1, 1000)
    found = ranges(quantizing.graph(RELU), x, method="percentile", percentile=100.0)
    assert found["x"].low == pytest.approx(float(x.min()))
    assert found["x"].high == pytest.approx(float(x.max()))


def test_entropy_lets_go_of_outliers_and_of_nothing_else() -> None:
    bell = quantizing.random(100, 1000).reshape(100, 1, 1000)
    outliers = bell.copy()
    outliers[0, 0, 0] = 40.0
    cut = ranges(quantizing.graph(RELU), *outliers, method="entropy")["x"]
    assert 3.0 < cut.high < 20.0
    even = np.linspace(-1, 1, 1000, dtype=np.float32)[None]
    kept = ranges(quantizing.graph(RELU), even, method="entropy")["x"]
    assert (kept.low, kept.high) == pytest.approx((-1.0, 1.0), abs=0.01)


def test_entropy_keeps_values_that_are_all_far_from_0() -> None:
    x = np.linspace(7, 8, 1000, dtype=np.float32)[None]
    found = ranges(quantizing.graph(RELU), x, method="entropy")["y"]
    assert (found.low, found.high) == pytest.approx((7.0, 8.0), abs=0.1)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_a_constant_tensor_has_its_value_as_range(method: str) -> None:
    x = np.zeros((1, 1000), np.float32)
    assert ranges(quantizing.graph(RELU), x, method=method)["y"] == Range(0.0, 0.0)


def test_an_input_that_overflows_is_an_error() -> None:
    model = quantizing.graph("g (float[1] x) => (float[1] z) { y = Exp(x) z = Relu(y) }")
    good, bad = np.ones(1, np.float32), np.full(1, 1e4, np.float32)
    with pytest.raises(CalibrationError, match="batch 1 makes tensor 'y' NaN or infinite"):
        ranges(model, good, bad)


@pytest.mark.parametrize("spread", [False, True])
def test_memory_does_not_grow_with_the_number_of_inputs(spread: bool) -> None:
    model = quantizing.graph(RELU.replace("1000", "100000"))

    def peak(count: int) -> int:
        def read() -> Iterator[np.ndarray]:
            return (quantizing.random(1, 100000, seed=i) for i in range(count))

        tracemalloc.start()
        observe(model, read, spread=spread)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(2)
    # One input has 400 kB; forty of them would be 16 MB.
    assert peak(40) < peak(2) + 400_000


def known(text: str, **seen: tuple[float, float]) -> dict[str, tuple[float, float]]:
    given = {name: Range(*pair) for name, pair in seen.items()}
    found = known_ranges(quantizing.graph(text), given)
    return {name: (one.low, one.high) for name, one in found.items()}


def test_hardswish_has_a_lowest_output_and_a_lowest_input_that_it_sees() -> None:
    text = "g (float[4] x) => (float[4] y) { y = HardSwish(x) }"
    assert known(text, x=(-7.0, 5.0), y=(-0.4, 5.0)) == {"x": (-3.0, 5.0), "y": (-0.375, 5.0)}
    narrow = {"x": (-1.0, 5.0), "y": (-0.3, 5.0)}
    assert known(text, **narrow) == narrow  # never wider


def test_a_second_reader_may_see_more() -> None:
    text = "g (float[4] x) => (float[4] y, float[4] z) { y = HardSwish(x) z = Add(x, x) }"
    assert known(text, x=(-7.0, 5.0), y=(-0.1, 5.0), z=(-14.0, 10.0))["x"] == (-7.0, 5.0)


def test_an_output_of_the_graph_is_seen_as_it_is() -> None:
    text = "g (float[4] x) => (float[4] a, float[4] y) { a = Neg(x) y = HardSwish(a) }"
    assert known(text, x=(-5.0, 7.0), a=(-7.0, 5.0), y=(0.0, 5.0))["a"] == (-7.0, 5.0)


def test_a_gate_is_exactly_0_to_1() -> None:
    text = """g (float[4] x) => (float[4] g)
        { g = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) }"""
    found = known(text, x=(-9.0, 2.0), g=(0.25, 0.75))
    assert found["g"] == (0.0, 1.0)
    assert found["x"] == pytest.approx((-3.0, 2.0))


def test_a_folded_gate_is_exactly_0_to_1_and_another_clip_is_not() -> None:
    text = """g (float[4] x) => (float[4] y) <float low = {0.0}, float high = {LIMIT}>
        { y = Clip(x, low, high) }"""
    assert known(text.replace("LIMIT", "1.0"), x=(-2.0, 9.0), y=(0.1, 0.9))["y"] == (0.0, 1.0)
    six = known(text.replace("LIMIT", "6.0"), x=(-2.0, 9.0), y=(0.5, 5.0))
    assert six == {"x": (0.0, 6.0), "y": (0.5, 5.0)}


def test_means_and_squeeze_and_excite_stay_within_their_input() -> None:
    text = """g (float[1, 2, 2, 2] x, float[1, 2, 1, 1] e) => (float[1, 2, 2, 2] m)
        { p = GlobalAveragePool(x) g = Sigmoid(e) m = Mul(g, x) }"""
    found = known(text, x=(1.0, 5.0), p=(0.0, 6.0), g=(0.5, 0.9), m=(-1.0, 9.0))
    assert found["p"] == (1.0, 5.0)
    assert found["m"] == (0.0, 5.0)


def test_a_product_with_no_gate_may_be_larger_than_both() -> None:
    text = "g (float[4] x, float[4] y) => (float[4] m) { m = Mul(x, y) }"
    assert known(text, x=(0.0, 5.0), y=(0.0, 1.5), m=(0.0, 7.0))["m"] == (0.0, 7.0)


def test_bounds_of_what_is_seen() -> None:
    seen = seen_bounds(quantizing.block())
    assert seen["s"] == (-3.0, np.inf)
    assert seen["e"] == (0.0, 1.0)
    assert seen["a"] == (-np.inf, np.inf)
    assert seen["logits"] == (-np.inf, np.inf)
