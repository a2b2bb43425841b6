"""An engine for tests that does jobs in this process, as if several were done at once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module

from mbv3c.jobs.engine import Done, JobFailed, Report
from mbv3c.jobs.job import Job, kind_of
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress


@dataclass
class HereAtOnce:
    """Does jobs in this process.

    Attributes:
        at_once: how many it says that it does at once.
        asked: the jobs that were asked for, together with others or alone.
        fault: why all of them fail, and of which kind the error was; None if they are done.
    """

    at_once: int = 1
    asked: list[list[Job]] = field(default_factory=list)
    fault: tuple[str, str | None] | None = None

    @property
    def names(self) -> list[str]:
        return [job.name for jobs in self.asked for job in jobs]

    def run(self, jobs: Sequence[Job], store: Store, report: Report, progress: Progress) -> None:
        self.asked.append(list(jobs))
        for job in jobs:
            if self.fault is not None:
                reason, cause = self.fault
                report(Done(job, JobFailed(job, reason, "", cause)))
                continue
            module, _, name = kind_of(job.kind).function.partition(":")
            files = {each: store.get(digest) for each, digest in job.files.items()}
            options = json.loads(json.dumps(dict(job.options)))
            function = getattr(import_module(module), name)
            store.keep(job.name, function(options, files, store.attempt(job.name), progress), {})
            report(Done(job))
