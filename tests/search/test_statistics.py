"""Paired comparisons and noise, by cases that are worked out by hand."""

from math import sqrt

import numpy as np
import pytest

from mbv3c.search.statistics import (
    SeedNoise,
    contrast,
    mcnemar,
    mean_accuracy,
    rank_correlation,
    seed_noise,
    t_quantile,
)


def right(text: str) -> np.ndarray:
    return np.array([one == "1" for one in text])


def test_only_examples_that_tell_two_networks_apart_count() -> None:
    found = mcnemar(right("1111110000"), right("1000000001"))
    assert (found.only_first, found.only_second) == (5, 1)
    # Of six throws at most one on the rarer side: (1 + 6) / 64, on either side.
    assert found.p == 14 / 64
    assert found.difference.share == pytest.approx(0.4)
    assert found.difference.low < 0 < found.difference.high < 1


def test_networks_that_are_right_alike_do_not_differ() -> None:
    found = mcnemar(right("1100"), right("1100"))
    assert (found.p, found.difference.share) == (1.0, 0.0)


def test_many_examples_that_tell_apart_are_no_chance() -> None:
    found = mcnemar(np.ones(3000, bool), np.arange(3000) % 3 > 0)
    assert found.only_first == 1000
    assert 0 < found.p < 1e-300
    assert found.difference.low > 0.3


def test_other_examples_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="4 examples cannot be paired with 3"):
        mcnemar(right("1100"), right("110"))


def test_noise_is_pooled_over_networks() -> None:
    # Squares about the means: 0.5 of the first, 2 of the second, in 1 + 2 degrees of freedom.
    found = seed_noise([(1.0, 2.0), (5.0, 6.0, 7.0), (9.0,)])
    assert found is not None
    assert found.degrees == 3
    assert found.deviation == pytest.approx(sqrt(2.5 / 3))
    assert seed_noise([(1.0,), ()]) is None


def test_quantiles_are_those_of_the_table_and_never_narrower() -> None:
    assert t_quantile(1) == 12.706
    assert t_quantile(11) == t_quantile(10) == 2.228
    assert t_quantile(10**6) == 1.980
    assert t_quantile(0) > 1.95


def test_the_noise_of_seeds_widens_the_interval() -> None:
    first, second = [right("1110"), right("1011")], [right("1000"), right("0000")]
    # Differences averaged over the seeds: 0.5, 0.5, 1, 0.5; their variance is 1/16.
    difference = [(1.0, first), (-1.0, second)]
    alone = contrast(difference, None)
    assert alone.share == pytest.approx(0.625)
    assert alone.high - alone.share == pytest.approx(1.959963984540054 * sqrt(1 / 16 / 4))
    noisy = contrast(difference, SeedNoise(0.1, 2))
    half = sqrt(1.959963984540054**2 / 64 + 4.303**2 * 0.01 * (1 / 2 + 1 / 2))
    assert noisy.share - noisy.low == pytest.approx(half)


def test_an_accuracy_lies_within_0_and_1() -> None:
    found = mean_accuracy([right("1111"), right("1110")], SeedNoise(0.1, 2))
    assert found.share == pytest.approx(7 / 8)
    assert found.high == 1.0
    # Means by image: 1, 1, 1, 0.5, of variance 1/16.
    half = sqrt(1.959963984540054**2 / 64 + 4.303**2 * 0.01 / 2)
    assert found.low == pytest.approx(7 / 8 - half)


def test_ranks_are_compared_and_not_values() -> None:
    assert rank_correlation([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5 / 4, variances 4.5 / 4 and 5 / 4.
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(sqrt(4.5 / 5))
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
