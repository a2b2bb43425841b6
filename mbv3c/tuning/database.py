"""What there is to tune, and what was measured: a file of records per device, which only grows.

    tune_logs/FAMILY/DEVICE/records.jsonl   a record per line, in the order of measurement
    tune_logs/FAMILY/DEVICE/metaschedule.jsonl   those of TVM's operators, for a CPU
    tune_logs/FAMILY/DEVICE/meta.json       what made them: target, versions, machine, runs

A record is written whole before the next measurement begins, so that whatever interrupts a
search, all that was measured before is there. A last line that was torn by a power loss is dropped
when the file is next written to; a line that is damaged anywhere else is an error, and the file
stays as it is. TVM's own database stores traces of schedule primitives on TensorIR blocks. Our
kernels have none: they are written from knobs, and a record of shape and knobs is all there is to
say. So the format is our own. A record of one of TVM's operators holds the hash of its workload
and MetaSchedule's trace. Such records lie beside ours, in a file of their own, and are written,
merged and kept as ours are.

What a record holds depends on who measures: a kernel of a CPU (`Record`, here) or a whole network
for an NPU (`estimates.Estimate`). The files have one form.
"""

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import numpy as np

from mbv3c.atomic import new_file
from mbv3c.door.documents import MOST_RECORDS, parse_json, read_json
from mbv3c.door.files import Refused, plain_file
from mbv3c.errors import Mbv3cError, UsageError
from mbv3c.lowering import traced
from mbv3c.lowering.plan import Array, Plan, Step
from mbv3c.records import append, open_locked, torn_bytes, whole_lines

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Task:
    """A kernel to tune.

    Attributes:
        kind: kind of the steps that the kernel computes.
        shape: sizes that the kernel is written for, a dataclass of the module that writes it.
        step: first step that needs the kernel.
        calls: number of calls in an inference.
    """

    kind: str
    shape: Any
    step: Step
    calls: int

    @property
    def key(self) -> str:
        return key_of(self.kind, self.shape)

    @property
    def work(self) -> int:
        """How much there is to do in a call: multiply-adds, of TVM's operators turns of loops."""
        return self.step.madds or getattr(self.shape, "turns", 0)

    @property
    def name(self) -> str:
        """Say what it is, for people."""
        first = self.step.nodes[0] if self.step.nodes else self.kind
        if self.step.operator:  # one of those that compute the nodes of a region
            first = f"{self.step.operator} in {first}"
        return first if self.calls == 1 else f"{first} and {self.calls - 1} more"


def key_of(kind: str, shape: Any) -> str:
    """Return the text under which measurements of a kernel are remembered.

    Integer kernels that differ in their zero points only, as calibration makes them, share one.
    """
    measured = getattr(shape, "typical", shape)
    return json.dumps({"kind": kind, **asdict(measured)}, sort_keys=True)


def tasks_of(plans: Iterable[Plan]) -> list[Task]:
    """Return the kernels of some networks that have knobs, each once, by their first call."""
    calls: dict[str, list[Step]] = {}
    for step in (step for plan in plans for step in plan.steps):
        if step.shape is not None and step.knobs:
            calls.setdefault(key_of(step.kind, step.shape), []).append(step)
    return [Task(steps[0].kind, steps[0].shape, steps[0], len(steps)) for steps in calls.values()]


def weight_shapes(task: Task) -> list[tuple[int, ...]]:
    """Return the extents of the weights that a kernel takes, as ONNX has them."""
    shape = getattr(task.shape, "shape", task.shape)  # of a kernel that does more beside
    match task.kind:
        case "pointwise" | "stored_pointwise":
            return [(shape.outputs, shape.inputs), (shape.outputs,)]
        case "depthwise":
            taps = (shape.vertical.taps, shape.horizontal.taps)
            return [(shape.channels, 1, *taps), (shape.channels,)]
        case "convolution":
            taps = (shape.vertical.taps, shape.horizontal.taps)
            return [(shape.outputs, shape.inputs, *taps), (shape.outputs,)]
        case "squeeze_excite" | "stored_squeeze_excite" | "gates":
            c, s = shape.channels, shape.squeezed
            return [(s, c), (s,), (c, s), (c,)]
    return []


