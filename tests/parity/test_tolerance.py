"""Tolerances are data, and the larger of two limits counts."""

import pytest

from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.precision import PRECISIONS


@pytest.mark.parametrize(
    ("spread", "allowed"),
    [(0.0, 1e-5), (1e-6, 1e-5), (2.5e-6, 1e-5), (5e-6, 2e-5), (2e-5, 8e-5), (1e-3, 1e-4)],
)
def test_fp32_allows_the_floor_or_four_times_the_spread(spread: float, allowed: float) -> None:
    assert TOLERANCES["fp32"].allowed(spread) == pytest.approx(allowed, rel=1e-12)


def test_every_precision_of_the_kernels_has_a_tolerance() -> None:
    stages = {"npu", "bits"}  # of the ladder: TOSA, and a command stream
    assert TOLERANCES.keys() == PRECISIONS.keys() | stages
    assert TOLERANCES["fp16"].allowed(1e-6) == TOLERANCES["fp16"].allowed(0.1) == 2e-2


def test_what_the_spread_cannot_allow_is_in_doubt() -> None:
    fp32 = TOLERANCES["fp32"]
    doubted = [fp32.doubts(spread) for spread in (0.0, 2.4e-5, 2.6e-5, 1.0, float("inf"))]
    assert doubted == [False, False, True, True, False]
    # What a model computes in fp16 by itself is held to fp16's rounding, or to twice as much.
    assert [fp32.allowed(s, rounding=2e-2) for s in (1e-4, 8e-3, 1.0)] == [2e-2, 3.2e-2, 4e-2]
    assert not fp32.doubts(4e-3, rounding=2e-2)
    assert not TOLERANCES["int8"].doubts(1.0)


def test_every_tolerance_has_a_reason() -> None:
    assert all(tolerance.reason for tolerance in TOLERANCES.values())


@pytest.mark.parametrize(
    ("spread", "step", "allowed"),
    [(0.0, 0.01, 0.02), (0.02, 0.01, 0.04), (0.0, None, 1e-5), (float("nan"), 0.01, 0.02)],
)
def test_int8_allows_two_steps_or_twice_the_spread(
    spread: float, step: float | None, allowed: float
) -> None:
    assert TOLERANCES["int8"].allowed(spread, step) == pytest.approx(allowed, rel=1e-12)
