"""Where jobs are done, in the words of a user: processes here, a scheduler's workers, a queue."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mbv3c.errors import UsageError
from mbv3c.jobs.cluster.dask_engine import DaskWorkers
from mbv3c.jobs.cluster.need import full_address, need_dask
from mbv3c.jobs.cluster.service import SETTINGS
from mbv3c.jobs.cluster.starts import start_kubernetes, start_local, start_slurm
from mbv3c.jobs.engine import Engine
from mbv3c.jobs.local import LocalProcesses
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress

_MOST = 32  # jobs at once for each processor of this machine, of which each has a process

_STARTS = {"local": start_local, "slurm": start_slurm, "kubernetes": start_kubernetes}


@dataclass(frozen=True)
class Where:
    """Where jobs are done.

    Attributes:
        cluster: the address of a scheduler, `local`, `slurm` or `kubernetes`; None for processes
            of this machine without a cluster.
        jobs: how many at once, but at an address, where the workers say it; 0 for as many as this
            machine has processors.
        threads: threads that libraries may use in each.
    """

    cluster: str | None = None
    jobs: int = 0
    threads: int = 1

    @contextmanager
    def engine(self, store: Store, progress: Progress) -> Iterator[Engine]:
        """Yield what does jobs, and end what was started for it afterwards.

        Raises:
            UsageError: the words make no sense.
            ToolError: something that is needed is not installed.
        """
        here = LocalProcesses(self.jobs, self.threads)
        most = _MOST * len(os.sched_getaffinity(0))
        if self.cluster in (None, "local") and self.jobs > most:
            raise UsageError(
                f"--jobs {self.jobs}: each is a process of its own, and this machine has "
                f"{most // _MOST} processors; give {most} at most"
            )
        if self.cluster is None:
            yield here
            return
        need_dask()
        if self.cluster not in _STARTS:
            yield DaskWorkers(full_address(self.cluster), self.threads)
            return
        import dask

        with dask.config.set(SETTINGS):
            progress(f"starting {here.at_once} workers ({self.cluster})")
            cluster = _STARTS[self.cluster](here, store)
        try:
            yield DaskWorkers(cluster, self.threads, alike=True)
        finally:
            cluster.close()
