"""Databases in and out: export to one file, import from it, prune what is stale."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mbv3c.atomic import new_file
from mbv3c.errors import UsageError
from mbv3c.tuning.database import META, RECORDS, C, DatabaseError, R, RecordLog, merge


def export_records(database: RecordLog[R, C], path: Path) -> str:
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
    return f"{path}: {len(records)} records of {context}"


def import_records(database: RecordLog[R, C], current: Callable[[C], bool], path: Path) -> str:
    """Add the records of an exported file that are not there yet; of equals the better wins.

    Args:
        database: where to.
        current: says whether records of a context can be used for the device, here and now.
        path: the file.

    Raises:
        UsageError: there is no such file.
        DatabaseError: it is damaged, or for another device, or made by other versions.
    """
    try:
        contents = json.loads(path.read_text())
        context, records = database.read(contents["context"], contents["records"])
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatabaseError(f"{path} is no exported tuning database ({error})") from error
    if not current(context):
        raise DatabaseError(
            f"{path} was measured for {context}: it cannot be used for {database.folder} here"
        )
    with database.only_one():
        database.open(context, {"imported": path.name})
        added = merge(database, records)
    return f"{database.folder}: {added} of {len(records)} records added"


def prune(database: RecordLog[R, C], current: Callable[[C], bool]) -> str:
    """Delete a database that other versions made, of which `current` says no.

    Raises:
        DatabaseError: it is damaged.
    """
    context = database.context()
    if context is None or current(context):
        return f"{database.folder}: nothing to prune"
    count = len(database.records())
    with database.only_one():
        (database.folder / META).unlink()
        (database.folder / RECORDS).unlink(missing_ok=True)
    return f"{database.folder}: {count} records of {context} deleted"
