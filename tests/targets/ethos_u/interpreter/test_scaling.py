"""Scales, against the TOSA specification's formula in Python's unlimited integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.targets.ethos_u.interpreter.scaling import DOUBLE, NATURAL, apply_scale


def apply_scale_32(value: int, multiplier: int, shift: int, double_round: bool) -> int:
    rounding = 1 << (shift - 1) if shift else 0
    if double_round and shift > 31:
        rounding += 1 << 30 if value >= 0 else -(1 << 30)
    return (value * multiplier + rounding) >> shift


VALUES = st.lists(st.integers(-(1 << 39), (1 << 39) - 1), min_size=1, max_size=8)
SCALES = st.tuples(st.integers(0, (1 << 32) - 1), st.integers(10, 63))


@pytest.mark.parametrize("rounding", [DOUBLE, NATURAL])
@given(values=VALUES, scale=SCALES)
def test_one_scale(values: list[int], scale: tuple[int, int], rounding: int) -> None:
    actual = apply_scale(np.array(values, np.int64), *scale, rounding)
    assert actual.tolist() == [apply_scale_32(one, *scale, rounding == DOUBLE) for one in values]


@given(values=VALUES, scales=st.lists(SCALES, min_size=8, max_size=8))
def test_a_scale_for_each_channel(values: list[int], scales: list[tuple[int, int]]) -> None:
    used = scales[: len(values)]
    multipliers, shifts = np.array(used, np.int64).T
    actual = apply_scale(np.array([values, values], np.int64), multipliers, shifts, NATURAL)
    expected = [
        apply_scale_32(one, *scale, False) for one, scale in zip(values, used, strict=True)
    ]
    assert actual.tolist() == [expected, expected]


def test_halves_are_rounded_up_and_twice_rounded_ones_away_from_zero() -> None:
    halves = np.array([-3, -1, 1, 3], np.int64)
    assert apply_scale(halves, 1 << 30, 31, NATURAL).tolist() == [-1, 0, 1, 2]
    assert apply_scale(halves, 1 << 31, 32, NATURAL).tolist() == [-1, 0, 1, 2]
    assert apply_scale(halves, 1 << 31, 32, DOUBLE).tolist() == [-2, -1, 1, 2]
