"""Factors as fixed-point numbers: the int8 of fp32, wherever they are taken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.targets.cpu.schedules.integer.requantization import Requantization, in_fixed_point
from tests.targets.cpu.schedules.integer.kernels import in_places

LOST = 2.0**-15


def both(
    output: Requantization, factors: np.ndarray, scale: np.ndarray, sums: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the integers by fixed-point factors and exact ones, and how far a half is."""
    exact = sums * scale.astype(np.float64)  # 24 bits times at most 29: to the bit
    wanted = np.clip(np.rint(exact) + output.zero, -128, 127)
    return in_places(sums, factors, output), wanted, np.abs(exact - np.floor(exact) - 0.5)


@settings(max_examples=300)
@given(
    zero=st.integers(-128, 127),
    bits=st.integers(1, 28),
    step=st.floats(2.0**-20, 0.9),
    spread=st.sampled_from([1.0, 4.0, 100.0]),
    seed=st.integers(0, 10),
)
def test_as_exact_products(zero: int, bits: int, step: float, spread: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    scale = (step / random.uniform(1.0, spread, 8)).astype(np.float32)
    reach = np.full(8, 2.0**bits)
    output, factors = in_fixed_point(Requantization(zero), reach, scale)
    if not output.shift:
        assert output == Requantization(zero)
        assert factors is scale
        return
    assert factors.dtype == np.int32
    ends = np.array([[-(2**bits)], [2**bits]]).repeat(8, 1)
    most = np.minimum(reach, 300 / scale).astype(np.int64)
    sums = np.concatenate([ends, random.integers(-most, most + 1, (2000, 8))])
    made, wanted, beside = both(output, factors, scale, sums)
    assert (made == wanted)[beside > LOST].all()
    assert np.abs(made - wanted).max() <= 1


@pytest.mark.parametrize("step", [0.5, 0.25, 2.0**-7, 3 * 2.0**-9, 2.0**-12])
def test_where_a_sum_may_be_a_half_fp32_rounds(step: float) -> None:
    scale = np.full(4, step, np.float32)
    assert in_fixed_point(Requantization(0), np.full(4, 5000.0), scale)[0].shift == 0


def test_sums_too_small_for_a_half_take_factors_of_few_bits() -> None:
    """A sum below 2^6 times 3 · 2^-9 is no half, and all sums round right."""
    scale = np.full(4, 3 * 2.0**-9, np.float32)
    output, factors = in_fixed_point(Requantization(-5), np.full(4, 63.0), scale)
    sums = np.arange(-63, 64)[:, None].repeat(4, 1)
    made, wanted, _ = both(output, factors, scale, sums)
    assert output.shift
    np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize(
    ("reach", "scale"),
    [
        (1000.0, -0.0123),
        (1000.0, 0.0),
        (1000.0, np.inf),
        (1000.0, np.nan),
        (1000.0, 1e-42),
        (np.inf, 0.0123),
        (1000.0, 1.5),
        (1e7, 0.0123),
    ],
)
def test_what_does_not_fit_stays_in_fp32(reach: float, scale: float) -> None:
    scales = np.array([0.0123, 0.0123, 0.0123, scale], np.float32)
    output, factors = in_fixed_point(Requantization(0), np.full(4, reach), scales)
    assert output.shift == 0
    assert factors is scales
