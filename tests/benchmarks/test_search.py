"""The demonstration's tables, with networks and answers that are computed, not found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks import search
from benchmarks.search import QUICK, SIDE, TARGETS, Bench, measure
from mbv3c.costs.questions import Question
from mbv3c.costs.types import NetworkCost
from mbv3c.jobs.engine import Done, Report
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress
from mbv3c.search import adapt_run, job_answers, request
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


class KilledError(Exception):
    """The process ends."""


@dataclass
class Engine:
    """Does not train, and ends the driver before some of its jobs."""

    done: list[str] = field(default_factory=list)
    deaths: list[int] = field(default_factory=lambda: [0, 7])

    def run(self, jobs: Sequence[Job], store: Store, report: Report, progress: Progress) -> None:
        for job in jobs:
            if self.deaths and len(self.done) >= self.deaths[0]:
                raise KilledError(self.deaths.pop(0))
            folder = store.attempt(job.name)
            right = np.random.default_rng(list(job.name.encode())).random(50) < 0.5
            np.save(folder / "right.npy", right)
            files = {
                "model.onnx": store.get(job.files["model"]),
                "right.npy": folder / "right.npy",
            }
            train = job.kind == "train"
            store.keep(job.name, {} if train else {"refused": "not here"}, files if train else {})
            self.done.append(job.name)
            report(Done(job))


def costs(
    models: Sequence[onnx.ModelProto], target: Any, *_: Any, whole: bool = False, **more: Any
) -> Any:
    """Count parameters on one target, and multiply-adds on the other."""
    found = []
    for model in models:
        counts = Question(model).counts
        taken = {"parameters": counts.params, "multiply_adds": counts.madds, "memory": 1}
        taken |= (
            {"cycles": counts.params} if "npu" in target.name else {"instructions": counts.madds}
        )
        found.append(NetworkCost(target.name, "int8", "estimated", (), taken, whole))
    return found


def test_killed_anywhere_the_demonstration_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine()
    monkeypatch.setattr(search, "LocalProcesses", lambda jobs: engine)
    monkeypatch.setattr(job_answers, "costs_or_refusals", costs)
    monkeypatch.setattr(request, "costs_of", costs)
    monkeypatch.setattr(adapt_run, "grain_of", lambda *_: (16, {}))
    digits = Path(__file__).parents[1] / "data" / "digits.npz"
    while engine.deaths:
        with pytest.raises(KilledError):
            measure(Bench(tmp_path, digits, 1, QUICK))
    text = measure(Bench(tmp_path, digits, 1, QUICK))
    assert len(engine.done) == len(set(engine.done)) > 20
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert sum(f"| {target} |" in row for target in TARGETS for row in rows) == 8 + 4
    assert text.count("| refused: not here |") == 4
    assert "budget 0.8x of MobileNetV3-Small" in text
