"""The processes of a cluster: `mbv3c cluster scheduler` and `mbv3c cluster worker`."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from mbv3c.errors import UsageError
from mbv3c.jobs.cluster.need import (
    ClusterError,
    check_certificates,
    host_of,
    is_loopback,
    need_dask,
)
from mbv3c.jobs.cluster.work import STORE_VARIABLE
from mbv3c.progress import Progress

_ALLOWED_FAILURES = 1000
_HERE = "127.0.0.1"
_AGAIN = 1.0  # seconds before a worker looks for the scheduler again
# HTTP, with which Dask tells how it is, stays on this machine; the port is any.
_STATUS = f"{_HERE}:0"

SETTINGS = {
    # What a worker has been given when it dies is suspected of killing it. So it is given what it
    # does, and nothing that would wait there; and no number of deaths of others makes a job bad.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": _ALLOWED_FAILURES,
    # It would look at threads that wait for processes, a hundred times a second.
    "distributed.worker.profile.enabled": False,
}


def run_scheduler(host: str, port: int, progress: Progress, *, insecure: bool = False) -> None:
    """Bring sessions and workers together until this process is ended.

    Args:
        host: address to listen at.
        port: port to listen at; 0 for any.
        progress: told of the address, and what the next steps are.
        insecure: whether to listen to other machines without TLS.

    Raises:
        UsageError: other machines could connect, without TLS.
        ClusterError: the port cannot be listened at.
        ToolError: Dask distributed is not installed.
    """
    need_dask()
    protocol = _protocol()
    _check_reach(host, protocol, insecure=insecure)
    check_certificates(f"{protocol}://{host}:{port}", "scheduler")
    import dask
    from distributed import Scheduler

    async def serve() -> None:
        async with Scheduler(
            host=host, port=port, protocol=protocol, dashboard=False, dashboard_address=_STATUS
        ) as scheduler:
            progress(f"scheduler at {scheduler.address}")
            address = scheduler.address.removeprefix("tcp://")
            join = f"mbv3c cluster worker {address}{' --insecure' * insecure}"
            progress(
                f"machines join it by `{join}`; work for it is started with `--cluster {address}`"
            )
            await scheduler.finished()

    with dask.config.set(SETTINGS):
        try:
            asyncio.run(serve())
        except OSError as error:
            raise ClusterError(
                f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port"
            ) from error


def run_worker(
    address: str,
    jobs: int,
    resources: Mapping[str, float],
    store: Path,
    progress: Progress,
    *,
    host: str | None = None,
    insecure: bool = False,
) -> None:
    """Do jobs for a scheduler until this process is ended; wait for it when it is gone.

    Args:
        address: the scheduler's.
        jobs: how many are done at once.
        resources: what this machine has, such as {"npu": 1}.
        store: folder in which input files and results are kept.
        progress: told of the connection.
        host: address to listen at; by default the one from which the scheduler is reached.
        insecure: whether to listen to other machines without TLS.

    Raises:
        UsageError: other machines could connect, without TLS.
        ToolError: Dask distributed is not installed.
    """
    need_dask()
    check_certificates(address, "worker")
    here = host or (_HERE if is_loopback(host_of(address)) else None)
    _check_reach(here or "", address.partition("://")[0], insecure=insecure)
    os.environ[STORE_VARIABLE] = str(store.absolute())

    import dask
    from distributed import Worker

    async def serve() -> None:
        while True:
            progress(f"looking for the scheduler at {address}")
            async with Worker(
                address,
                nthreads=jobs,
                resources=dict(resources),
                host=here,
                dashboard_address=_STATUS,
                memory_limit=0,  # jobs are processes of their own
            ) as worker:
                progress(f"worker at {worker.address}, {jobs} jobs at once")
                await worker.finished()
            await asyncio.sleep(_AGAIN)

    with dask.config.set(SETTINGS):
        asyncio.run(serve())


def parse_resources(text: str | None) -> dict[str, float]:
    """Read what a machine has: `npu=1,board=pi5` is one NPU, and a board that is a pi5.

    Raises:
        UsageError: it is written otherwise.
    """
    found: dict[str, float] = {}
    for part in filter(None, (text or "").split(",")):
        name, _, value = part.partition("=")
        if not name.strip() or not value.strip():
            raise UsageError(f"--resources {text!r}: write NAME=NUMBER or NAME=WORD, like npu=1")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            found[f"{name.strip()}={value.strip()}"] = 1.0
    if not all(0 < count < float("inf") for count in found.values()):
        raise UsageError(f"--resources {text!r}: a machine has at least one of what it has")
    return found


def _protocol() -> str:
    """Return `tls` where Dask's settings name certificates, else `tcp`."""
    from distributed.security import Security

    security = Security()
    return "tls" if security.tls_ca_file and security.tls_scheduler_cert else "tcp"


def _check_reach(host: str, protocol: str, *, insecure: bool) -> None:
    if protocol == "tls" or insecure or is_loopback(host):
        return
    raise UsageError(
        "whoever reaches this port can run programs as you: give Dask certificates "
        "(docs/cluster.md), or say --insecure in a network that you trust"
    )
