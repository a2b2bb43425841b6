"""Every figure against a hand-computed case, and against another formulation of it."""

import json
import math
import statistics
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mbv3c.parity.metrics import QUANTILES, NotFinite, errors, measure, quantile, top_agreement
from mbv3c.parity.reference import error_of_range

FINE = NotFinite(0, None, 0, None)

# Small enough for sums of squares to stay exact to the last few bits in either formulation.
numbers = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


@st.composite
def outputs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=4, max_side=6))
    one = arrays.arrays(np.float32, shape, elements=numbers)
    return draw(one), draw(one)


def test_a_case_by_hand() -> None:
    reference = np.array([[1.0, -2.0], [4.0, 0.0]])
    found = measure(np.array([[1.5, -2.0], [3.0, 0.0]]), reference)
    assert (found.values, found.compared) == (4, 4)
    assert found.max_abs == 1.0
    assert found.max_abs_at == (1, 0)
    assert found.mean_abs == pytest.approx(1.5 / 4)
    assert found.max_rel == 0.5
    assert found.max_rel_at == (0, 0)
    assert found.mean_rel == pytest.approx((0.5 + 0.25) / 4)
    assert found.max_of_range == pytest.approx(1 / 6)
    assert found.cosine == pytest.approx((1.5 + 4 + 12) / math.sqrt((2.25 + 4 + 9) * (1 + 4 + 16)))
    assert found.psnr_db == pytest.approx(20 * math.log10(6 / math.sqrt(1.25 / 4)))
    assert found.snr_db == pytest.approx(10 * math.log10(21 / 1.25))
    # Errors 0, 0, 0.5, 1: the median lies half-way, 90 % at 0.5 + 0.7 * 0.5.
    assert found.quantiles == {
        "50": 0.25,
        "90": pytest.approx(0.85),
        "99": pytest.approx(0.985),
        "99.9": pytest.approx(0.9985),
    }
    assert found.top1 is found.top5 is None
    assert found.ours == found.reference == FINE


@given(outputs())
def test_against_plain_python(pair: tuple[np.ndarray, np.ndarray]) -> None:
    y, reference = pair
    found = measure(y, reference)
    a, b = [float(v) for v in y.flat], [float(v) for v in reference.flat]
    error = [abs(p - q) for p, q in zip(a, b, strict=True)]
    relative = [
        0.0 if e == 0 else e / abs(q) if q else math.inf for e, q in zip(error, b, strict=True)
    ]
    assert found.max_abs == max(error)
    assert found.mean_abs == pytest.approx(statistics.fmean(error))
    assert found.max_rel == pytest.approx(max(relative))
    assert found.mean_rel == pytest.approx(sum(relative) / len(relative))
    # The first place where it is so large, counting in the order of memory.
    assert found.max_abs_at == list(product(*map(range, y.shape)))[error.index(max(error))]
    noise, signal = math.fsum(e * e for e in error), math.fsum(q * q for q in b)
    if noise == 0:
        assert found.psnr_db == found.snr_db == math.inf
    elif signal > 0:
        assert found.snr_db == pytest.approx(10 * math.log10(signal / noise), abs=1e-6)
        norms = math.hypot(*a) * math.hypot(*b)
        dot = math.fsum(p * q for p, q in zip(a, b, strict=True))
        assert found.cosine == pytest.approx(dot / norms if norms else 0.0, abs=1e-9)
    if noise > 0 and max(b) > min(b):
        wanted = 20 * math.log10((max(b) - min(b)) / math.sqrt(noise / len(b)))
        assert found.psnr_db == pytest.approx(wanted, abs=1e-6)


