"""The results of a long measurement so far, in a file that survives any interruption.

The first line says which measurement it is, as JSON; every other line is one group of images, in
their order. A line that is torn, and whatever follows it, is cut off and computed again.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mbv3c.accuracy.tally import Record
from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused
from mbv3c.errors import BundleError, UsageError
from mbv3c.records import append, open_locked, whole_lines

_VERSION = 1
_LONGEST_HEAD = 1 << 16  # bytes; any other file may have no lines


class Journal:
    """An open journal.

    Attributes:
        path: file of the journal.
        groups: number of groups in the file.
    """

    def __init__(self, path: Path, file: IO[bytes], groups: int) -> None:
        self.path, self.groups, self._file = path, groups, file

    def add(self, images: list[Record]) -> None:
        """Append the images of the next group; when this returns they are on the disk.

        Raises:
            BundleError: it cannot be written.
        """
        _append(self.path, self._file, _line({"group": self.groups, "images": images}))
        self.groups += 1

    def read(self) -> Iterator[Record]:
        """Read all images from the beginning."""
        with self.path.open("rb") as lines:
            next(lines)
            for line in lines:
                yield from json.loads(line)["images"]


@contextmanager
def open_journal(path: Path, key: dict[str, Any]) -> Iterator[Journal]:
    """Open a measurement's journal, or begin one, and keep others from writing to it.

    Args:
        path: file of the journal.
        key: all that the measurement depends on.

    Raises:
        UsageError: it belongs to another measurement or is no journal, or another process has it.
        BundleError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_locked(path)
    except BlockingIOError as error:
        raise UsageError(
            f"another process writes the journal {path}; wait for it, or name another with "
            "--journal"
        ) from error
    except OSError as error:
        raise _cannot_write(path, error) from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a device may never end
            raise UsageError(f"{path} is no file; name another with --journal")
        yield Journal(path, file, _resume(path, file, {"journal": _VERSION, **key}))


def _resume(path: Path, file: IO[bytes], head: dict[str, Any]) -> int:
    """Check whose journal it is, cut off what is torn, and return how many groups are whole."""
    file.seek(0)
    first = file.readline(_LONGEST_HEAD)
    if not first.endswith(b"\n"):  # nothing yet, or killed within the first line
        if first and not _line(head).startswith(first):
            raise UsageError(f"{path} is no journal of this command; name another file")
        file.truncate(0)
        _append(path, file, _line(head))
        return 0
    _check_head(path, _parsed(first), head)
    groups, end = 0, file.tell()
    for line in whole_lines(file):
        record = _parsed(line)
        if record is None or record.get("group") != groups or "images" not in record:
            break
        groups, end = groups + 1, end + len(line)
    file.truncate(end)
    return groups


def _append(path: Path, file: IO[bytes], line: bytes) -> None:
    try:
        append(file, line)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _check_head(path: Path, first: dict[str, Any] | None, head: dict[str, Any]) -> None:
    if first is None or "journal" not in first:
        raise UsageError(f"{path} is no journal of this command; name another file")
    other = [key for key in (*head, *first) if head.get(key) != first.get(key)]
    if other:
        raise UsageError(
            f"the journal {path} belongs to a measurement of another "
            f"{', '.join(dict.fromkeys(other))}; name another file with --journal, or delete this "
            "one to begin anew"
        )


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line)
    except Refused:
        return None
    return record if isinstance(record, dict) else None


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _cannot_write(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"cannot write the journal {path}: {error.strerror}; free some space, or name another "
        "place with --journal; what it holds is kept"
    )
