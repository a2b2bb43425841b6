"""Questions of a search as jobs, which an engine of this test answers without training."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from mbv3c.errors import UsageError
from mbv3c.jobs.engine import Done, JobFailed, Report
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Store
from mbv3c.precision import FP32, INT8
from mbv3c.progress import Progress
from mbv3c.search.answers import Training
from mbv3c.search.budget import parse_budgets
from mbv3c.search.grid import Images
from mbv3c.search.halving import Halving
from mbv3c.search.job_answers import Data, Device, JobAnswers
from mbv3c.search.kinds import packed
from mbv3c.search.plan import SearchPlan
from mbv3c.search.request import SearchRequest, aim_of
from mbv3c.search.space import Space, width_family
from mbv3c.targets import find_target
from mbv3c.training.plan import TrainPlan

NETWORK = width_family("small", 32)[0.35]
DEVICE = Device(find_target("host_cpu"), INT8, Path("costs"))


@dataclass
class Engine:
    """Writes results at once, and remembers what was to be done."""

    done: list[Job] = field(default_factory=list)
    failing: dict[int, str] = field(default_factory=dict)  # causes by seed

    def run(self, jobs: Sequence[Job], store: Store, report: Report, progress: Progress) -> None:
        for job in jobs:
            if job.options.get("plan", {}).get("seed") in self.failing:
                failing = self.failing[job.options["plan"]["seed"]]
                report(Done(job, JobFailed(job, "the loss is nan", "", failing)))
                continue
            folder = store.attempt(job.name)
            np.save(
                folder / "right.npy", np.arange(5) < job.options.get("plan", {}).get("seed", 0)
            )
            (folder / "model.onnx").write_bytes(job.name.encode())
            (folder / "manifest.json").write_text("{}")
            files = {name: folder / name for name in ("right.npy", "model.onnx")}
            if job.kind == "compile":
                files = {"bundle/manifest.json": folder / "manifest.json"}
            store.keep(job.name, {"kind": job.kind}, files)
            self.done.append(job)
            report(Done(job))


@pytest.fixture
def asked(tmp_path: Path) -> tuple[JobAnswers, Engine]:
    (tmp_path / "images.npz").write_bytes(b"images")
    store, engine = Store(tmp_path / "store"), Engine()
    data = Data(packed(Images(tmp_path / "images.npz"), store), 10, "test", 7)
    plan = TrainPlan(1, rate=0.3)
    return JobAnswers(DEVICE, data, plan, (engine, store), lambda text: None), engine


def test_a_training_is_a_job_with_its_steps_seed_and_part(
    asked: tuple[JobAnswers, Engine],
) -> None:
    answers, engine = asked
    trainings = [Training(NETWORK, 40, seed, "validation") for seed in (2, 3)]
    first, second = answers.train(trainings)
    assert (first.sum(), second.sum()) == (2, 3)
    plans = [job.options["plan"] for job in engine.done]
    assert [(plan["steps"], plan["seed"], plan["rate"]) for plan in plans] == [
        (40, 2, 0.3),
        (40, 3, 0.3),
    ]
    assert {job.options["part"] for job in engine.done} == {"validation"}
    assert len({job.files["model"] for job in engine.done}) == 1
    answers.train(trainings)
    assert len(engine.done) == 2


def test_a_training_that_diverges_is_right_nowhere_and_ends_no_search(
    asked: tuple[JobAnswers, Engine],
) -> None:
    answers, engine = asked
    engine.failing = {8: "diverged", 9: "tool"}
    first, second, ninth = (Training(NETWORK, 40, seed, "validation") for seed in (2, 8, 9))
    assert [right.sum() for right in answers.train([first, second])] == [2, 0]
    for trainings in ([second], [first, second, ninth]):  # all of them; another failure
        with pytest.raises(JobFailed):
            answers.train(trainings)


@pytest.mark.parametrize("precision", [INT8, FP32])
def test_a_bundle_is_compiled_of_the_trained_model_and_judged(
    asked: tuple[JobAnswers, Engine], precision: object
) -> None:
    answers, engine = asked
    answers._device = replace(DEVICE, precision=precision)  # type: ignore[arg-type]
    training = Training(NETWORK, 40, 1, "test")
    assert answers.compile([training]) == [{"kind": "compile"}]
    trained, compiled = engine.done
    assert answers.model(training).read_bytes() == trained.name.encode()
    assert compiled.options["judged"] == 7
    assert compiled.options["part"] == "test"
    assert compiled.options["precision"] == str(precision)
    assert {"model", "images"} <= set(compiled.files)
    assert json.loads(answers.bundle(training)["manifest.json"].read_text()) == {}
    assert len(engine.done) == 2


def request(*budgets: str, weight: float | None = None) -> SearchRequest:
    return SearchRequest(
        DEVICE,
        Images(Path("images.npz")),
        parse_budgets(budgets),
        weight,
        0.5,
        Space("small", (32,)),
        SearchPlan(Halving((10,)), final_steps=10),
        TrainPlan(1),
    )


BASE = {"instructions": 200.0, "memory": 4096.0, "weights": 1e6}


def test_a_budget_is_of_what_mobilenet_takes() -> None:
    aim = aim_of(request("0.5x,3KiB", weight=-0.07), BASE)
    assert (aim.resource, aim.target, aim.weight) == ("instructions", 100.0, -0.07)
    assert aim.limits == {"memory": 3072.0}
    absolute = aim_of(request("90instructions"), BASE)
    assert absolute.target == 90.0


def test_without_a_budget_of_time_the_first_one_counts() -> None:
    aim = aim_of(request("weights=0.5x"), BASE)
    assert (aim.resource, aim.target) == ("weights", 5e5)


def test_a_budget_of_what_a_target_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="have no cycles; known: instructions, memory"):
        aim_of(request("5Mcycles"), BASE)
