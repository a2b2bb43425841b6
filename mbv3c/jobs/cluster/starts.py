"""Clusters that a session starts and ends itself: on this machine, in Slurm, in Kubernetes."""

import os
import shutil
from typing import Any

from mbv3c.errors import ToolError, UsageError
from mbv3c.installing import install_extra
from mbv3c.jobs.cluster.need import need
from mbv3c.jobs.cluster.service import SETTINGS
from mbv3c.jobs.cluster.work import STORE_VARIABLE
from mbv3c.jobs.local import LocalProcesses
from mbv3c.jobs.store import Store

HERE = "127.0.0.1"
_MEMORY = "2GiB"  # of a job of Slurm, unless Dask's settings say otherwise
_THEIR_IMAGE = "ghcr.io/dask/dask"


def start_local(workers: LocalProcesses, store: Store) -> Any:
    """Start a scheduler and workers on this machine, which share the session's store."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers.at_once,
        threads_per_worker=1,
        host=HERE,
        dashboard_address=f"{HERE}:0",
        worker_dashboard_address=f"{HERE}:0",
        memory_limit=0,
        env={**os.environ, STORE_VARIABLE: str(store.folder)},
    )


def start_slurm(workers: LocalProcesses, store: Store) -> Any:
    """Have Slurm start workers, each a job in its queue; the scheduler is in this process.

    Queue, account, time and memory stand in Dask's settings, `jobqueue.slurm`. Scheduler and
    workers trust only each other: by certificates in the store, which the nodes must see.

    Raises:
        ToolError: Slurm or dask-jobqueue is not installed.
    """
    if shutil.which("sbatch") is None:
        raise ToolError("there is no sbatch here: start mbv3c where Slurm takes jobs")
    need("dask_jobqueue", install_extra("cluster", "dask-jobqueue"))
    import dask
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(
        job_name="mbv3c",
        cores=workers.threads,
        processes=1,
        memory=dask.config.get("jobqueue.slurm.memory") or _MEMORY,
        protocol="tls://",
        security=True,
        shared_temp_directory=str(store.folder),
        scheduler_options={"dashboard": False, "dashboard_address": f"{HERE}:0"},
    )
    cluster.scale(jobs=workers.at_once)
    return cluster


def start_kubernetes(workers: LocalProcesses, store: Store) -> Any:
    """Have Dask's operator start a scheduler and workers in a cluster of Kubernetes.

    Image, namespace and the rest stand in Dask's settings, `kubernetes`.

    Raises:
        ToolError: dask-kubernetes is not installed.
        UsageError: the image is Dask's own, which has no mbv3c.
    """
    need("dask_kubernetes", install_extra("cluster", "dask-kubernetes"))
    import dask
    from dask_kubernetes.operator import KubeCluster

    image = str(dask.config.get("kubernetes.image", _THEIR_IMAGE))
    if image.startswith(_THEIR_IMAGE):
        raise UsageError(
            f"the image {image} has no mbv3c: set kubernetes.image in Dask's settings to one that "
            "has this version (docs/cluster.md)"
        )
    return KubeCluster(name="mbv3c", n_workers=workers.at_once, env=as_variables(SETTINGS))


def as_variables(settings: dict[str, Any]) -> dict[str, str]:
    """Return Dask's settings as variables of the environment."""
    return {
        f"DASK_{name.upper().replace('.', '__').replace('-', '_')}": str(value)
        for name, value in settings.items()
    }
