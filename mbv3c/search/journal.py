"""What a search has found so far, in a file that survives any interruption.

Everything that was found stands under a key. What is known is not found again, so that a search
that was killed goes on where it was, and to the same end.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.journal import Lines, Words, open_lines

_SEARCH = Words("a search", "name another folder with --output", "remove its folder")
_ADAPT = Words("an adaptation", "name another folder with --journal", "remove its folder")


class Journal:
    """An open journal.

    Attributes:
        path: the file; what belongs to the search may lie beside it.
    """

    def __init__(self, lines: Lines, known: dict[str, Any]) -> None:
        self.path, self._lines, self._known = lines.path, lines, known

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
            value = find()
            self._lines.add({"key": list(key), "value": value})
            self._known[text] = json.loads(json.dumps(value))
        return self._known[text]

    def __len__(self) -> int:
        return len(self._known)


def check_folder(journal: Path) -> None:
    """Make sure that the folder of a journal is a search's own, before work begins.

    It may be missing or empty, or else has a journal; `open_journal` finds out whose.

    Raises:
        UsageError: the folder holds other things and no journal, or cannot be read.
    """
    folder = journal.parent
    try:
        there = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(
            f"cannot keep a search in {folder}: {error.strerror}; name another folder"
        ) from error
    if there and journal.name not in there:
        others = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UsageError(
            f"{folder} holds {there[0]}{others}, and no {journal.name} of a search that could go "
            "on; name a folder that is new or empty"
        )


@contextmanager
def open_journal(path: Path, header: Mapping[str, Any]) -> Iterator[Journal]:
    """Open a search's journal, or begin one, and keep others from writing to it.

    Args:
        path: the file.
        header: all that decides the result; of an adaptation its `command` is `adapt`.

    Raises:
        UsageError: it belongs to another search or is no journal, or another process has it.
        BundleError: it cannot be written.
    """
    known: dict[str, Any] = {}

    def take(record: dict[str, Any]) -> bool:
        if "value" not in record or not isinstance(record.get("key"), list):
            return False
        known[_key(record["key"])] = record["value"]
        return True

    with open_lines(path, _ADAPT if header.get("command") == "adapt" else _SEARCH) as lines:
        lines.resume(header, take)
        yield Journal(lines, known)


def _key(parts: Any) -> str:
    return json.dumps(list(parts))
