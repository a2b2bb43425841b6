"""Tolerances are data, and the larger of two limits counts."""

import pytest

from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.precision import PRECISIONS


@pytest.mark.parametrize(
    ("spread", "allowed"),
    [(0.0, 1e-5), (1e-6, 1e-5), (2.5e-6, 1e-5), (5e-6, 2e-5), (1e-3, 4e-3)],
)
def test_fp32_allows_the_floor_or_four_times_the_spread(spread: float, allowed: float) -> None:
    assert TOLERANCES["fp32"].allowed(spread) == pytest.approx(allowed, rel=1e-12)


def test_every_precision_of_the_kernels_has_a_tolerance() -> None:
    stages = {"npu", "bits"}  # of the ladder: TOSA, and a command stream
    assert TOLERANCES.keys() == PRECISIONS.keys() | stages
    assert TOLERANCES["fp16"].allowed(1e-6) == 2e-2


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
