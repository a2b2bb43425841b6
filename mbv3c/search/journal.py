"""What a search has found so far, in a file that survives any interruption.

The first line says what decides the result, as JSON; every other line is something that was found,
under a key. What is known is not found again, so that a search that was killed goes on where it
was, and to the same end. A line that is torn is cut off.
"""

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused
from mbv3c.errors import BundleError, UsageError
from mbv3c.records import append, open_locked, whole_lines

_VERSION = 1
_LONGEST_HEAD = 1 << 20  # bytes; any other file may have no lines


class Journal:
    """An open journal.

    Attributes:
        path: the file; what belongs to the search may lie beside it.
    """

    def __init__(self, path: Path, file: IO[bytes], known: dict[str, Any]) -> None:
        self.path, self._file, self._known = path, file, known

    def knows(self, *key: str | int) -> bool:
        """Say whether something was found already."""
        return _key(key) in self._known

    def once(self, *key: str | int, find: Callable[[], Any]) -> Any:
        """Return what was found under a key, or find it now; then it is on the disk.

        Args:
            key: what it is known by.
            find: returns it, as JSON has it.

        Returns:
            What was found, as it is read from JSON, whether it was known or not.

        Raises:
            BundleError: it cannot be written.
        """
        text = _key(key)
        if text not in self._known:
            line = _line({"key": list(key), "value": find()})
            _append(self.path, self._file, line)
            self._known[text] = json.loads(line)["value"]
        return self._known[text]

    def __len__(self) -> int:
        return len(self._known)


@contextmanager
def open_journal(path: Path, header: Mapping[str, Any]) -> Iterator[Journal]:
    """Open a search's journal, or begin one, and keep others from writing to it.

    Args:
        path: the file.
        header: all that decides the result of the search.

    Raises:
        UsageError: it belongs to another search or is no journal, or another process has it.
        BundleError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_locked(path)
    except BlockingIOError as error:
        raise UsageError(
            f"another process writes the journal {path}; wait for it, or choose another folder"
        ) from error
    except OSError as error:
        raise _cannot_write(path, error) from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a device may never end
            raise UsageError(f"{path} is no file; choose another folder")
        head = json.loads(_line({"journal": _VERSION, **header}))
        yield Journal(path, file, _resume(path, file, head))


def _resume(path: Path, file: IO[bytes], head: dict[str, Any]) -> dict[str, Any]:
    """Check whose journal it is, cut off what is torn, and return what was found, by key."""
    file.seek(0)
    first = file.readline(_LONGEST_HEAD)
    if not first.endswith(b"\n"):  # nothing yet, or killed within the first line
        if first and not _line(head).startswith(first):
            raise UsageError(f"{path} is no journal of this command; name another file")
        file.truncate(0)
        _append(path, file, _line(head))
        return {}
    _check_head(path, _parsed(first), head)
    known: dict[str, Any] = {}
    end = file.tell()
    for line in whole_lines(file):
        record = _parsed(line)
        if record is None or "value" not in record or not isinstance(record.get("key"), list):
            break
        known[_key(record["key"])] = record["value"]
        end += len(line)
    file.truncate(end)
    return known


def _check_head(path: Path, first: dict[str, Any] | None, head: dict[str, Any]) -> None:
    if first is None or "journal" not in first:
        raise UsageError(f"{path} is no journal of this command; name another file")
    other = list(_differing(first, head))
    if other:
        raise UsageError(
            f"the journal {path} belongs to a search with another {', '.join(other)}; choose "
            "another folder, or delete this file to begin anew"
        )


def _differing(
    first: Mapping[str, Any], head: Mapping[str, Any], above: str = ""
) -> Iterator[str]:
    """Yield the names of what differs, such as `training.rate`."""
    for key in dict.fromkeys((*head, *first)):
        one, other = first.get(key), head.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differing(one, other, f"{above}{key}.")
        elif one != other:
            yield f"{above}{key}"


def _key(parts: Any) -> str:
    return json.dumps(list(parts))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line)
    except Refused:
        return None
    return record if isinstance(record, dict) else None


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _append(path: Path, file: IO[bytes], line: bytes) -> None:
    try:
        append(file, line)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"cannot write the journal {path}: {error.strerror}; free some space, or choose another "
        "folder; what it holds is kept"
    )
