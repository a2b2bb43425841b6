"""The results of a long measurement so far, in a file that survives any interruption.

Every record is one group of images, in their order; what was cut off is computed again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mbv3c.accuracy.tally import Record
from mbv3c.journal import Lines, Words, open_lines

_WORDS = Words("a measurement", "name another with --journal")


class Journal:
    """An open journal.

    Attributes:
        path: file of the journal.
        groups: number of groups in the file.
    """

    def __init__(self, lines: Lines, groups: int) -> None:
        self.path, self.groups, self._lines = lines.path, groups, lines

    def add(self, images: list[Record]) -> None:
        """Append the images of the next group; when this returns they are on the disk.

        Raises:
            BundleError: it cannot be written.
        """
        self._lines.add({"group": self.groups, "images": images})
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
    groups = 0

    def take(record: dict[str, Any]) -> bool:
        nonlocal groups
        fits = record.get("group") == groups and "images" in record
        groups += fits
        return fits

    with open_lines(path, _WORDS) as lines:
        lines.resume(key, take)
        yield Journal(lines, groups)
