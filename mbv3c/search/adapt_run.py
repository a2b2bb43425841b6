"""Adapt a network with real means: the target's costs, and trainings as jobs."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from mbv3c.errors import UsageError
from mbv3c.execution.device.place import Place
from mbv3c.graphs.writer import add_metadata
from mbv3c.jobs.engine import Engine
from mbv3c.jobs.job import versions_of
from mbv3c.jobs.store import Result, Store
from mbv3c.precision import Precision
from mbv3c.progress import Progress
from mbv3c.search.adapt import adapt, check_kept
from mbv3c.search.adapt_report import (
    accuracy_text,
    difference_text,
    paired_json,
    to_json,
)
from mbv3c.search.adapted import Adapted, AdaptPlan, Means, Tuned
from mbv3c.search.channels import Channels, Uncut
from mbv3c.search.examples_of import examples_of
from mbv3c.search.grid import Images
from mbv3c.search.job_answers import Device, costs_on, trained
from mbv3c.search.journal import check_folder, open_journal
from mbv3c.search.kinds import MODEL, RIGHT, PackedImages, packed, train_job
from mbv3c.search.layers import layers_of
from mbv3c.search.statistics import Right, mcnemar
from mbv3c.target import Target
from mbv3c.targets import backend_of
from mbv3c.targets.grain import grain_of
from mbv3c.training.evaluate import Accuracy, evaluate
from mbv3c.training.examples import Examples
from mbv3c.training.plan import TrainPlan

JOURNAL = "journal.jsonl"

# What decides accuracies, beside the target's own tools.
_PACKAGES = ("numpy", "onnx", "onnxruntime", "pillow", "torch")
_EPOCHS = 10  # of the training at the end, where nobody says how long
_RATES = {"scratch": 0.2, "finetune": 0.05}


@dataclass(frozen=True)
class Finishing:
    """The training at the end.

    Attributes:
        how: from fresh weights, or from those that the steps left, or not at all.
        steps: steps of the optimiser; None for ten times through the images.
        rate: highest learning rate; None for 0.2 from fresh weights and 0.05 from others.

    Raises:
        UsageError: there are steps or a rate for a training that there is not.
    """

    how: Literal["scratch", "finetune", "none"]
    steps: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.how == "none" and (self.steps is not None or self.rate is not None):
            raise UsageError(
                "--finish none trains nothing at the end: leave out --finish-steps and "
                "--finish-rate, or take --finish finetune"
            )

    def plan(self, tune: TrainPlan, images: int) -> TrainPlan | None:
        """Return how to train, otherwise as proposals are; None for not at all."""
        if self.how == "none":
            return None
        steps = ceil(_EPOCHS * images / tune.batch) if self.steps is None else self.steps
        rate = _RATES[self.how] if self.rate is None else self.rate
        return replace(tune, steps=steps, rate=rate, fresh=self.how == "scratch")


@dataclass(frozen=True)
class AdaptRequest:
    """An adaptation as it is asked for.

    Attributes:
        target: the device.
        precision: the precision in which the network will run there.
        images: labelled images.
        plan: how it is adapted.
        tune: how proposals are trained.
        finish: the training at the end.
        database: the folder of all databases of costs.
        folder: where the journal is, and the networks of the steps.
        grain: channel counts are multiples of this; None for the target's own grain, which is
            found from its costs.
        place: a device whose time is the cost; None for what is known here of the target.
    """

    target: Target
    precision: Precision
    images: Images
    plan: AdaptPlan
    tune: TrainPlan
    finish: "Finishing"
    database: Path
    folder: Path
    grain: int | None = None
    place: Place | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        adapted: the adaptation; its model has its architecture in its metadata, if there is one.
        uncut: channels that could not be cut, and why.
        architecture: why no architecture can say the result; empty if one can.
        counts: how many images each part has.
        tests: on which images to test with the given network is right, and the result; None
            without such images.
    """

    adapted: Adapted
    uncut: tuple[Uncut, ...]
    architecture: str
    counts: dict[str, int]
    tests: tuple[Right, Right] | None


