"""What was measured: a file of records for each device, which only ever grows.

    tune_logs/FAMILY/DEVICE/records.jsonl   a record per line, in the order of measurement
    tune_logs/FAMILY/DEVICE/meta.json       what made them: target, versions, machine, runs

A record is written whole before the next measurement begins, so that whatever interrupts a
search, all that was measured before is there. A last line that was torn by a power loss is dropped
when the file is next written to; a line that is damaged anywhere else is an error, and the file
stays as it is. TVM's own database stores traces of schedule primitives on TensorIR blocks. Our
kernels have none: they are written from knobs, and a record of shape and knobs is all there is to
say. So the format is our own.

What a record holds depends on who measures: a kernel of a CPU (`Record`, here) or a whole network
for an NPU (`estimates.Estimate`). The files are the same.
"""

import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mbv3c.atomic import new_file
from mbv3c.errors import Mbv3cError, UsageError
from mbv3c.records import append, open_locked, torn_bytes, whole_lines

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RECORDS, META = "records.jsonl", "meta.json"
SCHEMA = 1


class DatabaseError(Mbv3cError):
    """A tuning database is damaged, or for something else."""


@dataclass(frozen=True)
class Record:
    """One measurement of one candidate.

    Attributes:
        key: the kernel, as `tasks.key_of` names it.
        knobs: the choices.
        outcome: "ok", or what failed: "build", "run", "timeout" or "wrong"; only "ok" has a cost.
        cost: in the unit of the database; None where there is none.
        baseline: of the default choices, measured beside it.
        kept: whether it won against the default in a contest of their own.
    """

    key: str
    knobs: dict[str, Any]
    outcome: str
    cost: float | None
    baseline: float | None
    kept: bool = False

    @property
    def relative(self) -> float | None:
        """Its cost, relative to the default's; None where there is none."""
        return self.cost / self.baseline if self.cost and self.baseline else None


@dataclass(frozen=True)
class Context:
    """What records must have in common to be used together.

    Attributes:
        target: `FAMILY:DEVICE`.
        kernels: version of the kernels, `VERSION` of `mbv3c.lowering.kernels` or `gpu_kernels`.
        tvm: version of apache-tvm.
        unit: of the costs: us, instructions or estimated cycles.
    """

    target: str
    kernels: int
    tvm: str
    unit: str

    def __str__(self) -> str:
        return f"{self.target} (kernels {self.kernels}, apache-tvm {self.tvm}, {self.unit})"


R = TypeVar("R", bound="DataclassInstance")
C = TypeVar("C", bound="DataclassInstance")


class RecordLog(Generic[R, C]):
    """Records of one kind, for one device, in a folder.

    `record` and `context` are frozen dataclasses of JSON's types; a context says in `str` what it
    is.
    """

    def __init__(self, folder: Path, record: type[R], context: type[C]) -> None:
        self.folder = folder
        self._path = folder / RECORDS
        self._record = record
        self._context = context

    def context(self) -> C | None:
        """Return what its records have in common; None for a database that is not there.

        Raises:
            DatabaseError: meta.json is damaged, or of another schema.
        """
        path = self.folder / META
        try:
            meta = json.loads(path.read_text())
            if meta["schema"] != SCHEMA:
                raise DatabaseError(
                    f"{path} has schema {meta['schema']}, and this version reads {SCHEMA}; move "
                    f"{self.folder} away and tune again"
                )
            return self._context(**meta["context"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatabaseError(
                f"{path} cannot be read ({error}); restore it, or move {self.folder} away"
            ) from error

    def open(self, context: C, run: dict[str, Any]) -> list[R]:
        """Prepare for writing and return the records that are there.

        Args:
            context: of the records that will be written.
            run: who writes them, for people: machine, date, seed, runner.

        Raises:
            DatabaseError: the database is damaged, or was made in another context.
        """
        known = self.context()
        if known is not None and known != context:
            raise DatabaseError(
                f"{self.folder} was made for {known}, and this is {context}; give "
                "another --database, or `mbv3c tune --prune` it"
            )
        records = self.records()
        if torn := torn_bytes(self._path):
            os.truncate(self._path, self._path.stat().st_size - torn)
        runs = json.loads((self.folder / META).read_text())["runs"] if known else []
        meta = {"schema": SCHEMA, "context": asdict(context), "runs": [*runs, run]}
        self.folder.mkdir(parents=True, exist_ok=True)
        with new_file(self.folder / META, force=True) as file:
            file.write_text(json.dumps(meta, indent=2) + "\n")
        return records

    def records(self) -> list[R]:
        """Read all records; a torn last line counts as not written.

        Raises:
            DatabaseError: a line is damaged.
        """
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            return [self._read(number, line) for number, line in enumerate(whole_lines(file), 1)]

    def append(self, records: Sequence[R]) -> None:
        """Write records at the end; when this returns they are on the disk."""
        with self._path.open("ab") as file:
            append(file, "".join(map(_written, records)).encode())

    @contextmanager
    def only_one(self) -> Iterator[None]:
        """Keep other processes from writing to the database.

        Raises:
            DatabaseError: another does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = open_locked(self.folder / ".lock")
        except BlockingIOError as error:
            raise DatabaseError(
                f"another process is tuning into {self.folder}; wait for it, or give another "
                "--database"
            ) from error
        with lock:
            yield

    def read(self, context: dict[str, Any], records: list[dict[str, Any]]) -> tuple[C, list[R]]:
        """Make a context and records of their JSON forms.

        Raises:
            TypeError: they are of another kind.
        """
        return self._context(**context), [self._record(**one) for one in records]

    def torn(self) -> bool:
        """Say whether the last line was only half written."""
        return torn_bytes(self._path) > 0

    def _read(self, number: int, line: bytes) -> R:
        try:
            text, _, check = line.removesuffix(b"\n").rpartition(b"\t")
            if int(check, 16) != zlib.crc32(text):
                raise ValueError("its checksum is another")
            return self._record(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise DatabaseError(
                f"{self._path}, line {number} is damaged ({error}); nothing was changed: restore "
                "the file, or remove the line"
            ) from error


class Database(RecordLog[Record, Context]):
    """The records of one CPU."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Record, Context)


def best(records: Sequence[Record]) -> dict[str, Record]:
    """Return for every key the kept record that gains most on its baseline."""
    least: dict[str, float] = {}
    found: dict[str, Record] = {}
    for record in records:
        relative = record.relative
        if record.kept and relative is not None and relative < least.get(record.key, math.inf):
            least[record.key], found[record.key] = relative, record
    return found


def merge(into: RecordLog[R, C], others: Sequence[R]) -> int:
    """Append the records that are not there yet; return how many that were."""
    known = {_written(record) for record in into.records()}
    new = [record for record in others if _written(record) not in known]
    into.append(new)
    return len(new)


def folder_for(root: Path, target: str) -> Path:
    """Return the folder of a target's records under the folder of all.

    Raises:
        UsageError: the name is no `FAMILY:DEVICE`.
    """
    family, _, device = target.partition(":")
    if not family or not device or "/" in target:
        raise UsageError(f"{target!r} names no device; write FAMILY:DEVICE")
    return root / family / device


def _written(record: "DataclassInstance") -> str:
    text = json.dumps(asdict(record), sort_keys=True)
    return f"{text}\t{zlib.crc32(text.encode()):08x}\n"
