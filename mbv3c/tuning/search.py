"""Which candidates are measured next.

The spaces are small, some tens to hundreds of legal knobs, and each kernel has a rule that is
right or nearly so: a search that begins with the rule's choice, walks from the best found so far
to its neighbours, and now and then looks elsewhere, sees most of what there is to see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_FAR = 0.25  # share of a batch that is drawn from everywhere


@dataclass
class Search:
    """The state of the search for one kernel.

    Attributes:
        tiles: all legal knobs, the default first.
        seen: the cost of those that were measured, relative to the default's in the same contest;
            None where they failed.
        stale: batches since the best was found.
    """

    tiles: list[Any]
    seen: dict[int, float | None]
    stale: int = 0

    @property
    def best(self) -> int:
        """The tile of the least cost; the default's number is 0, and its cost is 1."""
        valid = {at: cost for at, cost in self.seen.items() if cost is not None}
        return min(valid, key=lambda at: (valid[at], at), default=0)

    @property
    def done(self) -> bool:
        return len(self.seen) >= len(self.tiles)

    def next(self, count: int, random: np.random.Generator) -> list[int]:
        """Return up to `count` tiles that were not measured, the most promising first."""
        waiting = [at for at in range(len(self.tiles)) if at not in self.seen]
        if not waiting:
            return []
        far = max(1, int(count * _FAR))
        near = sorted(waiting, key=lambda at: (self._distance(at), at))[: count - far]
        rest = [at for at in waiting if at not in set(near)]
        drawn = random.permutation(len(rest))[: count - len(near)]
        return [*near, *(rest[int(i)] for i in sorted(drawn))]

    def learn(self, costs: dict[int, float | None]) -> None:
        """Remember what a batch showed."""
        before = self.seen.get(self.best)
        self.seen.update(costs)
        after = self.seen.get(self.best)
        better = before is None or (after is not None and after < before)
        self.stale = 0 if better else self.stale + 1

    def _distance(self, at: int) -> float:
        """Return how far a tile is from the best one: steps in each knob, larger ones less."""
        a, b = (_numbers(self.tiles[i]) for i in (at, self.best))
        return float(sum(abs(np.log2((x + 1) / (y + 1))) for x, y in zip(a, b, strict=True)))


def start(legal: Sequence[Any], default: Any, known: Mapping[Any, float | None]) -> Search:
    """Begin a search; `known` has what an earlier one measured, None where a tile failed."""
    tiles = [default, *(tile for tile in legal if tile != default)]
    seen = {at: known[tile] for at, tile in enumerate(tiles) if tile in known}
    return Search(tiles, {**seen, 0: 1.0})


def _numbers(tile: Any) -> list[float]:
    return [float(value) for value in asdict(tile).values()]
