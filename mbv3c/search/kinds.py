"""The kinds of jobs: training, accuracy, costs and compiling, each a thin function.

`mbv3c.jobs.job.KINDS` names the functions; the others make jobs for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from re import match
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from mbv3c.accuracy.image_sets import check_within
from mbv3c.errors import Mbv3cError, ModelError, ParityError, UsageError
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Store
from mbv3c.precision import find_precision
from mbv3c.progress import Progress
from mbv3c.scratch import scratch_folder
from mbv3c.search.grid import Images
from mbv3c.search.image_pack import pack_images, unpacked
from mbv3c.training.plan import TrainPlan

if TYPE_CHECKING:
    from mbv3c.bundle import Bundle
    from mbv3c.training.evaluate import Accuracy
    from mbv3c.training.examples import Examples, PartName
    from mbv3c.training.train import TrainStep

Files = Mapping[str, Path]
Document = dict[str, Any]

MODEL, RIGHT, BUNDLE = "model.onnx", "right.npy", "bundle"
_CALIBRATION = 64  # training images that int8 is calibrated on
_STEPS_TOLD = 50
# What is wrong with a network or a combination, whenever it is tried again.
_REFUSALS = (UsageError, ModelError, ParityError)
_TIMED = "us"  # the resource of a target whose costs are times


# ---- making jobs ----


@dataclass(frozen=True)
class PackedImages:
    """Labelled images in a store.

    Attributes:
        files: sha256 of the images, and of their labels.
        options: how they are parted.
    """

    files: Mapping[str, str]
    options: Mapping[str, Any]


def packed(images: Images, store: Store) -> PackedImages:
    """Put labelled images into a store.

    Raises:
        UsageError: they cannot be read, or the labels are those of images elsewhere.
    """
    if images.labels is not None:
        check_within(images.labels)
    files = {"images": pack_images(images.source, store)}
    if images.labels is not None:
        files["labels"] = store.put(images.labels)
    options = {"validation": images.validation, "test": images.test, "limit": images.limit}
    return PackedImages(files, options)


def train_job(
    model: str, images: PackedImages, plan: TrainPlan, title: str, part: "PartName | None" = None
) -> Job:
    """Return the job of training a model, which the store knows by its sha256.

    It is judged by a part of the images: that to test with, or else to validate with, if none is
    named.

    Its result has `model.onnx`, `right.npy` (for each image whether the network is right), and
    `accuracy`, `part`, `loss`.
    """
    options: Document = {"plan": plan.to_json(), "images": dict(images.options)}
    if part is not None:
        options["part"] = part
    return Job("train", options, {"model": model, **images.files}, title=f"training {title}")


def evaluate_job(model: str, images: PackedImages, title: str, like: str | None = None) -> Job:
    """Return the job of running a model on labelled images.

    Args:
        model: sha256 of the model.
        images: the images.
        title: what the model is called.
        like: sha256 of the model that says how images are prepared, if `model` does not.
    """
    files = {"model": model, "like": like or model, **images.files}
    options = {"images": dict(images.options)}
    return Job("evaluate", options, files, title=f"accuracy of {title}")


def cost_job(models: Sequence[str], target: str, precision: str, title: str) -> Job:
    """Return the job of asking what networks cost; those that differ in widths go together.

    Its result has for each `kind` and `resources`, or `refused` with the reason.
    """
    files = {f"{index:05d}": model for index, model in enumerate(models)}
    options = {"target": target, "precision": precision}
    return _for_target("cost", options, files, f"cost of {title} on {target} {precision}")


def compile_job(
    model: str, target: str, precision: str, images: PackedImages | None, title: str
) -> Job:
    """Return the job of compiling and verifying a model; int8 is calibrated on images.

    Its result has `bundle/` with `sizes`, `parity` and `ran_on`, or `refused` with the reason.
    """
    options: dict[str, Any] = {"target": target, "precision": precision}
    files = {"model": model}
    if images is not None and find_precision(precision).quantized:
        options["images"] = dict(images.options)
        files |= images.files
    return _for_target("compile", options, files, f"{title} for {target} {precision}")


def _for_target(kind: str, options: Document, files: Mapping[str, str], title: str) -> Job:
    """Return a job whose result depends on the tools of a target, which not every machine has."""
    from mbv3c.targets import backend_of, find_target

    target = find_target(options["target"])
    tools = tuple(backend_of(target).tools)
    own = {_package(text) for text in metadata.requires("mbv3c") or () if "extra ==" not in text}
    resources = {} if own.issuperset(tools) else {target.family: 1.0}
    return Job(kind, options, files, tools, resources, title)


def _package(requirement: str) -> str:
    found = match(r"[\w.-]+", requirement)
    return found[0].lower() if found else ""


# ---- doing them ----


def train(options: Mapping[str, Any], files: Files, folder: Path, progress: Progress) -> Document:
    """Train a model; a training whose process was killed goes on."""
    from mbv3c.training.evaluate import evaluate as accuracy_of
    from mbv3c.training.train import train as trained_model

    model = onnx.load(files["model"])
    examples = _examples(options["images"], files, model)
    plan = TrainPlan.from_json(options["plan"])

    def told(step: "TrainStep") -> None:
        if step.step % _STEPS_TOLD == 0:
            progress(f"step {step.step} of {step.steps}: loss {step.loss:.3f}")

    trained = trained_model(model, examples, plan, journal=folder / ".journal", progress=told)
    accuracy = trained.accuracy
    part = _part(examples, options)
    if part != "validation":
        accuracy = accuracy_of(trained.model, examples, part)
    (folder / MODEL).write_bytes(trained.model.SerializeToString(deterministic=True))
    return {**_written(accuracy, part, folder), "loss": trained.losses[-1]}


def evaluate(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> Document:
    """Run a model on the images to test with, or else on those to validate with."""
    from mbv3c.training.evaluate import evaluate as accuracy_of

    examples = _examples(options["images"], files, onnx.load(files["like"]))
    part = _part(examples, options)
    progress(f"running {examples.count(part):,} images")
    accuracy = accuracy_of(onnx.load(files["model"]), examples, part)
    return _written(accuracy, part, folder)


def cost(options: Mapping[str, Any], files: Files, folder: Path, progress: Progress) -> Document:
    """Ask what networks cost on a target; what is known here takes milliseconds.

    Times are refused: they are taken on a quiet machine, and jobs run beside each other.
    """
    from mbv3c.execution.cache import cache_root
    from mbv3c.targets import find_target
    from mbv3c.targets.costs import costs_or_refusals, time_resource

    target, precision = find_target(options["target"]), find_precision(options["precision"])
    try:
        if time_resource(target, precision) == _TIMED:
            raise UsageError(
                f"costs on {target.name} are times, which are not taken beside other work: "
                f"`mbv3c inspect MODEL --cost {target.name}` asks for those of one model"
            )
    except _REFUSALS as error:
        return {"networks": [{"refused": str(error)} for _ in files]}
    models = [onnx.load(files[name]) for name in sorted(files)]
    database = cache_root() / "costs"
    found = costs_or_refusals(models, target, precision, database, progress, refusals=_REFUSALS)
    return {
        "networks": [
            {"refused": str(one)}
            if isinstance(one, Mbv3cError)
            else {"kind": one.kind, "resources": dict(one.resources)}
            for one in found
        ]
    }


def compile_(
    options: Mapping[str, Any], files: Files, folder: Path, progress: Progress
) -> Document:
    """Compile a model and verify what came of it."""
    from mbv3c.job_spec import JobSpec
    from mbv3c.pipeline import compile_model
    from mbv3c.targets import backend_of

    model = onnx.load(files["model"])
    with scratch_folder("calibration") as inputs:
        calibration = None
        if "images" in options and find_precision(options["precision"]).quantized:
            calibration = inputs
            _write_inputs(_examples(options["images"], files, model), inputs)
        spec = JobSpec(options["target"], options["precision"], calibration)
        try:
            job = spec.calibrated(spec.job(progress), model)
            compiled = compile_model(model, job, folder / BUNDLE, progress=progress)
        except _REFUSALS as error:
            return {"refused": str(error)}
    verdict, bundle = compiled.verdict, compiled.bundle
    assert verdict is not None
    judged = {}
    if options.get("judged"):
        judged = _judged(bundle, _examples(options["images"], files, model), options, progress)
    return {
        "sizes": backend_of(job.target).footprint(bundle).sizes,
        "passed": verdict.passed,
        "ran_on": verdict.ran_on,
        "max_error_of_range": verdict.to_json().get("max_error_of_range"),
        **judged,
    }


def _judged(
    bundle: "Bundle", examples: "Examples", options: Mapping[str, Any], progress: Progress
) -> Document:
    """Run a bundle and its models on some of the images that judge."""
    from mbv3c.search.bundled import bundle_accuracy

    part, limit = options["part"], options["judged"]
    found = bundle_accuracy(bundle, examples, part, limit, progress)
    accuracy = {side: each.to_json() for side, each in found.accuracy.items()}
    return {"accuracy": accuracy, "accuracy_on": found.ran_on}


def _examples(options: Mapping[str, Any], files: Files, model: onnx.ModelProto) -> "Examples":
    from mbv3c.search.examples_of import examples_of

    return examples_of(Images(unpacked(files["images"]), files.get("labels"), **options), model)


def _part(examples: "Examples", options: Mapping[str, Any]) -> "PartName":
    """Return the part that was asked for, or else the last one that there is."""
    asked: PartName | None = options.get("part")
    return asked or ("test" if examples.count("test") else "validation")


def _written(accuracy: "Accuracy", part: str, folder: Path) -> Document:
    np.save(folder / RIGHT, accuracy.right)
    return {"accuracy": accuracy.to_json(), "part": part}


def _write_inputs(examples: "Examples", folder: Path) -> None:
    """Write training images as a model takes them, evenly from all, for calibration."""
    inputs = examples.inputs("train", examples.evenly("train", _CALIBRATION))
    for index, image in enumerate(inputs):
        np.save(folder / f"{index:04d}.npy", image[None])
