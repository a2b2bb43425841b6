"""What runs in the workers of a cluster: plain functions of plain values."""

import hashlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mbv3c.jobs.engine import Done
from mbv3c.jobs.job import Job, job_from, versions_of
from mbv3c.jobs.local import LocalProcesses
from mbv3c.jobs.store import Store

STORE_VARIABLE = "MBV3C_STORE"
SOURCES = "sources of mbv3c"


def content(data: bytes) -> bytes:
    """Return an input file: a task of its own, which is done again if its worker dies."""
    return data


def describe(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions that this process has of packages and of mbv3c's own sources."""
    return {**versions_of(set(packages)), SOURCES: _sources()}


def held(names: Sequence[str], dask_worker: Any = None) -> list[str]:
    """Return which jobs are done here, or under way: a session that asked for them has ended.

    `dask_worker` is given by Dask.
    """
    store = _store(dask_worker)
    return [name for name in names if store.result(name) is not None or store.under_way(name)]


def perform(
    document: Mapping[str, Any],
    contents: Mapping[str, bytes],
    versions: Mapping[str, str],
    threads: int,
) -> dict[str, Any]:
    """Do a job in a child process, unless its result is here.

    Args:
        document: the job, as `Job.to_json` writes it.
        contents: its input files, by their sha256.
        versions: what `describe` says where it was asked for.
        threads: threads that libraries may use.

    Returns:
        `where`, and either `different` (versions that are others here), or `failed` (`reason`,
        `text`, `cause`), or `document` and `files` (their contents, by path).
    """
    where = f"on {socket.gethostname()}"
    here = describe(sorted(versions.keys() - {SOURCES, "mbv3c"}))
    if here != dict(versions):
        return {"where": where, "different": here}
    from distributed import get_worker

    job, store = job_from(document), _store(get_worker())
    try:
        return {"where": where, **_done(job, store, contents, threads)}
    except OSError as error:  # the session would take it for one of the connection
        reason = f"{error.filename or store.folder}: {error.strerror}; free some space there"
        return {"where": where, "failed": {"reason": reason, "text": "", "cause": "system"}}


def _done(job: Job, store: Store, contents: Mapping[str, bytes], threads: int) -> dict[str, Any]:
    """Return what `perform` does, but where."""
    for data in contents.values():
        store.put(data)
    failures: list[dict[str, Any]] = []

    def report(done: Done) -> bool:
        if done.failure is not None:
            failed = done.failure
            text = str(failed).removeprefix(f"{job} failed: {failed.reason}")
            failures.append({"reason": failed.reason, "text": text, "cause": failed.cause})
        return True

    if store.result(job) is None:
        LocalProcesses(1, threads).run([job], store, report, _nobody())
    if failures:
        return {"failed": failures[0]}
    result = store.result(job)
    assert result is not None
    files = {name: path.read_bytes() for name, path in result.files.items()}
    return {"document": dict(result.document), "files": files}


def _store(worker: Any) -> Store:
    """Return where a worker keeps what it does: `mbv3c cluster worker` says where."""
    own = os.environ.get(STORE_VARIABLE)
    return Store(Path(own) if own else Path(worker.local_directory) / "mbv3c-jobs")


def _nobody() -> Callable[[str], None]:
    return lambda text: None


@cache
def _sources() -> str:
    """Return a short hash of mbv3c's Python files: one version may have several in a checkout."""
    digest = hashlib.sha256()
    root = Path(str(resources.files("mbv3c")))
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
