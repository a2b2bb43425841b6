"""What a user asks of `tune`, and what it returns, for every backend."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mbv3c.atomic import new_file
from mbv3c.door.documents import MOST_RECORDS, read_json
from mbv3c.errors import UsageError
from mbv3c.execution.cache import cache_root
from mbv3c.execution.device.place import Place
from mbv3c.jobs.ahead import JobsAhead
from mbv3c.jobs.cluster.where import Where
from mbv3c.jobs.store import Store
from mbv3c.progress import Progress
from mbv3c.tuning.database import DatabaseError, RecordLog, merge


@dataclass(frozen=True)
class TuneRequest:
    """What was asked; None where nothing was said.

    Attributes:
        root: the folder of all tuning databases.
        runner: the name of what measures.
        trials: the largest number of candidates.
        seconds: the time for the search.
        patience: the number of batches of a kernel without a gain after which it is left alone.
        seed: the seed by which candidates are drawn.
        place: the devices that measure.
        sram_bytes: a budget of SRAM.
        given: the names of the options above that the user gave.
        cluster: as `--cluster` takes it; None for no cluster.
        jobs: how many measurements are done at once, each as a job; 0 for as many as there are
            processors. None for this process, one after the other, unless there is a cluster.
        store: the folder of what jobs did; None for that in the cache.
    """

    root: Path
    runner: str | None = None
    trials: int | None = None
    seconds: float | None = None
    patience: int = 3
    seed: int = 0
    place: Place | None = None
    sram_bytes: int | None = None
    given: frozenset[str] = field(default_factory=frozenset)
    cluster: str | None = None
    jobs: int | None = None
    store: Path | None = None

    @property
    def in_jobs(self) -> bool:
        """Whether measurements are jobs."""
        return self.cluster is not None or self.jobs is not None

    @contextmanager
    def jobs_ahead(self, progress: Progress) -> Iterator[JobsAhead | None]:
        """Yield what has jobs done, if it was asked for.

        Raises:
            UsageError: the words make no sense, or the folder cannot be used.
            ToolError: a cluster needs something that is not installed.
        """
        if not self.in_jobs:
            yield None
            return
        store = Store(self.store or cache_root() / "jobs")
        with Where(self.cluster, self.jobs or 0).engine(store, progress) as engine:
            yield JobsAhead(engine, store, progress)


class Tuning(Protocol):
    """What `tune` did."""

    def lines(self) -> Iterator[str]:
        """Say what the tuning achieved."""

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""

    def draw(self, path: Path, *, force: bool) -> None:
        """Draw what was found.

        Raises:
            UsageError: there is nothing to draw, or the picture cannot be written.
        """


@dataclass(frozen=True)
class TuningDatabase:
    """The tuning database of one target.

    Attributes:
        records: the records.
        is_current: whether records of a context can be used for the device, here and now.
        status: what is in the database, in words.
    """

    records: RecordLog[Any, Any]
    is_current: Callable[[Any], bool]
    status: Callable[[], list[str]]

    def prune(self) -> str:
        """Delete records that other versions made; say how many.

        Raises:
            DatabaseError: the database is damaged.
        """
        database = self.records
        context = database.context()
        if context is None or self.is_current(context):
            return f"{database.folder}: nothing to prune"
        count = len(database.records())
        with database.only_one():
            database.clear()
        return f"{database.folder}: {count} records of {context} deleted"

    def import_from(self, path: Path) -> str:
        """Add the records of an exported file that the database lacks; say how many.

        Raises:
            UsageError: there is no such file.
            DatabaseError: it is damaged, or for another device, or made by other versions.
        """
        database = self.records
        try:
            contents = read_json(path, MOST_RECORDS)
            context, records = database.read(contents["context"], contents["records"])
        except FileNotFoundError as error:
            raise UsageError(f"no such file: {path}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatabaseError(f"{path} is no exported tuning database ({error})") from error
        if not self.is_current(context):
            raise DatabaseError(
                f"{path} was measured for {context}: it cannot be used for {database.folder} here"
            )
        with database.only_one():
            database.open(context, {"imported": path.name})
            added = merge(database, records)
        return f"{database.folder}: {added} of {len(records)} records added"

    def export_to(self, path: Path) -> str:
        """Write all records to one file of JSON; say how many.

        Raises:
            UsageError: there is nothing to export, or the file exists.
            DatabaseError: the database is damaged.
        """
        context, records = self.records.context(), self.records.records()
        if context is None:
            raise UsageError(f"{self.records.folder} holds nothing to export; `mbv3c tune` first")
        contents = {"context": asdict(context), "records": [asdict(record) for record in records]}
        with new_file(path, force=False) as file:
            file.write_text(json.dumps(contents, indent=1) + "\n")
        return f"{path}: {len(records)} records of {context}"
