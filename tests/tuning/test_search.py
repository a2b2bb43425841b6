"""Which candidates are measured next."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.tuning import search


@dataclass(frozen=True)
class Tile:
    rows: int
    vectors: int


TILES = [Tile(rows, vectors) for rows in range(1, 9) for vectors in range(1, 5)]
DEFAULT = Tile(4, 2)


def fresh() -> search.Search:
    return search.start(TILES, DEFAULT, {})


def test_the_default_is_the_first_and_the_baseline() -> None:
    one = fresh()
    assert one.tiles[0] == DEFAULT
    assert sorted(map(repr, one.tiles)) == sorted(map(repr, TILES))
    assert one.seen == {0: 1.0}
    assert one.best == 0


@given(seed=st.integers(0, 1000), count=st.integers(1, 12))
def test_everything_is_proposed_once_and_only_once(seed: int, count: int) -> None:
    one, random = fresh(), np.random.default_rng(seed)
    proposed = []
    while batch := one.next(count, random):
        assert len(batch) <= count
        proposed += batch
        one.learn(dict.fromkeys(batch, 1.1))
    assert sorted(proposed) == list(range(1, len(TILES)))
    assert one.done
    assert one.best == 0


def test_neighbours_of_the_best_come_first() -> None:
    one, random = fresh(), np.random.default_rng(0)
    target = one.tiles.index(Tile(8, 4))
    one.learn({target: 0.5})
    near = [one.tiles[at] for at in one.next(4, random)[:3]]
    assert Tile(7, 4) in near
    assert Tile(8, 3) in near


def test_patience_counts_batches_without_a_gain() -> None:
    one = fresh()
    one.learn({1: 1.2, 2: None})
    one.learn({3: 1.0})
    assert one.stale == 2
    one.learn({4: 0.9})
    assert (one.stale, one.best) == (0, 4)


def test_what_is_known_is_not_proposed_again() -> None:
    known = {Tile(4, 1): 0.8, Tile(5, 2): None}
    one = search.start(TILES, DEFAULT, known)
    assert one.tiles[one.best] == Tile(4, 1)
    left = one.next(len(TILES), np.random.default_rng(0))
    assert len(left) == len(TILES) - 3


def test_the_same_seed_gives_the_same_order() -> None:
    first, second = (fresh().next(12, np.random.default_rng(7)) for _ in range(2))
    assert first == second
