"""Confidence intervals of shares, and of the difference of two shares of the same images.

Wilson's score interval: E. B. Wilson, "Probable inference, the law of succession, and statistical
inference", J. Am. Stat. Assoc. 22 (1927), 209-212; method 3 of R. G. Newcombe, "Two-sided
confidence intervals for the single proportion", Statist. Med. 17 (1998), 857-872.

The difference of paired shares: method 10 of R. G. Newcombe, "Improved confidence intervals for
the difference between binomial proportions based on paired data", Statist. Med. 17 (1998),
2635-2650.
"""

from dataclasses import dataclass
from math import sqrt

CONFIDENCE = 0.95
_Z = 1.959963984540054  # of the normal distribution, for 95 %


@dataclass(frozen=True)
class Interval:
    """A share, or a difference of shares, with its 95 % confidence interval."""

    share: float
    low: float
    high: float


def wilson(successes: int, total: int) -> Interval:
    """Return the share of successes with Wilson's score interval; `total` is at least 1."""
    share, per = successes / total, _Z * _Z / total
    middle = (share + per / 2) / (1 + per)
    half = _Z * sqrt(share * (1 - share) / total + per / (4 * total)) / (1 + per)
    # At the ends the formula gives 0 and 1, except for rounding.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == total else middle + half
    return Interval(share, low, high)


def paired_difference(both: int, first: int, second: int, neither: int) -> Interval:
    """Return the first's share of successes less the second's, on a common set of images.

    Args:
        both: number of images on which both succeed.
        first: number of images on which only the first succeeds.
        second: number of images on which only the second succeeds.
        neither: number of images on which neither succeeds. The sum of all four is at least 1.
    """
    total = both + first + second + neither
    a, b = wilson(both + first, total), wilson(both + second, total)
    correlation = _correlation(both, first, second, neither)
    below = _combined(a.share - a.low, b.high - b.share, correlation)
    above = _combined(b.share - b.low, a.high - a.share, correlation)
    share = (first - second) / total
    return Interval(share, max(-1.0, share - below), min(1.0, share + above))


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Return the correlation of two successes, with Newcombe's continuity correction."""
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    if product == 0:
        return 0.0
    excess: float = both * neither - first * second
    if excess > 0:
        excess = max(excess - (both + first + second + neither) / 2, 0.0)
    return excess / sqrt(product)


def _combined(a: float, b: float, correlation: float) -> float:
    return sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))