@given(outputs())
def test_the_error_of_range_is_that_of_the_verdict(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert measure(*pair).max_of_range == error_of_range(*pair)


@given(st.lists(numbers, min_size=1, max_size=60), st.floats(0, 100))
def test_quantiles_by_sorting(values: list[float], percent: float) -> None:
    ordered = sorted(values)
    at = percent / 100 * (len(ordered) - 1)
    low, high = ordered[math.floor(at)], ordered[math.ceil(at)]
    wanted = low + (at - math.floor(at)) * (high - low)
    assert quantile(np.array(values), percent) == pytest.approx(wanted, rel=1e-9, abs=1e-6)


@given(
    arrays.arrays(np.float32, (3, 7), elements=st.integers(0, 4)),
    arrays.arrays(np.float32, (3, 7), elements=st.integers(0, 4)),
    st.integers(1, 9),
)
def test_top_k_by_sets(y: np.ndarray, reference: np.ndarray, k: int) -> None:
    """Few different scores make many ties, of which the first class comes first."""

    def first(row: np.ndarray) -> set[int]:
        return set(sorted(range(7), key=lambda c: (-row[c], c))[:k])

    shares = [len(first(a) & first(b)) / min(k, 7) for a, b in zip(y, reference, strict=True)]
    assert top_agreement(y, reference, 1, k) == pytest.approx(sum(shares) / 3)
    moved = top_agreement(np.moveaxis(y, 1, 0), np.moveaxis(reference, 1, 0), 0, k)
    assert moved == pytest.approx(sum(shares) / 3)


def test_the_class_axis_gives_top_1_and_top_5() -> None:
    reference = np.array([[6.0, 5, 4, 3, 2, 1, 0], [6.0, 5, 4, 3, 2, 1, 0]])
    y = reference.copy()
    y[1] = [5.0, 6, 4, 3, 1, 2, 0]  # another first, and the fifth is out
    found = measure(y, reference, 1)
    assert (found.top1, found.top5) == (0.5, pytest.approx(9 / 10))


def test_what_is_no_number_is_counted_on_its_side_and_left_out() -> None:
    reference = np.array([[1.0, 2.0, np.inf], [4.0, np.nan, 6.0]], np.float32)
    y = np.array([[1.0, np.nan, -np.inf], [np.inf, np.nan, 8.0]], np.float32)
    found = measure(y, reference)
    assert found.ours == NotFinite(2, (0, 1), 2, (0, 2))
    assert found.reference == NotFinite(1, (1, 1), 1, (0, 2))
    assert (found.values, found.compared, found.complete) == (6, 2, False)
    assert (found.max_abs, found.max_abs_at) == (2.0, (1, 2))
    assert found.max_of_range == 2 / 5
    assert errors(y, reference).tolist() == [0, 2]


def test_a_row_with_nan_agrees_on_nothing() -> None:
    reference = np.array([[1.0, 2.0], [1.0, 2.0]])
    y = np.array([[1.0, 2.0], [np.nan, 2.0]])
    assert measure(y, reference, 1).top1 == 0.5
    assert measure(reference, y, 1).top1 == 0.5


def test_nothing_finite() -> None:
    found = measure(np.full((1, 3), np.nan), np.ones((1, 3)), 1)
    assert (found.compared, found.max_abs, found.cosine, found.psnr_db) == (0, None, None, None)
    assert set(found.quantiles.values()) == {None}
    assert (found.top1, found.top5) == (0.0, 0.0)
    assert not found.complete


def test_another_shape() -> None:
    found = measure(np.ones((1, 4)), np.ones((1, 3)), 1)
    assert (found.values, found.compared, found.max_abs) == (3, 0, None)
    assert (found.top1, found.top5) == (0.0, 0.0)
    assert errors(np.ones(4), np.ones(3)).size == 0


@pytest.mark.parametrize("shape", [(0,), (1, 0, 4), (0, 5)])
def test_empty(shape: tuple[int, ...]) -> None:
    found = measure(np.empty(shape), np.empty(shape), 0)
    assert (found.values, found.compared, found.max_abs, found.top1) == (0, 0, None, None)
    assert found.complete


def test_a_scalar_has_an_index_too() -> None:
    found = measure(np.float32(3.0), np.float32(2.0))
    assert (found.max_abs, found.max_abs_at, found.max_rel) == (1.0, (), 0.5)


def test_constants() -> None:
    same = measure(np.full(4, 2.0), np.full(4, 2.0))
    assert (same.max_of_range, same.cosine, same.psnr_db) == (0.0, pytest.approx(1), math.inf)
    off = measure(np.full(4, 3.0), np.full(4, 2.0))
    assert (off.max_of_range, off.psnr_db) == (math.inf, -math.inf)
    assert off.snr_db == pytest.approx(10 * math.log10(4))
    zeros = measure(np.zeros(4), np.zeros(4))
    assert (zeros.cosine, zeros.max_rel, zeros.snr_db) == (1.0, 0.0, math.inf)
    against_zeros = measure(np.ones(4), np.zeros(4))
    assert (against_zeros.cosine, against_zeros.max_rel) == (0.0, math.inf)
    assert against_zeros.snr_db == -math.inf


def test_float64_where_fp32_would_overflow_or_round() -> None:
    huge = np.array([3e38, -3e38], np.float32)
    found = measure(-huge, huge)
    assert found.max_abs == pytest.approx(6e38, rel=1e-6)
    assert found.cosine == pytest.approx(-1)
    assert found.snr_db == pytest.approx(10 * math.log10(1 / 4))
    fine = np.array([1.0, 1 + 2**-23], np.float32)
    assert measure(fine[::-1], fine).max_abs == 2**-23


def test_json_is_strict() -> None:
    reference = np.array([[1.0, 0.0, np.inf]])
    document = measure(np.array([[1.0, 1.0, np.nan]]), reference, 1).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["max_rel"] is None
    assert document["max_abs_at"] == [0, 1]
    assert document["ours"] == {"nan": 1, "nan_at": [0, 2], "inf": 0, "inf_at": None}
    assert list(document["quantiles"]) == [f"{q:g}" for q in QUANTILES]