def adapt_model(
    model: onnx.ModelProto,
    request: AdaptRequest,
    where: tuple[Engine, Store],
    progress: Progress,
) -> Outcome:
    """Adapt a classifier to a budget; after an interruption it goes on.

    Args:
        model: a trained classifier.
        request: what is asked for.
        where: what does jobs, and where results are kept.
        progress: function that is told what is being done.

    Raises:
        UsageError: options do not go together, or the folder is no adaptation's, or another's.
        ModelError: the model cannot be cut, trained or compiled.
        ToolError: something that is needed is not installed.
    """
    check_folder(request.folder / JOURNAL)
    normalized = any(node.op_type == "BatchNormalization" for node in model.graph.node)
    if request.finish.how == "scratch" and not normalized:
        raise UsageError(
            "--finish scratch takes a network with BatchNormalization, and this one has none, or "
            "it was folded; take --finish finetune"
        )
    check_kept(model, request.plan.kept)
    examples = examples_of(request.images, model)
    final = request.finish.plan(request.tune, examples.count("train"))
    device = Device(request.target, request.precision, request.database, request.place)
    grain = request.grain or _own_grain(device, progress)
    plan = replace(request.plan, grain=grain)
    tools = backend_of(request.target).tools
    header = {
        "command": "adapt",
        "model": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
        "target": request.target.name,
        "precision": request.precision.name,
        **device.named,
        "images": examples.fingerprint,
        **plan.to_json(),
        "training": request.tune.to_json(),
        "final training": None if final is None else final.to_json(),
        "versions": versions_of({*_PACKAGES, *tools}),
    }
    trainer = _Trainer(packed(request.images, where[1]), where, progress)
    means = Means(
        costs=lambda models, whole: costs_on(device, models, progress, whole=whole),
        judge=lambda network: evaluate(network, examples, "validation").right,
        tune=lambda networks: trainer.train(networks, request.tune),
        finish=None
        if final is None
        else lambda network: trainer.train([("the result", network)], final)[0],
        progress=progress,
    )
    with open_journal(request.folder / JOURNAL, header) as journal:
        adapted = adapt(model, plan, means, journal)
    return _outcome(model, adapted, examples)


def _own_grain(device: Device, progress: Progress) -> int:
    progress(f"finding the grain of channels of {device.target.name}")
    asked = device.target, device.precision, device.database
    grain, _ = grain_of(*asked, progress, device.place)
    progress(f"widths are multiples of {grain}, the grain of {device.target.name}")
    return grain


@dataclass(frozen=True)
class _Trainer:
    """Trains networks as jobs, on images that the store has."""

    images: PackedImages
    where: tuple[Engine, Store]
    progress: Progress

    def train(
        self, networks: Sequence[tuple[str, onnx.ModelProto]], plan: TrainPlan
    ) -> list[Tuned]:
        engine, store = self.where
        kept = [store.put(each.SerializeToString(deterministic=True)) for _, each in networks]
        # Choices are made by the images that validate, even where there are others to test with.
        jobs = [
            train_job(model, self.images, plan, title, "validation")
            for model, (title, _) in zip(kept, networks, strict=True)
        ]
        found = trained(jobs, (engine, store), self.progress)
        tuned = [None if each is None else _tuned(each) for each in found]
        none = np.zeros_like(next(each for each in tuned if each is not None).right)
        return [
            Tuned(network, none) if each is None else each
            for (_, network), each in zip(networks, tuned, strict=True)
        ]


def _tuned(result: Result) -> Tuned:
    return Tuned(onnx.load(result.files[MODEL]), np.load(result.files[RIGHT]))


def _outcome(given: onnx.ModelProto, adapted: Adapted, examples: Examples) -> Outcome:
    network = layers_of(adapted.model)
    model = onnx.ModelProto()
    model.CopyFrom(adapted.model)
    if not isinstance(network, str):
        add_metadata(model, {"architecture": json.dumps(asdict(network))})
    if adapted.steps:
        model.graph.name = f"{given.graph.name}_adapted"
    tests = None
    if examples.count("test"):
        first, last = (evaluate(each, examples, "test").right for each in (given, model))
        tests = (first, last)
    return Outcome(
        adapted=replace(adapted, model=model),
        uncut=tuple(Channels(given).uncut()),
        architecture=network if isinstance(network, str) else "",
        counts={part: examples.count(part) for part in ("train", "validation", "test")},
        tests=tests,
    )


def outcome_lines(outcome: Outcome) -> list[str]:
    """Return what the report of the adaptation itself does not say."""
    lines = [
        f"not cut: {each.name}, {each.channels} channels: {each.reason}"
        for each in outcome.uncut
        if "output" not in each.reason
    ]
    if outcome.tests is not None:
        given, result = outcome.tests
        lines.append(
            f"images to test with, which nothing was chosen by: given {accuracy_text(given)}, "
            f"result {accuracy_text(result)}: {difference_text(mcnemar(result, given))}"
        )
    if outcome.architecture:
        lines.append(f"no architecture file can say the result: {outcome.architecture}")
    return lines


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return the documented JSON form."""
    tests = None
    if outcome.tests is not None:
        given, result = outcome.tests
        tests = {
            "given": Accuracy(given).to_json(),
            "result": Accuracy(result).to_json(),
            "result_less_given": paired_json(mcnemar(result, given)),
        }
    return {
        **to_json(outcome.adapted),
        "images": outcome.counts,
        "test": tests,
        "uncut": [asdict(each) for each in outcome.uncut],
        "no_architecture": outcome.architecture or None,
    }
