"""A search from what a user asks for to files: the target's costs, the images, the journal."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbv3c.atomic import new_file, new_folder
from mbv3c.costs.types import time_of
from mbv3c.errors import UsageError
from mbv3c.graphs.architecture_file import architecture_text
from mbv3c.jobs.engine import Engine
from mbv3c.jobs.job import versions_of
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress
from mbv3c.search.aim import Aim
from mbv3c.search.answers import Cost, Part
from mbv3c.search.budget import TIME, Budget, amounts
from mbv3c.search.examples_of import examples_of
from mbv3c.search.found import Final, Found
from mbv3c.search.grid import Images
from mbv3c.search.job_answers import Data, Device, JobAnswers
from mbv3c.search.journal import check_folder, open_journal
from mbv3c.search.kinds import packed
from mbv3c.search.plan import SearchPlan
from mbv3c.search.report import draw_search, search_json, search_page
from mbv3c.search.sample import check_sampler
from mbv3c.search.search import header, search
from mbv3c.search.space import Candidate, Space, width_family
from mbv3c.targets import backend_of
from mbv3c.targets.costs import costs_of
from mbv3c.training.given import classes_of
from mbv3c.training.plan import TrainPlan

JOURNAL, DOCUMENT, NETWORKS = "journal.jsonl", "search.json", "networks"
PICTURE, PAGE = "front.svg", "search.html"
# What decides accuracies, beside the target's own tools.
_PACKAGES = ("numpy", "onnx", "onnxruntime", "optuna", "pillow", "torch")


@dataclass(frozen=True)
class SearchRequest:
    """What a user asks for.

    Attributes:
        device: for what networks are searched.
        images: labelled images.
        budgets: what a network may take; the first one of the target's time is what counts.
        weight: exponent of the reward; None for a hard limit.
        least: least share of the budget that a network takes.
        space: the networks.
        plan: how long to look.
        training: how to train; steps and seed are the plan's.
        judged: on how many images bundles are judged, at most.

    Raises:
        UsageError: a value makes no sense.
    """

    device: Device
    images: Images
    budgets: tuple[Budget, ...]
    weight: float | None
    least: float
    space: Space
    plan: SearchPlan
    training: TrainPlan
    judged: int = 1000

    def __post_init__(self) -> None:
        Aim(TIME, 1.0, self.weight, self.least)  # refused before costs are known, too
        if self.judged < 1:
            raise UsageError(f"--judged must be at least 1 image, got {self.judged}")


def run_search(
    request: SearchRequest, folder: Path, where: tuple[Engine, Store], progress: Progress
) -> Found:
    """Search, and write what was found into a folder; an interrupted search goes on from there.

    Args:
        request: what is asked for.
        folder: the folder of the result and of the journal; it is made where there is none, and
            holds nothing else.
        where: what does jobs, and where their results are kept.
        progress: told of each step.

    Raises:
        UsageError: the request makes no sense, or the folder has another search or other things.
        Mbv3cError: nothing meets the budget, or a tool is missing or fails.
    """
    check_sampler(request.plan.method)
    check_folder(folder / JOURNAL)
    device, space, images = request.device, request.space, request.images
    backend_of(device.target).check_precision(device.target, device.precision)
    classes = classes_of(images.source, images.labels).count
    base = width_family(space.variant, space.resolutions[0])[1.0]
    examples = examples_of(images, base.form(classes))
    progress(f"what MobileNetV3-{space.variant.capitalize()} costs on {device.target.name}")
    aim = aim_of(request, _cost(base, device, classes, progress))
    judging: Part = "test" if examples.count("test") else "validation"
    known = {
        "target": device.target.name,
        "precision": device.precision.name,
        **device.named,
        "images": examples.fingerprint,
        "judged": request.judged,
        "training": {**request.training.to_json(), "steps": None, "seed": None},
        "versions": versions_of({*_PACKAGES, *backend_of(device.target).tools}),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror}") from error
    data = Data(packed(images, where[1]), classes, judging, request.judged)
    answers = JobAnswers(device, data, request.training, where, progress)
    with open_journal(folder / JOURNAL, header(space, aim, request.plan, known)) as journal:
        found = search(space, aim, request.plan, answers, journal, progress)
        write_found(found, answers, folder, device)
    return found


def _cost(base: Candidate, device: Device, classes: int, progress: Progress) -> Cost:
    asked = device.target, device.precision, device.database
    (cost,) = costs_of([base.form(classes)], *asked, progress, place=device.place)
    return cost.resources


def aim_of(request: SearchRequest, base: Cost) -> Aim:
    """Return what counts, of budgets as they were written.

    Args:
        request: what is asked for.
        base: what MobileNetV3 of width 1 takes at the first resolution.

    Raises:
        UsageError: the target's costs have no such resource, or it is named twice.
    """
    time = time_of(base)
    found = amounts(request.budgets, base, time)
    first = time if time in found else next(iter(found))
    target = found.pop(first)
    return Aim(first, target, request.weight, request.least, found)


def write_found(found: Found, answers: JobAnswers, folder: Path, device: Device) -> None:
    """Write the result: the document, the picture, and each network with its layers and bundle.

    What is there of an earlier call is written over.
    """
    networks = folder / NETWORKS
    networks.mkdir(exist_ok=True)
    for final in found.finals:
        _write_network(found.title(final), final, answers, networks)
    title = (
        f"{device.target.name} {device.precision}, MobileNetV3-{found.space.variant.capitalize()} "
        "and what was found around it"
    )
    names = device.target.name, device.precision.name
    draw_search(found, folder / PICTURE, title, force=True)
    with new_file(folder / PAGE, force=True) as temporary:
        temporary.write_text(search_page(found, title, *names), "utf-8")
    with new_file(folder / DOCUMENT, force=True) as temporary:
        text = json.dumps(document(found, device), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", "utf-8")


def _write_network(name: str, final: Final, answers: JobAnswers, networks: Path) -> None:
    with new_file(networks / f"{name}.onnx", force=True) as temporary:
        temporary.write_bytes(answers.model(final.training).read_bytes())
    with new_file(networks / f"{name}.json", force=True) as temporary:
        temporary.write_text(architecture_text(final.candidate.layers), "utf-8")
    bundle = answers.bundle(final.training)
    if bundle:
        _copy(bundle, networks / name)


def _copy(files: Mapping[str, Path], place: Path) -> None:
    with new_folder(place, force=True) as temporary:
        for name, source in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(source.read_bytes())


def document(found: Found, device: Device) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "target": device.target.name,
        "precision": device.precision.name,
        **search_json(found),
    }
