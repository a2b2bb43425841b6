"""Contests as jobs: each is named by all that decides what it shows, and held in its own process.

Most of a contest's time is spent on building, so a job gets no library. It gets what the kernels
are written from: shape, knobs and target.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec
import numpy as np

from mbv3c.errors import ToolError
from mbv3c.execution.emulator.cycles import CYCLES
from mbv3c.jobs.ahead import JobsAhead
from mbv3c.jobs.engine import JobFailed
from mbv3c.jobs.job import Job
from mbv3c.lowering.plan import Step
from mbv3c.lowering.traced import Operator
from mbv3c.targets.library.target import LibraryTarget
from mbv3c.tuning.contest import TunableKernels
from mbv3c.tuning.database import Task
from mbv3c.tuning.holding import ContestFailedError, HeldHere, Judged, Wanted, held
from mbv3c.tuning.meters import CountingMeter, NetworkMeter
from mbv3c.tuning.request import TuneRequest
from mbv3c.tuning.tuner import Event

if TYPE_CHECKING:
    from mbv3c.targets.library.backend import LibraryBackend

_READ, _WRITTEN, _CONSTANT = "read", "written", "constant"
_NO_WEIGHTS = np.zeros(0, np.float32)


@contextmanager
def holder(
    target: LibraryTarget,
    kernels: TunableKernels,
    meter: NetworkMeter,
    request: TuneRequest,
    report: Callable[[Event], None],
) -> Iterator["ContestJobs | None"]:
    """Yield what holds contests as jobs, if that was asked for.

    Raises:
        UsageError: what was asked for makes no sense.
        ToolError: a cluster needs something that is not installed.
    """

    def progress(text: str) -> None:
        report({"event": "step", "text": text})

    with request.jobs_ahead(progress) as jobs:
        if jobs is None:
            yield None
            return
        assert isinstance(meter, CountingMeter), "others are refused before"
        yield ContestJobs(target, kernels, meter, jobs)


@dataclass(frozen=True)
class ContestJobs:
    """Has contests held as jobs, several at once; those of TVM's operators are held here.

    Attributes:
        target: the device, with this machine's names.
        kernels: its kernels.
        meter: what counts.
        jobs: what has jobs done.
    """

    target: LibraryTarget
    kernels: TunableKernels
    meter: CountingMeter
    jobs: JobsAhead

    def prepare(self, wanted: Iterator[Wanted]) -> None:
        first = next(wanted, None)
        if first is None or _is_operator(first):
            return
        ours = (one for one in chain([first], wanted) if not _is_operator(one))
        self.jobs.prepare(map(self.job, ours))

    def hold(self, wanted: Wanted) -> Judged:
        """Hold a contest, as `Holder` says.

        Raises:
            JobFailed: where it was to be held a tool is missing, or is another.
        """
        if _is_operator(wanted):
            return HeldHere(self.kernels, self.meter).hold(wanted)
        try:
            shown = self.jobs.result(self.job(wanted)).document
        except JobFailed as error:
            if error.cause is None:  # its process died, of a candidate
                raise ContestFailedError("run", str(error)) from error
            raise
        if "failed" in shown:
            raise ContestFailedError(shown["failed"], shown["message"])
        return Judged(shown["costs"], shown["right"])

    def job(self, wanted: Wanted) -> Job:
        """Return the job of a contest."""
        options = {
            "target": self.target.name,
            "cores": self.target.cores,
            "kernels": self.kernels.measured_on.kernels,
            "cpu": self.meter.cpu,
            "unit": self.meter.unit,
            "programs": self.meter.programs,
            "task": task_document(wanted.task),
            "knobs": wanted.knobs,
        }
        return Job("contest", options, title=f"contest of {wanted.task.name}")


def hold_contest(
    backend: "LibraryBackend", target: LibraryTarget, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Hold the contest of a job.

    Args:
        backend: the backend of the target.
        target: the device, with this machine's names.
        options: the job's.

    Returns:
        `costs` and `right`, as `Judged` has them; or `failed` and `message`, as
        `ContestFailedError` has them.

    Raises:
        ToolError: what counts is not here, or another version.
    """
    runner = "estimated" if options["unit"] == CYCLES else "emulated"
    meter, kernels = backend.meter(target, runner), backend.kernels(target)
    assert isinstance(meter, CountingMeter)
    if meter.programs != options["programs"]:
        raise ToolError(
            f"what counts is {meter.programs} here and {options['programs']} where the contest "
            "was asked for: it might show something else; install one version on both"
        )
    try:
        task = task_of(options["task"], kernels)
        judged = held(task, options["knobs"], kernels, meter)
    except ContestFailedError as error:
        return {"failed": error.outcome, "message": str(error)}
    return {"costs": judged.costs, "right": judged.right}


def task_document(task: Task) -> dict[str, Any]:
    """Return what a contest must know of a kernel of ours, as JSON has it."""
    step = task.step
    roles = [
        _CONSTANT
        if not isinstance(argument, str)
        else _WRITTEN
        if argument in step.writes
        else _READ
        for argument in step.arguments
    ]
    return {"kind": task.kind, "shape": msgspec.to_builtins(task.shape), "arguments": roles}


def task_of(document: Mapping[str, Any], kernels: TunableKernels) -> Task:
    """Return the kernel of `task_document`, without what a contest does not look at.

    Weights are drawn for a contest; of constants it is enough that they are some.
    """
    kind, roles = document["kind"], document["arguments"]
    taken, *_ = get_type_hints(kernels.schedules[kind].legal).values()
    shape = msgspec.convert(document["shape"], taken)
    names = [f"{role}{number}" for number, role in enumerate(roles)]
    arguments = tuple(
        _NO_WEIGHTS if role == _CONSTANT else name for name, role in zip(names, roles, strict=True)
    )
    writes = tuple(name for name, role in zip(names, roles, strict=True) if role == _WRITTEN)
    return Task(kind, shape, Step(kind, (), None, arguments, writes), 1)


def _is_operator(wanted: Wanted) -> bool:
    return isinstance(wanted.task.shape, Operator)
