"""A file of records that survives any interruption, and says what they belong to.

The first line says that, as JSON; every other line is a record. What was appended is on the disk.
A line that is torn, and whatever follows it, is cut off.
"""

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused
from mbv3c.errors import BundleError, UsageError
from mbv3c.records import append, open_locked, whole_lines

_VERSION = 1
_LONGEST_HEAD = 1 << 20  # bytes; any other file may have no lines


@dataclass(frozen=True)
class Words:
    """What errors about a journal say.

    Attributes:
        work: what it belongs to, such as `a search`.
        elsewhere: how to have another journal, such as `choose another folder`.
        anew: how to begin once more in its place.
    """

    work: str
    elsewhere: str
    anew: str = "delete this file"


class Lines:
    """The records of an open journal.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, file: IO[bytes], words: Words) -> None:
        self.path, self._file, self._words = path, file, words

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record; when this returns it is on the disk.

        Raises:
            BundleError: it cannot be written.
        """
        try:
            append(self._file, _line(record))
        except OSError as error:
            raise _cannot_write(self.path, error, self._words) from error

    def resume(self, head: Mapping[str, Any], take: Callable[[dict[str, Any]], bool]) -> None:
        """Check whose records these are, and go through them; begin where there are none.

        A head without a record belongs to nobody: what wrote it was refused, or was interrupted
        before it had anything to keep.

        Args:
            head: what they must belong to.
            take: takes a record, and says whether it is one that may stand there; the first that
                may not is cut off with all that follow it.

        Raises:
            UsageError: they belong to something else, or this is no journal.
            BundleError: it cannot be written.
        """
        head = json.loads(_line({"journal": _VERSION, **head}))
        self._file.seek(0)
        first = self._file.readline(_LONGEST_HEAD)
        if not first.endswith(b"\n"):  # nothing yet, or killed within the first line
            if first and not _line(head).startswith(first):
                raise self._no_journal()
            self._file.truncate(0)
            self.add(head)
            return
        other = self._other(_parsed(first), head)
        end = self._file.tell()
        if other and not self._file.read(1):
            self._file.truncate(0)
            self.add(head)
            return
        if other:
            raise UsageError(
                f"the journal {self.path} belongs to {self._words.work} with another "
                f"{', '.join(other)}; {self._words.elsewhere}, or {self._words.anew} to begin anew"
            )
        self._file.seek(end)
        for line in whole_lines(self._file):
            record = _parsed(line)
            if record is None or not take(record):
                break
            end += len(line)
        self._file.truncate(end)

    def _other(self, first: dict[str, Any] | None, head: Mapping[str, Any]) -> list[str]:
        """Return the names of what differs from what the records belong to."""
        if first is None or "journal" not in first:
            raise self._no_journal()
        return list(differing(first, head))

    def _no_journal(self) -> UsageError:
        return UsageError(f"{self.path} is no journal of this command; name another file")


@contextmanager
def open_lines(path: Path, words: Words) -> Iterator[Lines]:
    """Open a journal, and keep others from writing to it; its folder is made where there is none.

    Raises:
        UsageError: another process has it, or it is no file.
        BundleError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_locked(path)
    except BlockingIOError as error:
        raise UsageError(
            f"another process writes the journal {path}; wait for it, or {words.elsewhere}"
        ) from error
    except OSError as error:
        raise _cannot_write(path, error, words) from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a device may never end
            raise UsageError(f"{path} is no file; {words.elsewhere}")
        yield Lines(path, file, words)


def differing(first: Mapping[str, Any], head: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the names of what differs, such as `training.rate`."""
    for key in dict.fromkeys((*head, *first)):
        one, other = first.get(key), head.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from differing(one, other, f"{above}{key}.")
        elif one != other:
            yield f"{above}{key}"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line)
    except Refused:
        return None
    return record if isinstance(record, dict) else None


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _cannot_write(path: Path, error: OSError, words: Words) -> BundleError:
    return BundleError(
        f"cannot write the journal {path}: {error.strerror}; free some space, or "
        f"{words.elsewhere}; what it holds is kept"
    )