def draw(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw numbers of a normal distribution, in fp32."""
    return random.standard_normal(shape).astype(np.float32)


RECORDS, META = "records.jsonl", "meta.json"
METASCHEDULE = "metaschedule.jsonl"  # what was measured of TVM's operators
SCHEMA = 1


class DatabaseError(Mbv3cError):
    """A tuning database is damaged, or for something else."""


@dataclass(frozen=True)
class Record:
    """One measurement of one candidate.

    Attributes:
        key: name of the kernel, by `tasks.key_of`.
        knobs: choices for the kernel.
        outcome: "ok", or what failed: "build", "run", "timeout" or "wrong"; only "ok" has a cost.
        cost: cost in the unit of the database; None where there is none.
        baseline: cost of the default choices, measured beside the candidate.
        kept: whether the candidate won against the default in a last contest.
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
        target: name of the target, `FAMILY:DEVICE`.
        kernels: version of the kernels, `VERSION` of `kernels.py` in the wing of the target.
        tvm: version of apache-tvm.
        unit: unit of the costs: us, instructions or estimated cycles.
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

    files: tuple[str, ...] = (RECORDS,)

    def __init__(self, folder: Path, record: type[R], context: type[C]) -> None:
        self.folder = folder
        self._record = record
        self._context = context

    def context(self) -> C | None:
        """Return what its records have in common; None for a database that is not there.

        Raises:
            DatabaseError: meta.json is damaged, or of another schema.
        """
        path = self.folder / META
        try:
            meta = read_json(path)
            if meta["schema"] != SCHEMA:
                raise DatabaseError(
                    f"{path} has schema {meta['schema']}, and this version reads {SCHEMA}; move "
                    f"{self.folder} away and tune again"
                )
            return _of_kind(meta["context"], self._context)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatabaseError(
                f"{path} cannot be read ({error}); restore it, or move {self.folder} away"
            ) from error

    def open(self, context: C, run: dict[str, Any]) -> list[R]:
        """Prepare for writing and return the records that are there.

        Args:
            context: context of the records that will be written.
            run: machine, date, seed and runner of this run, for people.

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
        for path in self._paths:
            if torn := torn_bytes(path):
                os.truncate(path, path.stat().st_size - torn)
        runs = read_json(self.folder / META).get("runs", ()) if known else ()
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
        records = []
        for path in self._paths:
            if path.exists():
                try:
                    with plain_file(path, MOST_RECORDS) as file:
                        lines = enumerate(whole_lines(file), 1)
                        records += [self._read(path, number, line) for number, line in lines]
                except Refused as error:
                    raise DatabaseError(
                        f"{path} cannot be read ({error}); restore it, or move {self.folder} away"
                    ) from error
        return records

    def append(self, records: Sequence[R]) -> None:
        """Write records at the end; when this returns they are on the disk."""
        for path in self._paths:
            own = [record for record in records if self.file_of(record) == path.name]
            if own or path.name == RECORDS:
                with path.open("ab") as file:
                    append(file, "".join(map(_written, own)).encode())

    def file_of(self, record: R) -> str:
        """Return the file, one of `files`, that a record belongs into."""
        return RECORDS

    def clear(self) -> None:
        """Delete all records, and what says what made them."""
        (self.folder / META).unlink()
        for path in self._paths:
            path.unlink(missing_ok=True)

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
        return (
            _of_kind(context, self._context),
            [_of_kind(fields, self._record) for fields in records],
        )

    def torn(self) -> bool:
        """Say whether a last line was only half written."""
        return any(map(torn_bytes, self._paths))

    @property
    def _paths(self) -> list[Path]:
        return [self.folder / name for name in self.files]

    def _read(self, path: Path, number: int, line: bytes) -> R:
        try:
            text, _, check = line.removesuffix(b"\n").rpartition(b"\t")
            if int(check, 16) != zlib.crc32(text):
                raise ValueError("its checksum is another")
            return _of_kind(parse_json(text), self._record)
        except (ValueError, TypeError) as error:
            raise DatabaseError(
                f"{path}, line {number} is damaged ({error}); nothing was changed: restore "
                "the file, or remove the line"
            ) from error


class Database(RecordLog[Record, Context]):
    """The records of one CPU."""

    files = (RECORDS, METASCHEDULE)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Record, Context)

    def file_of(self, record: Record) -> str:
        return METASCHEDULE if is_operator(record.key) else RECORDS


def is_operator(key: str) -> bool:
    """Say whether a key is that of one of TVM's operators."""
    return f'"kind": "{traced.KIND}"' in key


def best(records: Sequence[Record]) -> dict[str, Record]:
    """Return for every key the kept record that gains most on its baseline."""
    least: dict[str, float] = {}
    winners: dict[str, Record] = {}
    for record in records:
        relative = record.relative
        if record.kept and relative is not None and relative < least.get(record.key, math.inf):
            least[record.key], winners[record.key] = relative, record
    return winners


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


_Kind = TypeVar("_Kind", bound="DataclassInstance")


def _of_kind(given: Any, kind: type[_Kind]) -> _Kind:
    """Make a dataclass of its JSON form, whose fields are all known and of their types."""
    made = msgspec.convert(given, kind)
    unknown = given.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise TypeError(f"unknown field {min(unknown)!r}")
    return made


def _written(record: "DataclassInstance") -> str:
    text = json.dumps(asdict(record), sort_keys=True)
    return f"{text}\t{zlib.crc32(text.encode()):08x}\n"
