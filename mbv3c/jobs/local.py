"""Jobs in processes of this machine."""

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from mbv3c.errors import UsageError
from mbv3c.jobs.engine import Done, Report
from mbv3c.jobs.job import Job
from mbv3c.jobs.process import ATTEMPTS, Attempt, start
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress

_LOOK = 0.02  # seconds between two looks at processes
_OTHERS = 1.0  # seconds between two looks at what other runs are doing
_TOLD = 20.0  # seconds between two words about what is under way


@dataclass(frozen=True)
class LocalProcesses:
    """Jobs in processes of this machine, several at once.

    Attributes:
        workers: jobs at once; 0 for as many as there are processors.
        threads: threads that libraries may use in each.

    Raises:
        UsageError: a number is not possible.
    """

    workers: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.workers < 0 or self.threads < 1:
            raise UsageError(
                f"{self.workers} jobs at once with {self.threads} threads each are not possible; "
                "give whole numbers from 1 on"
            )

    @property
    def at_once(self) -> int:
        """How many jobs are done at once."""
        return self.workers or len(os.sched_getaffinity(0))

    def run(self, jobs: Sequence[Job], store: Store, report: Report, progress: Progress) -> None:
        """Do jobs as `Engine.run` says; jobs that another run has are waited for."""
        _Run(self, store, report, progress).run(jobs)


class _Run:
    def __init__(
        self, engine: LocalProcesses, store: Store, report: Report, progress: Progress
    ) -> None:
        self._engine, self._store = engine, store
        self._report, self._progress = report, progress
        self._under_way: list[tuple[Attempt, IO[bytes]]] = []
        self._others: list[Job] = []  # that other runs have
        self._go_on = True
        self._told = False
        self._said: dict[str, str] = {}  # last words of jobs, by name
        self._next_word = time.monotonic() + _TOLD

    def run(self, jobs: Sequence[Job]) -> None:
        waiting = deque(jobs)
        looked = time.monotonic()
        try:
            while self._under_way or (self._go_on and (waiting or self._others)):
                while self._go_on and waiting and len(self._under_way) < self._engine.at_once:
                    self._begin(waiting.popleft())
                if self._others and not waiting and time.monotonic() - looked >= _OTHERS:
                    looked = time.monotonic()
                    if not self._under_way and not self._told:
                        self._told = True
                        self._progress(f"waiting for {len(self._others)} jobs of another run")
                    waiting.extend(self._others)
                    self._others.clear()
                    continue
                if not self._look():
                    self._tell()
                    time.sleep(_LOOK)
        finally:
            for attempt, claim in self._under_way:
                attempt.kill()
                claim.close()

    def _begin(self, job: Job) -> None:
        name = job.name
        claim = self._store.claim(name)
        if claim is None:
            self._others.append(job)
            return
        if self._store.result(name) is not None:  # another run has done it
            self._store.finish(name)
            claim.close()
            self._end(Done(job, where="by another run"))
            return
        self._start(job, claim, 1)

    def _start(self, job: Job, claim: IO[bytes], number: int) -> None:
        try:
            attempt = start(job, self._store, claim, number, self._engine.threads)
        except BaseException:
            claim.close()
            raise
        self._under_way.append((attempt, claim))

    def _look(self) -> bool:
        """See to a process that has ended; say whether there was one."""
        for index, (attempt, claim) in enumerate(self._under_way):
            if not attempt.ended():
                continue
            del self._under_way[index]
            if attempt.died and attempt.number < ATTEMPTS:
                self._progress(f"the process of {attempt.job} died; trying again")
                self._start(attempt.job, claim, attempt.number + 1)
                return True
            try:
                failure = attempt.outcome(self._store)
            finally:
                claim.close()
            self._end(Done(attempt.job, failure))
            return True
        return False

    def _tell(self) -> None:
        """Tell what long jobs say, and which are stopped, if that is something new."""
        if time.monotonic() < self._next_word:
            return
        self._next_word = time.monotonic() + _TOLD
        for attempt, _ in self._under_way:
            said = attempt.said()
            words = f"{attempt.job}: {said}" if said else ""
            if stopped := attempt.stopped():
                numbers = " ".join(map(str, stopped))
                words = f"{attempt.job} is stopped; `kill -CONT {numbers}` lets it go on"
            if words and self._said.get(attempt.name) != words:
                self._said[attempt.name] = words
                self._progress(words)

    def _end(self, done: Done) -> None:
        self._go_on = self._report(done) and self._go_on
