"""Which widths stand beside a cost, and how few of them are asked for."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
import pytest

from mbv3c.search.answers import pack, unpack
from mbv3c.search.space import Candidate, width_family
from mbv3c.search.widths import Beside, share_above, widths_beside

FAMILY = width_family("small", 32)
PLACES = {candidate: place for place, candidate in enumerate(FAMILY.values())}


def test_neighbours_are_found_with_few_questions() -> None:
    asked = list[Candidate]()

    def ask(candidates: Sequence[Candidate]) -> list[float]:
        asked.extend(candidates)
        return [100.0 * PLACES[candidate] for candidate in candidates]

    widths, last = list(FAMILY), 100.0 * (len(FAMILY) - 1)
    found = widths_beside([1950.0, 2000.0, 0.0, last, last + 1], FAMILY, ask)
    assert found[0] == found[1] == Beside(widths[19], widths[20])
    assert found[2] == Beside(None, widths[0])
    assert found[3] == Beside(widths[-2], widths[-1])
    assert found[4] == Beside(widths[-1], None)
    assert found[4].widths == (widths[-1],)
    assert len(asked) == len(set(asked)) < 20


def test_how_far_a_cost_lies_between_two() -> None:
    assert share_above(100, 100, 400) == 0
    assert share_above(400, 100, 400) == 1
    assert share_above(200, 100, 400) == pytest.approx(0.5)
    assert share_above(sqrt(2) * 100, 100, 200) == pytest.approx(0.5)
    assert share_above(100, 100, 100) == 1
    assert share_above(90, 100, 400) == 0


def test_what_is_right_comes_back_from_json() -> None:
    right = np.arange(37) % 3 == 0
    assert np.array_equal(unpack(pack(right)), right)
    assert pack(right)["accuracy"] == pytest.approx(13 / 37)
