"""Intervals against published tables, against what defines them, and against enumeration."""

from itertools import product
from math import comb, isclose, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.accuracy.tally import CONFIDENCE, paired_difference, wilson

Z = 1.959963984540054

totals = st.integers(1, 100_000)
cells = st.integers(0, 5_000)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [  # Newcombe, Statist. Med. 17 (1998), 857-872, Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_newcombes_table(successes: int, total: int, low: float, high: float) -> None:
    found = wilson(successes, total)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@given(totals.flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_ends_where_the_score_test_rejects(pair: tuple[int, int]) -> None:
    """Wilson's limits are the shares p at which |x/n - p| is z standard errors of p itself."""
    successes, total = pair
    found = wilson(successes, total)
    assert 0 <= found.low <= found.share <= found.high <= 1
    for limit in (found.low, found.high):
        if 0 < limit < 1:
            error = sqrt(limit * (1 - limit) / total)
            assert isclose(abs(found.share - limit), Z * error, rel_tol=1e-6, abs_tol=1e-12)


@given(totals.flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_of_failures_is_the_mirror_image(pair: tuple[int, int]) -> None:
    successes, total = pair
    one, other = wilson(successes, total), wilson(total - successes, total)
    assert isclose(one.low, 1 - other.high, abs_tol=1e-12)
    assert isclose(one.high, 1 - other.low, abs_tol=1e-12)


def test_wilson_holds_the_true_share_about_as_often_as_it_says() -> None:
    """Enumerate all outcomes: on the average over true shares 95 % of intervals hold them."""
    total, steps = 30, 199
    intervals = [wilson(successes, total) for successes in range(total + 1)]
    shares = [(step + 1) / (steps + 1) for step in range(steps)]
    covered = sum(
        comb(total, x) * p**x * (1 - p) ** (total - x)
        for p in shares
        for x, one in enumerate(intervals)
        if one.low <= p <= one.high
    )
    assert abs(covered / steps - CONFIDENCE) < 0.01


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Bentur et al., in Fagerland, Lydersen, Laake, Statist. Med. 33 (2014), 2850-2875
        ((1, 1, 7, 12), -0.507, -0.026),
        # Altman et al., Statistics with Confidence (2000), Table 6.2
        ((14, 5, 0, 22), 0.011, 0.226),
    ],
)
def test_paired_difference_is_what_was_published(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    found = paired_difference(*table)
    assert (round(found.low, 3), round(found.high, 3)) == (low, high)


@given(cells, cells, cells, cells)
def test_paired_difference_is_sound(both: int, first: int, second: int, neither: int) -> None:
    if not (total := both + first + second + neither):
        return
    found = paired_difference(both, first, second, neither)
    assert isclose(found.share, (first - second) / total, abs_tol=1e-12)
    assert -1 <= found.low <= found.share <= found.high <= 1
    # Which side is called the first, and what is called a success, must not matter.
    for same in ((both, second, first, neither), (neither, first, second, both)):
        other = paired_difference(*same)
        mirrored = (-other.high, -other.low) if same[0] == both else (other.low, other.high)
        if same[0] == both == neither:
            continue
        assert isclose(found.low, mirrored[0], abs_tol=1e-9)
        assert isclose(found.high, mirrored[1], abs_tol=1e-9)


def test_paired_difference_holds_the_true_one_about_as_often_as_it_says() -> None:
    """Enumerate all tables of 20 images for some true shares of the four cells."""
    total = 20
    truths = [(0.7, 0.05, 0.1, 0.15), (0.4, 0.2, 0.1, 0.3), (0.85, 0.02, 0.03, 0.1)]
    tables = [
        (a, b, c, total - a - b - c)
        for a, b, c in product(range(total + 1), repeat=3)
        if a + b + c <= total
    ]
    intervals = [paired_difference(*table) for table in tables]
    for truth in truths:
        wanted = truth[1] - truth[2]
        covered = sum(
            _multinomial(table, truth)
            for table, one in zip(tables, intervals, strict=True)
            if one.low <= wanted <= one.high
        )
        assert 0.93 < covered <= 1.0


def _multinomial(table: tuple[int, ...], truth: tuple[float, ...]) -> float:
    chance, left = 1.0, sum(table)
    for count, share in zip(table, truth, strict=True):
        chance *= comb(left, count) * share**count
        left -= count
    return chance


def test_pairing_narrows_the_interval() -> None:
    """Two classifiers that mostly agree are told apart better than by their own shares."""
    paired = paired_difference(700, 10, 30, 260)
    alone = wilson(710, 1000)
    assert paired.high - paired.low < (alone.high - alone.low) / 1.5
    assert paired.high < 0
