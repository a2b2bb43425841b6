"""An adaptation with real images and jobs, which an engine of this test does without training."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c.errors import UsageError
from mbv3c.finding import adapt
from mbv3c.graphs.outputs import metadata_of
from mbv3c.jobs.engine import Done, Report
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Store
from mbv3c.passes.fold_batchnorm import FoldBatchNorm
from mbv3c.precision import FP32
from mbv3c.progress import Progress
from mbv3c.search.adapt_run import (
    AdaptRequest,
    Finishing,
    Outcome,
    adapt_model,
    outcome_json,
    outcome_lines,
)
from mbv3c.search.adapted import AdaptPlan
from mbv3c.search.budget import parse_budgets
from mbv3c.search.grid import Images
from mbv3c.search.specs import AdaptSpec
from mbv3c.targets import find_target
from mbv3c.training.plan import TrainPlan
from tests.search.adapting import Stubs, digits_network

DIGITS = Path(__file__).parents[1] / "data" / "digits.npz"


@dataclass
class Engine:
    """Leaves networks as they are; the smaller of two is right less often."""

    done: list[Job] = field(default_factory=list)

    def run(self, jobs: Sequence[Job], store: Store, report: Report, progress: Progress) -> None:
        for job in jobs:
            folder = store.attempt(job.name)
            content = store.get(job.files["model"]).read_bytes()
            (folder / "model.onnx").write_bytes(content)
            np.save(folder / "right.npy", np.arange(22) < len(content) / 4000)
            files = {name: folder / name for name in ("right.npy", "model.onnx")}
            store.keep(job.name, {}, files)
            self.done.append(job)
            report(Done(job))


def request(folder: Path, **changes: Any) -> AdaptRequest:
    given = AdaptRequest(
        target=find_target("host_cpu"),
        precision=FP32,
        images=Images(DIGITS, validation=0.1, test=0.1, limit=200),
        plan=AdaptPlan(parse_budgets(["0.85x"]), saving=0.1),
        tune=TrainPlan(7, batch=16, rate=0.05, seed=3, fresh=False),
        finish=Finishing("scratch"),
        database=folder / "costs",
        folder=folder / "adapt",
        grain=8,
    )
    return replace(given, **changes)


@pytest.fixture
def adapted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Outcome, Engine]:
    def costs(models: Sequence[onnx.ModelProto], *_: Any, whole: bool, place: None) -> list[Any]:
        return [SimpleNamespace(resources=cost) for cost in Stubs().costs(models, whole)]

    monkeypatch.setattr("mbv3c.search.job_answers.costs_or_refusals", costs)
    engine = Engine()
    where = engine, Store(tmp_path / "store")
    return adapt_model(digits_network(), request(tmp_path), where, lambda text: None), engine


def test_trainings_are_jobs_and_the_result_is_known_again(
    adapted: tuple[Outcome, Engine], tmp_path: Path
) -> None:
    outcome, engine = adapted
    *short, last = (job.options["plan"] for job in engine.done)
    assert {(p["steps"], p["rate"], p["seed"], p["fresh"]) for p in short} == {(7, 0.05, 3, False)}
    steps = ceil(10 * outcome.counts["train"] / 16)  # ten times through the images
    assert (last["steps"], last["rate"], last["fresh"]) == (steps, 0.2, True)
    assert {job.options["part"] for job in engine.done} == {"validation"}
    assert sum(outcome.counts.values()) == 200 and outcome.counts["validation"] == 22
    document = outcome_json(outcome)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["met"] and document["result"]["finished"] and not document["no_architecture"]
    assert document["test"]["given"]["of"] == outcome.counts["test"] > 0
    assert any(line.startswith("images to test with") for line in outcome_lines(outcome))
    model = outcome.adapted.model
    assert model.graph.name == "network_adapted"
    layers = json.loads(metadata_of(model)["mbv3c.architecture"])
    assert layers["blocks"][0]["kernel"] == 3

    again = Engine()
    where = again, Store(tmp_path / "elsewhere")
    repeated = adapt_model(digits_network(), request(tmp_path), where, lambda text: None)
    assert outcome_json(repeated) == document
    assert again.done == []
    with pytest.raises(UsageError, match=r"another training\.batch, training\.rate, final"):
        other = TrainPlan(7, batch=32, rate=0.1, seed=3, fresh=False)
        adapt_model(digits_network(), request(tmp_path, tune=other), where, lambda text: None)


def test_a_folded_network_is_not_trained_from_scratch(tmp_path: Path) -> None:
    folded, _ = FoldBatchNorm()(digits_network())
    where = Engine(), Store(tmp_path / "store")
    with pytest.raises(UsageError, match="take --finish finetune"):
        adapt_model(folded, request(tmp_path), where, lambda text: None)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step-1.onnx").touch()
    made = replace(request(tmp_path), folder=tmp_path)
    where = Engine(), Store(tmp_path / "store")
    with pytest.raises(UsageError, match=r"holds step-1\.onnx and 1 more, and no journal\.jsonl"):
        adapt_model(digits_network(), made, where, print)


def test_what_is_asked_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function of Python makes the request that is made of the command's options."""
    asked: list[AdaptRequest] = []

    def run(model: onnx.ModelProto, made: AdaptRequest, *_: object) -> str:
        asked.append(made)
        return model.graph.name

    monkeypatch.setattr("mbv3c.finding.adapt_model", run)
    spec = AdaptSpec("host_cpu", str(DIGITS), "0.85x", saving=0.1, database=tmp_path / "costs")
    onnx.save(digits_network(), model := tmp_path / "model.onnx")
    assert adapt(model, spec, tmp_path / "adapt", store=tmp_path / "store") == "network"
    tune, finish = TrainPlan(50, rate=0.05, fresh=False), Finishing("scratch")
    wanted = request(tmp_path, images=Images(DIGITS), tune=tune, finish=finish, grain=None)
    assert asked == [wanted]
    with pytest.raises(UsageError, match=r"write one like 0\.7x"):
        adapt(model, replace(spec, budgets=["fast"]), tmp_path)


def test_how_the_end_is_trained() -> None:
    tune = TrainPlan(50, batch=128, rate=0.1, augment=("crop",), fresh=False)
    assert Finishing("none").plan(tune, 1000) is None
    finetune = Finishing("finetune").plan(tune, 1000)
    assert finetune == replace(tune, steps=79, rate=0.05)
    scratch = Finishing("scratch", 500, 0.4).plan(tune, 1000)
    assert scratch == replace(tune, steps=500, rate=0.4, fresh=True)
