"""Medians and ratios of made-up times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.execution.timing.latency import Ratio, ratio, times

BLOCKS = st.lists(st.lists(st.floats(0.1, 100), min_size=1, max_size=5), min_size=1, max_size=8)


def test_times_are_those_of_all_runs() -> None:
    assert times([[1.0, 9.0], [2.0, 3.0, 4.0]]).median_ms == 3.0
    assert times([[1.0, 9.0], [2.0, 3.0, 4.0]]).min_ms == 1.0


def test_ratio_is_that_of_neighbouring_blocks() -> None:
    """The machine is three times slower in the second half; the ratio does not see it."""
    ours = [[1.0, 1.0], [1.0, 5.0, 1.0], [3.0], [3.0]]
    theirs = [[2.0], [2.0], [6.0], [6.0, 6.0]]
    assert ratio(ours, theirs) == Ratio(0.5, (0.5, 0.5))


def test_spread_is_the_quartiles() -> None:
    found = ratio([[1.0], [2.0], [3.0], [4.0], [5.0]], [[1.0]] * 5)
    assert found == Ratio(3.0, (2.0, 4.0))
    assert not found.steady
    assert Ratio(1.0, (0.96, 1.05)).steady


def test_one_block_has_no_spread() -> None:
    assert ratio([[1.0, 2.0, 3.0]], [[4.0]]) == Ratio(0.5, (0.5, 0.5))


def test_sides_must_have_the_same_blocks() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio([[1.0]], [[1.0], [2.0]])


@given(BLOCKS)
def test_a_side_is_as_fast_as_itself(blocks: list[list[float]]) -> None:
    assert ratio(blocks, blocks) == Ratio(1.0, (1.0, 1.0))
