"""What differences of accuracy are worth: paired comparisons, and noise between seeds.

Two networks are compared on a common set of examples: most examples say nothing, as both are right
or both are wrong. McNemar's test looks at the others: Q. McNemar, "Note on the sampling error of
the difference between correlated proportions or percentages", Psychometrika 12 (1947), 153-157; it
is made exact here by the binomial distribution. The interval of the difference is that of
`mbv3c.accuracy.tally.paired_difference`.

A network that is trained once more from another seed gives another accuracy. That noise is not in
a paired comparison of two trainings; `seed_noise` measures it and `contrast` adds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.accuracy.tally import Interval, paired_difference

# Whether a network is right, for each example of a set.
Right = NDArray[np.bool_]

_Z = 1.959963984540054  # of the normal distribution, for 95 %
# Quantile 0.975 of Student's t distribution by degrees of freedom (W. S. Gosset's table as in
# Abramowitz and Stegun, table 26.10); between two rows the upper one holds, which is the wider.
_T = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
    10: 2.228,
    12: 2.179,
    15: 2.131,
    20: 2.086,
    30: 2.042,
    60: 2.000,
    120: 1.980,
}


@dataclass(frozen=True)
class Paired:
    """Two networks on a common set of examples.

    Attributes:
        difference: the first's accuracy less the second's, with its 95 % interval.
        only_first: number of examples on which only the first is right.
        only_second: number of examples on which only the second is right.
        p: how probable so unequal numbers are where both networks are equally good: McNemar's
            exact test, two-sided.
    """

    difference: Interval
    only_first: int
    only_second: int
    p: float


def mcnemar(first: Right, second: Right) -> Paired:
    """Compare two networks on a common set of at least one example.

    Raises:
        ValueError: the sets are of different sizes.
    """
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} examples cannot be paired with {len(second)}")
    only_first = int(np.count_nonzero(first & ~second))
    only_second = int(np.count_nonzero(~first & second))
    both = int(np.count_nonzero(first & second))
    neither = len(first) - both - only_first - only_second
    difference = paired_difference(both, only_first, only_second, neither)
    return Paired(difference, only_first, only_second, _binomial(only_first, only_second))


def _binomial(first: int, second: int) -> float:
    """Return how often a fair coin falls at least so unequally."""
    total, fewer = first + second, min(first, second)
    if total == 0:
        return 1.0
    tail = sum(comb(total, count) for count in range(fewer + 1))
    return min(1.0, float(Fraction(2 * tail, 1 << total)))


@dataclass(frozen=True)
class SeedNoise:
    """How much accuracy differs between trainings that differ in their seed only.

    Attributes:
        deviation: standard deviation, pooled over the networks that were trained several times.
        degrees: degrees of freedom: trainings less networks.
    """

    deviation: float
    degrees: int

    def to_json(self) -> dict[str, Any]:
        """Return the documented JSON form."""
        return {"deviation": self.deviation, "degrees": self.degrees}


def seed_noise(groups: Sequence[Sequence[float]]) -> SeedNoise | None:
    """Pool the spread of networks that were trained from several seeds each.

    Args:
        groups: the accuracies of each network; those with one accuracy say nothing.

    Returns:
        The noise; None where no network has two accuracies.
    """
    several = [np.asarray(group, np.float64) for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in several)
    if not degrees:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in several)
    return SeedNoise(sqrt(squares / degrees), degrees)


def t_quantile(degrees: int) -> float:
    """Return quantile 0.975 of Student's t distribution, for a 95 % interval."""
    return next((value for most, value in reversed(_T.items()) if most <= degrees), _Z)


def mean_accuracy(rights: Sequence[Right], noise: SeedNoise | None) -> Interval:
    """Return a network's mean accuracy over its seeds, as `contrast` does, within 0 and 1."""
    found = contrast([(1.0, rights)], noise)
    return Interval(found.share, max(0.0, found.low), min(1.0, found.high))


def contrast(parts: Sequence[tuple[float, Sequence[Right]]], noise: SeedNoise | None) -> Interval:
    """Return a weighted sum of networks' mean accuracies, with a 95 % interval.

    The interval has the noise of the examples (a set of others would give another sum) and that of
    the seeds. The first is measured on sums that are averaged over the seeds, and some of the
    seeds' noise is in it, too, so that the interval is rather too wide than too narrow.

    Args:
        parts: the weight of each network, and for each of its seeds, on which examples it is
            right; the examples are those of the other networks.
        noise: the noise between seeds; None where it is unknown, and then left out.
    """
    by_example = np.sum([weight * _mean(right) for weight, right in parts], axis=0)
    count = by_example.size
    half = _Z**2 * float(by_example.var(ddof=1)) / count if count > 1 else 0.0
    if noise is not None:
        seeds = sum(weight**2 / len(right) for weight, right in parts)
        half += t_quantile(noise.degrees) ** 2 * noise.deviation**2 * seeds
    share = float(by_example.mean())
    return Interval(share, share - sqrt(half), share + sqrt(half))


def _mean(right: Sequence[Right]) -> NDArray[np.float64]:
    """Return for each example how often a network is right."""
    mean: NDArray[np.float64] = np.stack(right).mean(axis=0, dtype=np.float64)
    return mean


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None of fewer than three pairs, or of equal values.

    Equal values get the mean of their ranks.
    """
    if len(first) < 3:
        return None
    a, b = (_ranks(values) for values in (first, second))
    spread = float(a.std() * b.std())
    if spread == 0:
        return None
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles = ends - (counts - 1) / 2
    ranks: NDArray[np.float64] = middles[places]
    return ranks
