"""Where jobs are done, in the words of a user: processes here, a scheduler's workers, a queue."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mbv3c.jobs.cluster.dask_engine import DaskWorkers
from mbv3c.jobs.cluster.need import EXTRA, full_address, need, need_dask
from mbv3c.jobs.cluster.service import SETTINGS
from mbv3c.jobs.cluster.work import STORE_VARIABLE
from mbv3c.jobs.engine import Engine
from mbv3c.jobs.local import LocalProcesses
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress

LOCAL, SLURM, KUBERNETES = "local", "slurm", "kubernetes"
_HERE = "127.0.0.1"


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
            ClusterError: a cluster cannot be started.
        """
        here = LocalProcesses(self.jobs, self.threads)
        if self.cluster is None:
            yield here
            return
        need_dask()
        starts = {LOCAL: _local, SLURM: slurm, KUBERNETES: kubernetes}
        if self.cluster not in starts:
            yield DaskWorkers(full_address(self.cluster), self.threads)
            return
        import dask

        with dask.config.set(SETTINGS):
            progress(f"starting {here.at_once} workers ({self.cluster})")
            cluster = starts[self.cluster](here, store)
        try:
            yield DaskWorkers(cluster, self.threads, alike=True)
        finally:
            cluster.close()


def _local(here: LocalProcesses, store: Store) -> Any:
    """Start a scheduler and workers on this machine, which share the session's store."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=here.at_once,
        threads_per_worker=1,
        host=_HERE,
        dashboard_address=f"{_HERE}:0",
        worker_dashboard_address=f"{_HERE}:0",
        memory_limit=0,
        env={**os.environ, STORE_VARIABLE: str(store.folder)},
    )


def slurm(here: LocalProcesses, store: Store) -> Any:
    """Have Slurm start workers, each a job of its queue; the scheduler is in this process.

    Queue, memory, time and account stand in Dask's settings, `jobqueue.slurm`.

    Raises:
        ToolError: dask-jobqueue is not installed.
    """
    need("dask_jobqueue", f"{EXTRA} dask-jobqueue")
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(cores=here.threads, processes=1)
    cluster.scale(jobs=here.at_once)
    return cluster


def kubernetes(here: LocalProcesses, store: Store) -> Any:
    """Have Dask's operator start a scheduler and workers in a cluster of Kubernetes.

    Image and namespace stand in Dask's settings, `kubernetes`.

    Raises:
        ToolError: dask-kubernetes is not installed.
    """
    need("dask_kubernetes", f"{EXTRA} dask-kubernetes")
    from dask_kubernetes.operator import KubeCluster

    return KubeCluster(name="mbv3c", n_workers=here.at_once)
