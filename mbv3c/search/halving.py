"""Successive halving: many networks are trained a little, the best of them longer, and so on.

K. Jamieson and A. Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", AISTATS 2016. A short training favours small networks wrongly: they are sooner near
what they will reach. So networks compete only with those of like cost: they are put into bands by
cost, and of each band the best go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from mbv3c.errors import UsageError


@dataclass(frozen=True)
class Entry:
    """A network in a round.

    Attributes:
        name: its name.
        cost: what it takes of the resource that counts.
        score: what it was worth in this round; higher is better.
    """

    name: str
    cost: float
    score: float


@dataclass(frozen=True)
class Halving:
    """How many networks are trained for how long.

    Attributes:
        steps: optimiser steps of each round; they grow.
        factor: so many times fewer networks are in the next round.
        bands: networks compete within so many bands of like cost.
        least: fewest networks of a round, and how many come out of the last.

    Raises:
        UsageError: a value makes no sense.
    """

    steps: tuple[int, ...]
    factor: int = 3
    bands: int = 3
    least: int = 3

    def __post_init__(self) -> None:
        if not self.steps or self.steps[0] < 1 or list(self.steps) != sorted(set(self.steps)):
            raise UsageError(
                f"the steps of --rounds must be above 0 and grow, got {_listed(self.steps)}"
            )
        if self.factor < 2:
            raise UsageError(f"the factor of halving must be at least 2, got {self.factor}")
        for name, value in {"bands": self.bands, "finalists": self.least}.items():
            if value < 1:
                raise UsageError(f"--{name} must be at least 1, got {value}")

    def kept(self, count: int, round_index: int) -> int:
        """Return how many of the networks of a round go on; after the last, how many are left."""
        last = round_index == len(self.steps) - 1
        return min(count, self.least if last else max(self.least, ceil(count / self.factor)))

    def trainings(self, count: int) -> list[tuple[int, int]]:
        """Return for each round how many networks are trained, and for how many steps."""
        found = []
        for index, steps in enumerate(self.steps):
            found.append((count, steps))
            count = self.kept(count, index)
        return found


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps)) or "none"


def bands_of(entries: Sequence[Entry], count: int) -> list[list[Entry]]:
    """Put networks into bands of like cost, as equally many in each as there can be.

    The cheapest are in the first. There are no empty bands.
    """
    ordered = sorted(entries, key=lambda entry: (entry.cost, entry.name))
    count = min(count, len(ordered))
    edges = [len(ordered) * index // count for index in range(count + 1)] if count else []
    return [ordered[start:end] for start, end in pairwise(edges)]


def promoted(entries: Sequence[Entry], keep: int, bands: int) -> list[Entry]:
    """Return the networks that go on: the best of each band, in turns, the cheapest band last.

    Of equal scores the cheaper one goes on.

    Args:
        entries: the networks of a round.
        keep: how many go on.
        bands: the number of bands.

    Returns:
        The networks, cheapest first.
    """
    ranked = [sorted(band, key=_rank) for band in bands_of(entries, bands)]
    # Where the number does not go up, the dearer bands have more to lose by short trainings.
    turns = [
        (place, -index, entry)
        for index, band in enumerate(ranked)
        for place, entry in enumerate(band)
    ]
    chosen = [entry for _, _, entry in sorted(turns, key=lambda turn: turn[:2])[:keep]]
    return sorted(chosen, key=lambda entry: (entry.cost, entry.name))


def _rank(entry: Entry) -> tuple[float, float, str]:
    return (-entry.score, entry.cost, entry.name)


def paired_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Return the seeds of a round: all of its networks are trained from each of them.

    The order of the images and what is drawn for augmentation follow from the seed, so that these
    do not differ between networks that are compared.
    """
    return tuple(seed + index for index in range(count))
