"""Databases in and out: export to one file, import from it, prune what is stale."""

import json
from dataclasses import asdict
from pathlib import Path

from mbv3c.atomic import new_file
from mbv3c.errors import UsageError
from mbv3c.targets.table import Target
from mbv3c.tuning.choices import context_of
from mbv3c.tuning.database import META, RECORDS, Context, Database, DatabaseError, Record, merge


def export_records(database: Database, path: Path) -> str:
    """Write a database to one file of JSON and say how much that is.

    Raises:
        UsageError: there is nothing to export, or the file exists.
        DatabaseError: the database is damaged.
    """
    context, records = database.context(), database.records()
    if context is None:
        raise UsageError(f"{database.folder} holds nothing to export; `mbv3c tune` first")
    contents = {"context": asdict(context), "records": [asdict(one) for one in records]}
    with new_file(path, force=False) as file:
        file.write_text(json.dumps(contents, indent=1) + "\n")
    return f"{path}: {len(records)} records of {context.target}"


def import_records(database: Database, target: Target, path: Path) -> str:
    """Add the records of an exported file that are not there yet; of equals the better wins.

    Raises:
        UsageError: there is no such file.
        DatabaseError: it is damaged, or for another device, other kernels or another TVM.
    """
    try:
        contents = json.loads(path.read_text())
        context = Context(**contents["context"])
        records = [Record(**one) for one in contents["records"]]
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatabaseError(f"{path} is no exported tuning database ({error})") from error
    if context != context_of(target, context.unit):
        raise DatabaseError(
            f"{path} was measured for {context.target} with kernels {context.kernels} and "
            f"apache-tvm {context.tvm}: it cannot be used for {target.name} here"
        )
    with database.only_one():
        database.open(context, {"imported": path.name})
        added = merge(database, records)
    return f"{database.folder}: {added} of {len(records)} records added"


def prune(database: Database, target: Target) -> str:
    """Delete a database that was measured with other kernels or another TVM.

    Raises:
        DatabaseError: it is damaged.
    """
    context = database.context()
    if context is None or context == context_of(target, context.unit):
        return f"{database.folder}: nothing to prune"
    count = len(database.records())
    with database.only_one():
        (database.folder / META).unlink()
        (database.folder / RECORDS).unlink(missing_ok=True)
    return f"{database.folder}: {count} records of kernels {context.kernels} deleted"
