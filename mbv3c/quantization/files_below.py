"""The files below a folder, in an order that never changes; memory holds one folder's names."""

import os
from collections.abc import Iterator
from pathlib import Path

from mbv3c.errors import UsageError

_MOST_AGAIN, _DEEPEST = 1_000, 100  # folders that links lead to again; folders in each other


def files_below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the files with some endings in a folder and below it, in the order of the names.

    Hidden files and folders are left out.

    Args:
        folder: the folder, to which the paths that are yielded are relative.
        suffixes: endings of names, in lower case.

    Raises:
        UsageError: a folder cannot be listed, or links lead around in circles.
    """
    yield from _Walk(folder, suffixes).files(folder, ())


class _Walk:
    """A walk through a folder, in which links may lead to a folder again, but not without end."""

    def __init__(self, top: Path, suffixes: tuple[str, ...]) -> None:
        self._top, self._suffixes = top, suffixes
        self._seen, self._again = set[tuple[int, int]](), 0

    def files(self, folder: Path, within: tuple[tuple[int, int], ...]) -> Iterator[str]:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in within:  # a link that leads back
            return
        if here in self._seen:
            self._again += 1
        self._seen.add(here)
        if self._again > _MOST_AGAIN or len(within) > _DEEPEST:
            raise UsageError(
                f"the folders in {self._top} link to each other, or are nested deeper than "
                f"{_DEEPEST}: more than {_MOST_AGAIN:,} are there again; name one without such "
                "links"
            )
        names, folders = listing(folder, self._suffixes)
        for name in names:
            if name not in folders:
                yield name
                continue
            for file in self.files(folder / name, (*within, here)):
                yield f"{name}/{file}"


def listing(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[str], set[str]]:
    """Return the names of files and folders in a folder, sorted, and which are folders.

    A folder whose name ends like a file's is taken for a file, and found broken.

    Raises:
        UsageError: the folder cannot be listed.
    """
    names, folders = [], set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.name.lower().endswith(suffixes):
                    names.append(entry.name)
                elif entry.is_dir():
                    names.append(entry.name)
                    folders.add(entry.name)
    except OSError as error:
        raise UsageError(
            f"cannot list the folder {folder}: {error.strerror}; see to its permissions"
        ) from error
    return sorted(names), folders
