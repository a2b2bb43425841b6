"""Files of records: lines that are only appended, by one process at a time.

Whatever interrupts a writer, a kill or a power loss, costs at most the line that it was writing.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import IO

# Seconds: so long a child may hold a lock whose parent was killed; see mbv3c.supervisor.
PATIENCE = 6.0


def open_locked(
    path: Path, wait: Callable[[], None] | None = None, patience: float | None = None
) -> IO[bytes]:
    """Open a file to read and to append, and hold its lock until it is closed.

    Args:
        path: the file; it is made where there is none.
        wait: called before waiting for another process that holds the lock; None: wait only as
            long as what a killed process leaves behind may live.
        patience: seconds to wait instead, without `wait`.

    Raises:
        BlockingIOError: another process keeps the lock, and `wait` is None.
        OSError: the file cannot be opened or locked.
    """
    file = path.open("a+b")
    end = time.monotonic() + (PATIENCE if patience is None else patience)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if wait is None and time.monotonic() >= end:
                file.close()
                raise
        if wait is None:
            time.sleep(0.1)
        else:
            wait()
            fcntl.flock(file, fcntl.LOCK_EX)
            return file


def whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines that follow, but not a torn last one."""
    return takewhile(lambda line: line.endswith(b"\n"), file)


def torn_bytes(path: Path) -> int:
    """Return the length of a torn last line; 0 where there is none, or no file."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return path.stat().st_size - sum(map(len, whole_lines(file)))


def append(file: IO[bytes], lines: bytes) -> None:
    """Write at the end of a file; when this returns the lines are on the disk.

    No buffer is used: it would keep what could not be written, and write it later.

    Raises:
        OSError: the lines cannot be written, or only in part.
    """
    if os.write(file.fileno(), lines) < len(lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())
