"""Which candidates are measured next, and in which threads.

The spaces are small, some tens to hundreds of legal knobs, and each kernel has a rule that is
right or nearly so: a search that begins with the rule's choice, walks from the best so far
to its neighbours, and now and then looks elsewhere, sees most of what there is to see.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

_FAR = 0.25  # share of a batch that is drawn from everywhere


@dataclass
class Search:
    """The state of the search for one kernel.

    Attributes:
        tiles: all legal knobs, the default first.
        seen: cost of each measured tile by its number, relative to the default's in that contest;
            None where the tile failed.
        stale: number of batches since the best was measured.
        first: numbers of the tiles that are measured before all others.
    """

    tiles: list[Any]
    seen: dict[int, float | None]
    stale: int = 0
    first: tuple[int, ...] = ()

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
        first = [at for at in waiting if at in self.first][:count]
        if not waiting or len(first) == count:
            return first
        far = max(1, int(count * _FAR))
        others = sorted(set(waiting) - set(first), key=lambda at: (self._distance(at), at))
        near = [*first, *others[: max(0, count - far - len(first))]]
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
        a, b = (asdict(self.tiles[i]).values() for i in (at, self.best))
        return float(sum(abs(np.log2((x + 1) / (y + 1))) for x, y in zip(a, b, strict=True)))


def start(
    legal: Sequence[Any],
    default: Any,
    known: Mapping[Any, float | None],
    promising: Sequence[Any] = (),
) -> Search:
    """Begin a search.

    Args:
        legal: all tiles.
        default: tile to which costs are relative.
        known: costs that an earlier search measured; None where a tile failed.
        promising: tiles that are measured first.
    """
    tiles = [default, *(tile for tile in legal if tile != default)]
    seen = {at: known[tile] for at, tile in enumerate(tiles) if tile in known}
    first = tuple(at for at, tile in enumerate(tiles) if tile in promising)
    return Search(tiles, {**seen, 0: 1.0}, first=first)


_Result = TypeVar("_Result")


@contextmanager
def job_slots(slots: int) -> Iterator[Executor]:
    """Yield what runs up to `slots` jobs at once; with one slot it starts no thread.

    TVM's compiler then stays in the thread of the caller, and signals interrupt the job. An
    exception in the block ends it at once: jobs that run are not waited for, others are dropped.
    """
    executor = ThreadPoolExecutor(slots) if slots > 1 else _CallingThread()
    try:
        yield executor
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


class _CallingThread(Executor):
    """Runs each job when it is submitted; what the job raises, `submit` raises."""

    def submit(self, job: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        future: Future[_Result] = Future()
        future.set_result(job(*args, **kwargs))
        return future
