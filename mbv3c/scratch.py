"""Temporary folders that the next run removes if this one is killed.

Each folder is locked (flock(2)) as long as its process lives: the kernel gives the lock back
however the process ends. What nobody has locked is abandoned. A process id would not tell: another
container has its own, and numbers come back.
"""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mbv3c.steps import note_place

_PREFIX = ".mbv3c-scratch-"  # that no one else gives to a folder: it may be removed


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Yield an empty folder below TMPDIR, and remove it afterwards.

    Folders that killed runs of this user left there are removed first.

    Args:
        purpose: a word for its name, as in `.mbv3c-scratch-tune-k2h4x0ab`.

    Raises:
        OSError: the folder cannot be made.
    """
    with _removed(*make_scratch(purpose)) as folder:
        yield folder


def make_scratch(purpose: str) -> tuple[Path, int]:
    """Return a folder below TMPDIR, as `scratch_folder` does, for the caller to remove.

    Returns:
        The folder, and the file descriptor that keeps it locked; close it after removing.

    Raises:
        OSError: the folder cannot be made.
    """
    parent = Path(tempfile.gettempdir())
    remove_abandoned(parent, f"{_PREFIX}*")
    return _made_and_locked(parent, f"{_PREFIX}{purpose}-")


@contextmanager
def locked_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder in `parent` that no other run takes for abandoned; remove it afterwards.

    Raises:
        OSError: the folder cannot be made.
    """
    with _removed(*_made_and_locked(parent, prefix)) as folder:
        yield folder


@contextmanager
def named_folder(folder: Path) -> Iterator[Path]:
    """Yield a new, empty folder of a name that is this run's alone; remove what is there then.

    Raises:
        OSError: the folder cannot be made.
    """
    note_place(folder.parent, glob.escape(folder.name))
    shutil.rmtree(folder, ignore_errors=True)
    while True:
        folder.mkdir()
        lock = _locked(folder)
        if lock is not None:
            break
    with _removed(folder, lock):
        yield folder


def remove_abandoned(parent: Path, pattern: str) -> None:
    """Remove the folders of this user in `parent` that match a pattern and that nobody locks."""
    for folder in parent.glob(pattern):
        lock = _opened(folder)
        if lock is None:
            continue
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def _removed(folder: Path, lock: int) -> Iterator[Path]:
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _made_and_locked(parent: Path, prefix: str) -> tuple[Path, int]:
    note_place(parent, f"{glob.escape(prefix)}*")
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = _locked(folder)
        if lock is not None:
            return folder, lock


def _locked(folder: Path) -> int | None:
    """Lock a new folder; None if another run has found and removed it before it was locked."""
    lock = _opened(folder)
    if lock is None:
        return None
    with suppress(OSError):  # some file systems of networks lock no folders: nobody removes it
        fcntl.flock(lock, fcntl.LOCK_EX)
    if folder.is_dir():
        return lock
    os.close(lock)
    return None


def _opened(folder: Path) -> int | None:
    """Open a folder of this user that is no link; None if it is something else, or gone."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    if os.fstat(lock).st_uid != os.getuid():
        os.close(lock)
        return None
    return lock
