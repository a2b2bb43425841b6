"""Jobs that are asked for one after the other, and done several at once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from mbv3c.jobs.engine import Engine, JobFailed, run_jobs
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Result, Store
from mbv3c.progress import Progress

_FOR_EACH_WORKER = 2  # so that few wait while another is at a long one


@dataclass(frozen=True)
class JobsAhead:
    """The results of jobs, of which those that follow are done beforehand.

    Who asks decides by each result what to ask for next, as if one job was done after the other.

    Attributes:
        engine: what does jobs.
        store: where results are kept.
        progress: told of each job that ends.
    """

    engine: Engine
    store: Store
    progress: Progress
    _failed: dict[str, JobFailed] = field(default_factory=dict)

    def prepare(self, jobs: Iterator[Job]) -> None:
        """Do the first of some jobs, and as many of the others as there is room for beside it.

        If the first has ended already, the others are not looked at.

        Raises:
            Mbv3cError: the engine cannot go on.
        """
        first = next(jobs, None)
        if first is None or self._ended(first):
            return
        count = _FOR_EACH_WORKER * self.engine.at_once
        others = (job for job in jobs if not self._ended(job))
        together = [first, *islice(others, count - 1)]
        ended = run_jobs(together, self.store, self.engine, self.progress, failures="return")
        failures = (one for one in ended if isinstance(one, JobFailed))
        self._failed.update((one.job.name, one) for one in failures)

    def result(self, job: Job) -> Result:
        """Return what came of a job; it is done now if it was not prepared.

        Raises:
            JobFailed: it has no result.
            Mbv3cError: the engine cannot go on.
        """
        self.prepare(iter([job]))
        if (failure := self._failed.get(job.name)) is not None:
            raise failure
        result = self.store.result(job)
        assert result is not None, "what did not fail is done"
        return result

    def _ended(self, job: Job) -> bool:
        return job.name in self._failed or self.store.result(job) is not None
