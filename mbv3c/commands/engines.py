"""The options that say where jobs are done; several commands share them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import PATH, all_of, taken

if TYPE_CHECKING:
    from mbv3c.jobs.engine import Engine
    from mbv3c.jobs.store import Store

store_option = click.option(
    "--store",
    type=PATH,
    help="Keep what was computed in this folder.  [default: `jobs` in the cache]",
)
cluster_option = click.option(
    "--cluster",
    help="Do the work on a cluster: HOST:PORT of its scheduler, local, slurm or kubernetes.",
)
# Where jobs are done, and what is known; `take_engine` reads them.
engine_options = all_of(
    cluster_option,
    click.option("--jobs", type=int, help="Do so much at once.  [default: as many as processors]"),
    store_option,
)
# For a command that works in its own process if nothing is said; `take_where` reads them.
where_options = all_of(
    cluster_option,
    click.option(
        "--jobs",
        type=int,
        help="Count or estimate in so many processes at once.  [default: in this one; on a "
        "cluster as many as processors]",
    ),
    store_option,
)


def take_where(given: dict[str, Any]) -> dict[str, Any]:
    """Take `cluster`, `jobs` and `store` out of what was given; None where nothing was said.

    Raises:
        UsageError: the options make no sense.
    """
    from mbv3c.errors import UsageError

    where = taken(given, "cluster", "jobs", "store")
    _count(where["jobs"])
    if where["store"] is not None and where["cluster"] is None and where["jobs"] is None:
        raise UsageError("--store keeps what jobs do: give --cluster or --jobs, too")
    return where


@contextmanager
def take_engine(
    given: dict[str, Any], progress: Callable[[str], None]
) -> "Iterator[tuple[Engine, Store]]":
    """Take the options out of what was given; yield what does jobs, and where results are kept.

    Raises:
        UsageError: the options make no sense.
        ToolError: the cluster needs something that is not installed.
    """
    from mbv3c.jobs.cluster.where import Where
    from mbv3c.jobs.store import Store

    cluster, jobs, folder = taken(given, "cluster", "jobs", "store").values()
    where = Where(cluster, _count(jobs))
    store = Store(store_folder(folder))
    with where.engine(store, progress) as engine:
        yield engine, store


def store_folder(given: Path | None) -> Path:
    """Return the folder of results that was given, or the user's own."""
    from mbv3c.execution.cache import cache_root

    return given or cache_root() / "jobs"


def _count(jobs: int | None) -> int:
    from mbv3c.errors import UsageError

    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs {jobs}: give a whole number from 1 on")
    return jobs or 0
