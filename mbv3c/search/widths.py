"""MobileNetV3 at the widths that cost as much as given networks: what a search has to beat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

from mbv3c.search.space import Candidate

Ask = Callable[[Sequence[Candidate]], Sequence[float]]


@dataclass(frozen=True)
class Beside:
    """The widths on either side of a cost; None where no width is so cheap, or so dear.

    Attributes:
        below: the width of the network that costs less.
        above: the width of the next one, which costs as much or more.
    """

    below: float | None
    above: float | None

    @property
    def widths(self) -> tuple[float, ...]:
        """Those that there are."""
        return tuple(width for width in (self.below, self.above) if width is not None)


def widths_beside(
    wanted: Sequence[float], family: Mapping[float, Candidate], ask: Ask
) -> list[Beside]:
    """Find the neighbouring widths between which costs lie, by halving the distance.

    Only few widths are asked for. Where costs do not grow with the width everywhere, any such
    place is found.

    Args:
        wanted: the costs.
        family: networks by their width, in growing order.
        ask: function that returns the costs of networks.
    """
    widths = list(family)
    known: dict[int, float] = {}

    def learn(places: Sequence[int]) -> None:
        new = sorted({place for place in places if place not in known})
        if new:
            costs = ask([family[widths[place]] for place in new])
            known.update(zip(new, costs, strict=True))

    last = len(widths) - 1
    learn([0, last])
    # Places with a cost below the wanted one, and at or above it; -1 and last + 1 are outside.
    ends = [
        (-1, 0) if cost <= known[0] else (last, last + 1) if cost > known[last] else (0, last)
        for cost in wanted
    ]
    while any(high - low > 1 for low, high in ends):
        learn([(low + high) // 2 for low, high in ends if high - low > 1])
        ends = [
            _half(low, high, known, cost) for (low, high), cost in zip(ends, wanted, strict=True)
        ]
    return [
        Beside(
            widths[low] if low >= 0 else None,
            widths[high] if high <= last else None,
        )
        for low, high in ends
    ]


def _half(low: int, high: int, known: Mapping[int, float], cost: float) -> tuple[int, int]:
    if high - low <= 1:
        return low, high
    middle = (low + high) // 2
    return (middle, high) if known[middle] < cost else (low, middle)


def share_above(cost: float, below: float, above: float) -> float:
    """Return how far a cost lies from one below to one above, on a logarithmic axis: 0 to 1."""
    if not below < above:
        return 1.0
    return min(1.0, max(0.0, log(cost / below) / log(above / below)))
