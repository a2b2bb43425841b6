"""From the times of alternating blocks to medians and a ratio with its spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

Blocks = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Times:
    """The times of one side, in milliseconds."""

    median_ms: float
    min_ms: float


@dataclass(frozen=True)
class Ratio:
    """Our time over theirs, below 1 where we are faster.

    Attributes:
        median: of the ratios of neighbouring blocks.
        quartiles: the first and the third of the same.
    """

    median: float
    quartiles: tuple[float, float]

    @property
    def steady(self) -> bool:
        """Say whether the blocks agree to a tenth; otherwise something else ran beside them."""
        lower, upper = self.quartiles
        return upper - lower <= 0.1 * self.median


def times(blocks: Blocks) -> Times:
    """Summarize every run of one side."""
    runs = [run for block in blocks for run in block]
    return Times(median(runs), min(runs))


def ratio(ours: Blocks, theirs: Blocks) -> Ratio:
    """Compare block by block.

    Block i of the one side ran right before or after block i of the other: what slows the machine
    down for longer than a block slows both and leaves their ratio as it is.
    """
    ratios = [median(a) / median(b) for a, b in zip(ours, theirs, strict=True)]
    if len(ratios) == 1:
        return Ratio(ratios[0], (ratios[0], ratios[0]))
    lower, middle, upper = quantiles(ratios, n=4, method="inclusive")
    return Ratio(middle, (lower, upper))
