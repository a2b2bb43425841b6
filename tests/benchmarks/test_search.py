"""The demonstration's tables, with networks and answers that are computed, not found."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.search import QUICK, SIDE, TARGETS, measure
from mbv3c.search.answers import Training
from mbv3c.search.halving import paired_seeds
from mbv3c.search.space import Candidate, width_family

FAMILY = width_family("small", SIDE)
PLACES = {candidate: place for place, candidate in enumerate(FAMILY.values())}


class Answers:
    """Wide networks cost more, and those that were found are right more often."""

    def __init__(self, unit: str, found: Sequence[Candidate]) -> None:
        self._unit, self._found = unit, found

    def costs(
        self, candidates: Sequence[Candidate], *, whole: bool = False
    ) -> list[dict[str, float]]:
        return [{self._unit: 1000.0 + 10 * PLACES.get(each, 5.5)} for each in candidates]

    def train(self, trainings: Sequence[Training]) -> list[Any]:
        return [
            np.arange(2000) % 10 < (9 if each.candidate in self._found else 6)
            for each in trainings
        ]

    def compile(self, trainings: Sequence[Training]) -> list[dict[str, Any]]:
        share = {"share": 0.5, "low": 0.4, "high": 0.6, "of": 50}
        sides = dict.fromkeys(("given", "quantized", "bundle"), share)
        return [{"accuracy": sides, "accuracy_on": "this test"} for _ in trainings]


def bench() -> Any:
    family = width_family("large", SIDE)  # four networks that are none of Small's widths
    found = [family[width] for width in (0.35, 0.5, 0.75, 1.0)]
    answers = {
        target: Answers(unit, found)
        for target, unit in zip(TARGETS, ("cycles", "instructions"), strict=True)
    }
    return SimpleNamespace(
        scale=QUICK,
        answers=answers,
        adapted=dict(zip(TARGETS, found[:2], strict=True)).get,
        searched=dict(zip(TARGETS, found[2:], strict=True)).get,
        trained=lambda candidate, seeds=QUICK.seeds: [
            Training(candidate, QUICK.final, seed, "test") for seed in paired_seeds(0, seeds)
        ],
    )


def test_each_network_stands_on_each_target_beside_a_width() -> None:
    text = measure(bench())
    width = list(FAMILY)[6]  # the narrowest that costs at least as much
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    compared = [row for row in rows if f"| {width:g}: 1,060 |" in row]
    assert len(compared) == 8
    assert sum("| 1,055 cycles |" in row for row in compared) == 4
    assert all("+30.00 (" in row for row in compared)
    assert "4 of 4 networks beat the width of equal cost beyond the noise" in text
    assert "on the other one 4 of 4 do" in text
    assert sum("50.0% (40.0% to 60.0%)" in row for row in rows) == 4
