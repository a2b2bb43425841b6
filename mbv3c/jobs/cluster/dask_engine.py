"""The engine that has jobs done by the workers of a Dask scheduler.

Dask only carries jobs: what is done is in the store, here or at a worker, under the job's name. So
a worker, the scheduler or this session may end at any time. A job whose worker dies is given to
another one; if the scheduler is gone, it is waited for; a session that is started again asks the
workers first what they have done, or are doing, for the one before.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mbv3c.jobs.cluster.need import ClusterError, check_certificates, need_dask
from mbv3c.jobs.cluster.work import SOURCES, content, describe, held, perform
from mbv3c.jobs.engine import Done, JobFailed, Report
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress

if TYPE_CHECKING:
    from distributed import Client, Future

_DEATHS = 3  # of workers while they did one job, after which it is given up
_LOOK = 1.0  # seconds between two looks for a worker
_CONNECT = 10.0  # seconds of one attempt to connect
_RETURN = 60.0  # seconds in which workers come back to a scheduler that was started again


class _Lost(Exception):  # noqa: N818 - the scheduler is
    """The connection to the scheduler is gone."""


@dataclass(frozen=True)
class DaskWorkers:
    """Workers of a Dask scheduler.

    Attributes:
        address: the scheduler's, or Dask's own object of a cluster.
        threads: threads that libraries may use in each job.
        patience: seconds to wait for a scheduler that cannot be reached.
        alike: whether all workers are like this machine, so that resources say nothing.
    """

    address: Any
    threads: int = 1
    patience: float = 300.0
    alike: bool = False

    @property
    def at_once(self) -> int:
        """How many jobs its workers do at once; 1 while there is none.

        Raises:
            ClusterError: the scheduler cannot be reached.
        """
        need_dask()
        with self._connected(lambda text: None) as client:
            workers = client.scheduler_info(-1)["workers"].values()
            threads: int = sum(worker["nthreads"] for worker in workers)
        return max(1, threads)

    def run(self, jobs: Sequence[Job], store: Store, report: Report, progress: Progress) -> None:
        """Do jobs as `Engine.run` says; what is under way when one fails stays with its worker.

        Raises:
            UsageError: there are no certificates for an address of TLS.
            ClusterError: the scheduler cannot be reached, or a worker does not fit.
        """
        need_dask()
        if isinstance(self.address, str):  # Dask's own object has certificates of its own
            check_certificates(self.address, "client")
        todo = {job.name: replace(job, resources={}) if self.alike else job for job in jobs}
        before = 1
        while todo:
            try:
                with self._connected(progress) as client:
                    this_round = _Round(client, store, report, progress, self.threads)
                    before = this_round.wait_for_workers(before)
                    this_round.run(todo)
            except _Lost:
                progress(f"the scheduler at {self._where} is gone; what is done is kept")

    @property
    def _where(self) -> str:
        return str(getattr(self.address, "scheduler_address", self.address))

    @contextmanager
    def _connected(self, progress: Progress) -> "Iterator[Client]":
        import dask
        from distributed import Client

        end, told = time.monotonic() + self.patience, False
        while True:
            try:
                with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
                    client = Client(self.address, timeout=_CONNECT, set_as_default=False)
                break
            except (OSError, TimeoutError) as error:
                if time.monotonic() > end:
                    raise ClusterError(
                        f"no scheduler answers at {self._where}: {error}; start one with `mbv3c "
                        "cluster scheduler`"
                    ) from error
            if not told:
                told = True
                progress(
                    f"no scheduler answers at {self._where} yet; waiting for it, "
                    f"{self.patience:.0f} s at most"
                )
            time.sleep(_LOOK)
        try:
            yield client
        finally:
            client.close(timeout=_CONNECT)


class _Round:
    """What one connection to a scheduler does."""

    def __init__(
        self,
        client: "Client",
        store: Store,
        report: Report,
        progress: Progress,
        threads: int,
    ) -> None:
        self._client, self._store, self._threads = client, store, threads
        self._report, self._progress = report, progress
        self._files: dict[str, Future] = {}
        self._futures: dict[Future, str] = {}
        self._deaths: dict[str, int] = {}

    def run(self, todo: dict[str, Job]) -> None:
        """Do jobs, and take each out of `todo` that has ended."""
        from concurrent.futures import CancelledError

        from distributed import KilledWorker, as_completed
        from distributed.comm import CommClosedError

        with _lost_if(OSError, CommClosedError, CancelledError, TimeoutError):
            self._check(self._workers(), list(todo.values()))
            known = self._held(list(todo))
            for name, job in todo.items():
                self._submit(name, job, known.get(name))
            waiting = as_completed(list(self._futures), loop=self._client.loop)
            for future in waiting:
                name = self._futures.pop(future)
                job = todo[name]
                try:
                    said = future.result()
                except KilledWorker:
                    said = self._died(name, job)
                    if said is None:
                        waiting.add(self._submit(name, job, None))
                        continue
                future.release()
                del todo[name]
                if not self._report(self._taken(job, said)):
                    todo.clear()
                    break

    def wait_for_workers(self, before: int) -> int:
        """Wait until there is a worker, and for a while for as many as there were before.

        After a scheduler was started again, those that are late may hold what is done.
        """
        told, end = False, time.monotonic() + _RETURN
        while True:
            with _lost_if(OSError, TimeoutError):
                count = len(self._workers())
            if count >= before or (count and time.monotonic() > end):
                return count
            if self._client.status != "running":
                raise _Lost
            if not told and not count:
                told = True
                address = self._client.scheduler.address
                self._progress(
                    f"waiting for a worker; `mbv3c cluster worker {address}` starts one"
                )
            time.sleep(_LOOK)

    def _workers(self) -> dict[str, dict[str, Any]]:
        """Return the workers that are there, by their addresses."""
        workers: dict[str, dict[str, Any]] = self._client.scheduler_info(-1)["workers"]
        return workers

    def _check(self, workers: Mapping[str, Mapping[str, Any]], jobs: Sequence[Job]) -> None:
        """Make sure that every job can be done, and equally by all.

        Raises:
            ClusterError: a worker has other versions, or none has what a job needs.
        """
        packages = sorted({name for job in jobs for name in job.versions} - {"mbv3c"})
        try:
            found: dict[str, Any] = self._client.run(describe, packages, on_error="return")
        except (ImportError, AttributeError) as error:
            raise ClusterError(f"the workers cannot do jobs of mbv3c: {error}") from error
        own = describe(packages)
        for address, there in found.items():
            worker = f"the worker {workers.get(address, {}).get('name', address)} at {address}"
            if isinstance(there, ImportError | AttributeError):
                raise ClusterError(
                    f"{worker} cannot do jobs of mbv3c: {there}; install mbv3c there as here"
                ) from there
            if isinstance(there, BaseException):
                raise there
            has = workers.get(address, {}).get("resources", {})
            for job in jobs:
                if _fits(job, has):
                    _check_versions(worker, there, own, job)
        for job in jobs:
            if not any(_fits(job, one.get("resources", {})) for one in workers.values()):
                needs = ",".join(f"{name}={count:g}" for name, count in job.resources.items())
                raise ClusterError(
                    f"no worker has {needs}, which {job} needs; start one with `mbv3c cluster "
                    f"worker {self._client.scheduler.address} --resources {needs}`"
                )

    def _held(self, names: Sequence[str]) -> dict[str, str]:
        """Return which worker has done some jobs, or is doing them."""
        found: dict[str, Any] = self._client.run(held, names, on_error="ignore")
        return {name: address for address, there in found.items() for name in there}

    def _submit(self, name: str, job: Job, where: str | None) -> "Future":
        contents = {digest: self._file(digest) for digest in job.files.values()}
        packages = sorted(job.versions.keys() - {"mbv3c"})
        future = self._client.submit(
            perform,
            job.to_json(),
            contents,
            describe(packages),
            self._threads,
            key=f"mbv3c-{name}-{self._deaths.get(name, 0)}",
            resources=dict(job.resources) or None,
            workers=[where] if where else None,
            allow_other_workers=where is not None,
            pure=False,
        )
        self._futures[future] = name
        return future

    def _file(self, digest: str) -> "Future":
        if digest not in self._files:
            data = self._store.get(digest).read_bytes()
            self._files[digest] = self._client.submit(
                content, data, key=f"mbv3c-file-{digest}", pure=True
            )
        return self._files[digest]

    def _died(self, name: str, job: Job) -> dict[str, Any] | None:
        """Count the death of a job's worker; None if the job may be tried again."""
        self._deaths[name] = self._deaths.get(name, 0) + 1
        if self._deaths[name] < _DEATHS:
            self._progress(f"the worker of {job} died; trying again")
            return None
        reason = f"its workers died, {_DEATHS} times"
        return {"where": "", "failed": {"reason": reason, "text": "", "cause": None}}

    def _taken(self, job: Job, said: Mapping[str, Any]) -> Done:
        """Keep what a worker has sent.

        Raises:
            ClusterError: it has other versions; it came after the others.
        """
        if "different" in said:
            own = describe(sorted(job.versions.keys() - {"mbv3c"}))
            _check_versions(f"a worker {said['where']}", said["different"], own, job)
        if "failed" in said:
            failed = said["failed"]
            text = f"{failed['text']} ({said['where']})" if failed["text"] else ""
            return Done(job, JobFailed(job, failed["reason"], text, failed["cause"]))
        self._store.keep_bytes(job.name, said["document"], said["files"])
        return Done(job, where=said["where"])


def _fits(job: Job, has: Mapping[str, float]) -> bool:
    return all(has.get(name, 0) >= count for name, count in job.resources.items())


def _check_versions(
    worker: str, there: Mapping[str, str], own: Mapping[str, str], job: Job
) -> None:
    for package in ("mbv3c", *job.versions, SOURCES):
        if there[package] != own[package]:
            raise ClusterError(
                f"{worker} has {package} {there[package]}, and this machine {own[package]}: "
                f"{job} would have another result there; install one version on both"
            )


@contextmanager
def _lost_if(*errors: type[BaseException]) -> "Iterator[None]":
    try:
        yield
    except errors as error:
        raise _Lost from error
