"""Jobs done once, by any engine; what is known is not done again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Literal, Protocol, overload

from mbv3c.errors import BundleError, Mbv3cError
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Result, Store
from mbv3c.progress import Progress


class JobFailed(Mbv3cError):  # noqa: N818 - as in "job failed"
    """A job has no result.

    Attributes:
        job: the job.
        reason: why, in words.
        cause: the kind of error that the job's function raised; None if its process died.
    """

    kind = "job"

    def __init__(self, job: Job, reason: str, text: str, cause: str | None = None) -> None:
        super().__init__(f"{job} failed: {reason}{text}")
        self.job, self.reason, self.cause = job, reason, cause

    @property
    def details(self) -> dict[str, object]:
        return {"job": {"name": self.job.name, **self.job.to_json()}, "reason": self.reason}


@dataclass(frozen=True)
class Done:
    """The end of a job.

    Attributes:
        job: the job.
        failure: why it has no result; None if it has one, which the store holds then.
        where: where it was done, as a part of a sentence; empty if it was known.
    """

    job: Job
    failure: JobFailed | None = None
    where: str = ""


Report = Callable[[Done], bool]


class Engine(Protocol):
    """What does jobs: processes of this machine, or a cluster."""

    @property
    def at_once(self) -> int:
        """How many jobs it does at once, as far as it is known now; 1 at least."""

    def run(self, jobs: Sequence[Job], store: Store, report: Report, progress: Progress) -> None:
        """Do jobs with different names, of which none has a result, in any order.

        `report` is told of each that ends, and says whether others may still begin; those that
        are under way then end all the same.

        Raises:
            Mbv3cError: the engine itself cannot go on. What is in the store stays there.
        """


@overload
def run_jobs(
    jobs: Sequence[Job], store: Store, engine: Engine, progress: Progress
) -> list[Result]: ...


@overload
def run_jobs(
    jobs: Sequence[Job],
    store: Store,
    engine: Engine,
    progress: Progress,
    *,
    failures: Literal["return"],
) -> list[Result | JobFailed]: ...


def run_jobs(
    jobs: Sequence[Job],
    store: Store,
    engine: Engine,
    progress: Progress,
    *,
    failures: Literal["raise", "return"] = "raise",
) -> list[Result] | list[Result | JobFailed]:
    """Return the results of jobs in their order; those that the store does not know are done.

    Args:
        jobs: what to do; jobs of one name are done once.
        store: where input files and results are kept; other runs may use it at once.
        engine: what does them.
        progress: told of each job that ends.
        failures: `raise` begins no other job after one has failed, and raises when those under
            way have ended; `return` does all, and returns failures in the place of results.

    Raises:
        JobFailed: a job has failed, unless `failures` says otherwise.
        BundleError: the store cannot be written.
        Mbv3cError: the engine cannot go on, or a result cannot be written.
    """
    names = [job.name for job in jobs]
    todo = {name: job for name, job in zip(names, jobs, strict=True) if store.result(name) is None}
    count, failed = len(todo), dict[str, JobFailed]()
    done = set[str]()

    def report(end: Done) -> bool:
        done.add(end.job.name)
        if end.failure is not None:
            failed[end.job.name] = end.failure
        what = "failed" if end.failure is not None else "done"
        where = f" {end.where}" if end.where else ""
        progress(f"{end.job} {what}{where}: {len(done)} of {count}")
        return failures == "return" or end.failure is None

    if todo:
        try:
            engine.run(list(todo.values()), store, report, progress)
        except OSError as error:
            # Of a full disk the system names no file.
            full = error.errno in (ENOSPC, EDQUOT)
            place = store.folder if full else error.filename
            if place is None or not Path(place).is_relative_to(store.folder):
                raise
            step = "free some space, or " if full else ""
            raise BundleError(
                f"cannot write {error.filename or place}: {error.strerror}; {step}name another "
                "folder with --store"
            ) from error
    if failed and failures == "raise":
        raise next(iter(failed.values()))
    ended = [failed.get(name) or store.result(name) for name in names]
    assert all(one is not None for one in ended)
    return [one for one in ended if one is not None]  # for the type
