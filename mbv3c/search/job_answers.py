"""Answers to a search's questions by jobs: here, or on a cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from mbv3c.errors import DivergedError, Mbv3cError
from mbv3c.execution.device.place import Place
from mbv3c.jobs.engine import Engine, JobFailed, run_jobs
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Result, Store
from mbv3c.precision import Precision
from mbv3c.progress import Progress
from mbv3c.search.answers import Cost, Part, Record, Refused, Training
from mbv3c.search.kinds import BUNDLE, MODEL, RIGHT, PackedImages, compile_job, train_job
from mbv3c.search.space import Candidate
from mbv3c.search.statistics import Right
from mbv3c.target import Target
from mbv3c.targets.costs import costs_or_refusals, measured_on
from mbv3c.training.plan import TrainPlan


@dataclass(frozen=True)
class Device:
    """For what networks are searched.

    Attributes:
        target: the target.
        precision: the precision.
        database: the folder of all databases of costs.
        place: a device whose time is the cost; None for what is known here of the target.
    """

    target: Target
    precision: Precision
    database: Path
    place: Place | None = None

    @property
    def named(self) -> dict[str, str]:
        """What a journal says of costs that are a device's own.

        Raises:
            Mbv3cError: the device does not answer, or is not for the target.
        """
        found = measured_on(self.target, self.precision, self.place)
        return {"device": found} if found else {}


@dataclass(frozen=True)
class Data:
    """By what networks are judged.

    Attributes:
        images: labelled images in the store.
        classes: number of their classes.
        judging: the part by which finalists are judged.
        judged: on how many of its images bundles are judged, at most.
    """

    images: PackedImages
    classes: int
    judging: Part
    judged: int


def costs_on(
    device: Device, models: Sequence[onnx.ModelProto], progress: Progress, *, whole: bool
) -> list[Cost | Refused]:
    """Return what networks take of each resource, or why the device refuses one."""
    asked = device.target, device.precision, device.database
    found = costs_or_refusals(models, *asked, progress, whole=whole, place=device.place)
    return [
        Refused(str(each)) if isinstance(each, Mbv3cError) else dict(each.resources)
        for each in found
    ]


def trained(
    jobs: Sequence[Job], where: tuple[Engine, Store], progress: Progress
) -> list[Result | None]:
    """Return the results of trainings; None for one that diverged, where another one did not.

    Raises:
        JobFailed: one failed otherwise, or all have diverged.
    """
    engine, store = where
    ended = run_jobs(jobs, store, engine, progress, failures="return")
    failed = [each for each in ended if isinstance(each, JobFailed)]
    others = [each for each in failed if each.cause != DivergedError.kind]
    if failed and (others or len(failed) == len(ended)):
        raise (others or failed)[0]
    for each in failed:
        progress(f"{each.job}: {each.reason}; it counts as right on no image")
    return [None if isinstance(each, JobFailed) else each for each in ended]


class JobAnswers:
    """Trains and compiles by jobs, and asks the target's own table for costs."""

    def __init__(
        self,
        device: Device,
        data: Data,
        training: TrainPlan,
        where: tuple[Engine, Store],
        progress: Progress,
    ) -> None:
        """Begin.

        Args:
            device: for what networks are searched.
            data: by what they are judged.
            training: how to train; steps and seed are each question's own.
            where: what does jobs, and where results are kept.
            progress: told of each step.
        """
        self._device, self._data, self._training = device, data, training
        self._engine, self._store = where
        self._progress = progress
        self._models: dict[str, str] = {}  # sha256 by the candidate's name

    @property
    def judging(self) -> Part:
        return self._data.judging

    def costs(
        self, candidates: Sequence[Candidate], *, whole: bool = False
    ) -> list[Cost | Refused]:
        device, classes = self._device, self._data.classes
        models = [each.build(classes) if whole else each.form(classes) for each in candidates]
        return costs_on(device, models, self._progress, whole=whole)

    def train(self, trainings: Sequence[Training]) -> list[Right]:
        """Train networks; one whose training diverges is right on no image."""
        jobs = [self._training_job(each) for each in trainings]
        found = trained(jobs, (self._engine, self._store), self._progress)
        rights = [None if each is None else np.load(each.files[RIGHT]) for each in found]
        none = np.zeros_like(next(right for right in rights if right is not None))
        return [none if right is None else right for right in rights]

    def model(self, training: Training) -> Path:
        (result,) = self._trained([training])
        return result.files[MODEL]

    def compile(self, trainings: Sequence[Training]) -> list[Record]:
        return [dict(result.document) for result in self._compiled(trainings)]

    def bundle(self, training: Training) -> Mapping[str, Path]:
        """Return the files of a network's bundle, by their paths within it; none if refused."""
        (result,) = self._compiled([training])
        prefix = f"{BUNDLE}/"
        return {
            name.removeprefix(prefix): path
            for name, path in result.files.items()
            if name.startswith(prefix)
        }

    def _trained(self, trainings: Sequence[Training]) -> list[Result]:
        jobs = [self._training_job(each) for each in trainings]
        return run_jobs(jobs, self._store, self._engine, self._progress)

    def _training_job(self, training: Training) -> Job:
        candidate = training.candidate
        if candidate.name not in self._models:
            model = candidate.build(self._data.classes).SerializeToString(deterministic=True)
            self._models[candidate.name] = self._store.put(model)
        plan = replace(self._training, steps=training.steps, seed=training.seed)
        title = f"{candidate.name} for {training.steps} steps, seed {training.seed}"
        model = self._models[candidate.name]
        return train_job(model, self._data.images, plan, title, training.part)

    def _compiled(self, trainings: Sequence[Training]) -> list[Result]:
        jobs = [
            self._compile_job(result.files[MODEL], training)
            for result, training in zip(self._trained(trainings), trainings, strict=True)
        ]
        return run_jobs(jobs, self._store, self._engine, self._progress)

    def _compile_job(self, model: Path, training: Training) -> Job:
        device, data = self._device, self._data
        job = compile_job(
            self._store.put(model),
            device.target.name,
            device.precision.name,
            data.images,
            training.candidate.name,
        )
        judged = {"images": dict(data.images.options), "judged": data.judged}
        return replace(
            job,
            options={**job.options, **judged, "part": data.judging},
            files={**job.files, **data.images.files},
        )
