"""Plain files of a bounded size; devices and pipes, which may never end, are not read."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_MIB = 1 << 20


class Refused(ValueError):  # noqa: N818
    """A file is not let in; the message says why, without the name of the file."""


@contextmanager
def plain_file(path: Path, most: int) -> Iterator[BinaryIO]:
    """Open a plain file of `most` bytes or less; a pipe does not hold the caller up.

    Raises:
        OSError: the file cannot be opened.
        Refused: it is no plain file, or larger.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Refused("it is no plain file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > most:
            raise Refused(
                f"it has {status.st_size >> 20:,} MiB, and {most // _MIB:,} are the most"
            )
        yield file


def read_plain(path: Path, most: int) -> bytes:
    """Read a plain file of `most` bytes or less.

    Raises:
        OSError: the file cannot be read.
        Refused: it is no plain file, or larger.
    """
    with plain_file(path, most) as file:
        return file.read(most + 1)[:most]
