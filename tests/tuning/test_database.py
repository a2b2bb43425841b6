"""The tuning database: what is written stays, and what is damaged is not touched."""

import json
import multiprocessing
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3c import records as record_files
from mbv3c.errors import UsageError
from mbv3c.records import open_locked
from mbv3c.tuning.database import (
    META,
    RECORDS,
    Context,
    Database,
    DatabaseError,
    Record,
    best,
    folder_for,
    merge,
)

CONTEXT = Context("arm_cpu:cortex-a76", 1, "0.27", "instructions")


def record(key: str = "a", rows: int = 1, cost: float | None = 90.0, **more: object) -> Record:
    fields = {"outcome": "ok", "baseline": 100.0, "kept": False} | more
    return Record(key, {"rows": rows}, cost=cost, **fields)


def opened(folder: Path, *records: Record) -> Database:
    database = Database(folder)
    database.open(CONTEXT, {"seed": 0})
    database.append(records)
    return database


def test_what_was_written_is_read(tmp_path: Path) -> None:
    records = [record(rows=1), record(rows=2, cost=None, outcome="timeout", baseline=None)]
    database = opened(tmp_path / "a", *records)
    assert database.records() == records
    assert Database(tmp_path / "a").open(CONTEXT, {"seed": 1}) == records
    meta = json.loads((tmp_path / "a" / META).read_text())
    assert [run["seed"] for run in meta["runs"]] == [0, 1]


def test_a_database_that_is_not_there_is_empty(tmp_path: Path) -> None:
    database = Database(tmp_path / "none")
    assert database.context() is None
    assert database.records() == []
    assert not (tmp_path / "none").exists()


@given(cut=st.integers(1, 200))
def test_a_torn_last_line_is_dropped_and_the_rest_stays(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    database = opened(folder, record(rows=1), record(rows=2))
    path = folder / RECORDS
    whole = path.read_bytes()
    last = len(whole) - whole[:-1].rindex(b"\n") - 1
    path.write_bytes(whole[: -min(cut, last - 1)])
    assert database.torn()
    assert database.records() == [record(rows=1)]
    assert database.open(CONTEXT, {}) == [record(rows=1)]
    database.append([record(rows=3)])
    assert database.records() == [record(rows=1), record(rows=3)]


@pytest.mark.parametrize("at", [0, 10, 40])
def test_a_damaged_line_is_an_error_and_the_file_stays(at: int, tmp_path: Path) -> None:
    database = opened(tmp_path, record(rows=1), record(rows=2))
    path = tmp_path / RECORDS
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DatabaseError, match=r"line 1 is damaged .*nothing was changed"):
        database.records()
    with pytest.raises(DatabaseError, match="line 1 is damaged"):
        database.open(CONTEXT, {})
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "other",
    [
        Context("arm_cpu:cortex-a55", 1, "0.27", "instructions"),
        Context("arm_cpu:cortex-a76", 2, "0.27", "instructions"),
        Context("arm_cpu:cortex-a76", 1, "0.28", "instructions"),
        Context("arm_cpu:cortex-a76", 1, "0.27", "us"),
    ],
    ids=["device", "kernels", "tvm", "unit"],
)
def test_a_database_for_something_else_is_refused(other: Context, tmp_path: Path) -> None:
    before = opened(tmp_path, record()).records()
    with pytest.raises(DatabaseError, match="was made for arm_cpu:cortex-a76"):
        Database(tmp_path).open(other, {})
    assert Database(tmp_path).records() == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 99}'])
def test_damaged_meta_is_an_error(text: str, tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / META).write_text(text)
    with pytest.raises(DatabaseError, match=str(tmp_path)):
        Database(tmp_path).context()
    assert (tmp_path / META).read_text() == text


def test_only_one_process_writes(tmp_path: Path) -> None:
    database = Database(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    with database.only_one(), spawn.Pool(1) as pool:
        assert "another process is tuning" in pool.apply(_locked_out, (tmp_path,))
    with database.only_one():
        pass


def test_what_a_killed_process_left_is_waited_for(tmp_path: Path) -> None:
    held = open_locked(tmp_path / ".lock")
    threading.Timer(0.3, held.close).start()
    with Database(tmp_path).only_one():
        assert held.closed


def _locked_out(folder: Path) -> str:
    record_files.PATIENCE = 0.1
    try:
        with Database(folder).only_one():
            return ""
    except DatabaseError as error:
        return str(error)


def test_the_best_is_what_was_kept_and_gains_most() -> None:
    records = [
        record("a", 1, 10.0),  # fast, and never proved
        record("a", 2, 80.0, kept=True),
        record("a", 3, 70.0, kept=True),
        record("b", 1, 95.0, kept=True),
        record("c", 1, None, outcome="run", baseline=None),
    ]
    found = best(records)
    assert {key: one.knobs["rows"] for key, one in found.items()} == {"a": 3, "b": 1}


def test_merging_adds_what_is_new(tmp_path: Path) -> None:
    database = opened(tmp_path, record(rows=1))
    assert merge(database, [record(rows=1), record(rows=2)]) == 1
    assert database.records() == [record(rows=1), record(rows=2)]


@pytest.mark.parametrize("name", ["arm_cpu", ":cortex-a76", "arm_cpu:../x", ""])
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="names no device"):
        folder_for(Path("logs"), name)
