"""From a model and a place of images to a trained model in a file."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import Any

import onnx

from mbv3c.atomic import beside, check_place, new_file
from mbv3c.errors import UsageError
from mbv3c.quantization.images import AS_THE_MODEL_SAYS, Overrides, with_preparing
from mbv3c.training.evaluate import evaluate
from mbv3c.training.examples import Examples, open_examples
from mbv3c.training.fresh import with_new_head
from mbv3c.training.given import classes_of
from mbv3c.training.plan import TrainPlan
from mbv3c.training.results import Trained, TrainStep
from mbv3c.training.state import CHECKPOINT
from mbv3c.training.train import require_torch, train
from mbv3c.training.trainable import trainable

# Keys are in docs/json.md; `event` says which kind it is.
Event = dict[str, Any]
Report = Callable[[Event], None]

_EPOCHS = 10.0
_LAST = 20  # steps over which the loss is averaged at the end
# Where BatchNormalization is folded, weights stand large steps no more.
_RATE_WITHOUT_NORMALIZATION = 0.01


@dataclass(frozen=True)
class TrainRequest:
    """What the user asked for.

    Attributes:
        source: the images, as `open_examples` takes them.
        labels: CSV file of the images' classes.
        validation: share of the images, or a source, to validate with.
        test: the same to test with at the end.
        limit: number of images to take for training and validation; None for all.
        overrides: the user's own preprocessing.
        epochs: how often to go through the training images; unused where `plan` has steps.
        new_head: whether to replace the last layer by one for the images' classes.
        plan: fields of `TrainPlan`.
        keep_state: whether the folder of the state stays when all is done.
        force: whether to write over the output.
    """

    source: Path
    labels: Path | None = None
    validation: float | Path = 0.1
    test: float | Path = 0.0
    limit: int | None = None
    overrides: Overrides = AS_THE_MODEL_SAYS
    epochs: float | None = None
    new_head: bool = False
    plan: Mapping[str, Any] = field(default_factory=dict)
    keep_state: bool = False
    force: bool = False


def state_folder(output: Path) -> Path:
    """Return the folder in which a training keeps its state until it is done."""
    return beside(output, ".train")


def train_file(
    model: onnx.ModelProto, request: TrainRequest, output: Path, report: Report
) -> dict[str, Any]:
    """Train a model, write it to a file, and return the documented keys.

    An interrupted training goes on where it was, when it is asked for again.

    Args:
        model: a classifier.
        request: what the user asked for.
        output: the file to write.
        report: function that is told what happens.

    Raises:
        UsageError: the request is impossible, or the state beside the file is another training's.
        Mbv3cError: as `mbv3c.training.train.train` says.
    """
    check_place(output, force=request.force)
    _check_plan(request)
    require_torch()
    report({"event": "step", "step": f"preparing the images of {request.source}"})
    if request.new_head:
        own = classes_of(request.source, request.labels)
        model = with_new_head(model, own.count, request.plan.get("seed", 0))
    model = with_preparing(model, request.overrides)
    normalized, parameters = _weights(model)
    examples = open_examples(
        request.source,
        model,
        labels=request.labels,
        validation=request.validation,
        test=request.test,
        seed=request.plan.get("seed", 0),
        limit=request.limit,
    )
    plan = _plan(request, examples, normalized=normalized)
    folder = state_folder(output)
    described = {**_described(examples, plan), "normalized": normalized, "parameters": parameters}
    report({"event": "start", "state": str(folder), **described})
    told = _Told(report, folder)
    try:
        trained = train(model, examples, plan, journal=folder, progress=told)
    except KeyboardInterrupt:
        report(told.interrupted())
        raise
    with new_file(output, force=request.force) as temporary:
        temporary.write_bytes(trained.model.SerializeToString(deterministic=True))
    if not request.keep_state:
        shutil.rmtree(folder)
    state = str(folder) if request.keep_state else None
    return {"model": str(output), "state": state, **described, **_result(trained, examples)}


def _check_plan(request: TrainRequest) -> None:
    """Refuse what makes no sense before images are prepared."""
    TrainPlan(**{"steps": 1, **request.plan})
    if request.epochs is None:
        return
    if "steps" in request.plan:
        raise UsageError("--epochs and --steps exclude each other: both say how long to train")
    if not 0 < request.epochs < float("inf"):
        raise UsageError(f"--epochs must be above 0, got {request.epochs:g}")


def _plan(request: TrainRequest, examples: Examples, *, normalized: bool) -> TrainPlan:
    """Return the plan, with the steps that epochs take, and a rate that suits the model."""
    given = dict(request.plan)
    if "steps" not in given:
        epochs = _EPOCHS if request.epochs is None else request.epochs
        given["steps"] = ceil(epochs * _steps_of_epoch(examples, TrainPlan(1, **given)))
    if "rate" not in given and not normalized:
        given["rate"] = _RATE_WITHOUT_NORMALIZATION
    return TrainPlan(**given)


def _steps_of_epoch(examples: Examples, plan: TrainPlan) -> int:
    count = examples.count("train")
    return count // min(plan.batch, count)


def _described(examples: Examples, plan: TrainPlan) -> Event:
    """Return what is fixed before the first step."""
    broken = sum(part.broken for part in examples.prepared.values())
    first = next((part.first_broken for part in examples.prepared.values() if part.broken), None)
    names = examples.classes.names
    return {
        "images": {part: examples.count(part) for part in ("train", "validation", "test")},
        "broken": broken,
        "first_broken": first,
        "labels": examples.origin,
        "classes": examples.classes.count,
        "class_names": None if names is None else list(names),
        "empty_classes": _empty_classes(examples),
        "preprocessing": examples.preprocessing.to_json(),
        "plan": plan.to_json(),
        "epochs": plan.steps / _steps_of_epoch(examples, plan),
    }


def _empty_classes(examples: Examples) -> list[str]:
    """Return the names, or else the numbers, of classes without images to train with."""
    names = examples.classes.names
    there = set(examples.labels("train").tolist())
    return [
        str(number) if names is None else names[number]
        for number in range(examples.classes.count)
        if number not in there
    ]


class _Told:
    """Turns what training tells into events."""

    def __init__(self, report: Report, folder: Path) -> None:
        self._report, self._folder = report, folder
        self._kept = 0  # steps of the last checkpoint

    def __call__(self, step: TrainStep) -> None:
        event: Event = {
            "event": "progress",
            "step": step.step,
            "steps": step.steps,
            "loss": step.loss,
            "accuracy": step.accuracy,
            "left_s": step.seconds_left,
        }
        self._report(event)
        if step.checkpoint:
            self._kept = step.step
            found = None if step.validation is None else step.validation.to_json()
            path = str(self._folder / CHECKPOINT)
            self._report(
                {"event": "checkpoint", "step": step.step, "model": path, "validation": found}
            )

    def interrupted(self) -> Event:
        path = self._folder / CHECKPOINT
        there = path.is_file()
        return {
            "event": "interrupted",
            "step": self._kept or None,
            "model": str(path) if there else None,
            "state": str(self._folder),
        }


def _result(trained: Trained, examples: Examples) -> dict[str, Any]:
    test = evaluate(trained.model, examples, "test") if examples.count("test") else None
    last = trained.losses[-_LAST:]
    return {
        "loss": sum(last) / len(last),
        "validation": trained.accuracy.to_json(),
        "test": None if test is None else test.to_json(),
    }


def _weights(model: onnx.ModelProto) -> tuple[bool, dict[str, int]]:
    """Return whether there is a BatchNormalization, and how many numbers are trained.

    Raises:
        ModelError: there is nothing to train.
    """
    made = trainable(model, 2)
    sizes = {
        tensor.name: prod(tensor.dims)
        for tensor in made.model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    counts = {"trained": sum(sizes[name] for name in made.kinds), "stored": sum(sizes.values())}
    return made.normalized, counts
