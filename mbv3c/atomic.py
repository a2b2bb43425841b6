"""Write files and folders whole or not at all.

Everything is written under a temporary name beside its final place and renamed when it is
complete. What a killed run leaves behind is such a temporary name, never half a result.
"""

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mbv3c.errors import BundleError, UsageError


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary path; move it to `path` when the block ends without an error.

    Raises:
        UsageError: `path` exists and `force` is not set, or is a folder.
        BundleError: the place cannot be written, or the disk is full.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")
    with _replacing(path, force=force) as folder:
        yield folder / path.name
        os.replace(folder / path.name, path)


@contextmanager
def new_folder(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary folder; it becomes `path` when the block ends without an error.

    Raises:
        UsageError: `path` exists and `force` is not set.
        BundleError: the place cannot be written, or the disk is full.
    """
    with _replacing(path, force=force) as folder:
        new = folder / "new"
        new.mkdir()
        yield new
        old = folder / "old"
        if os.path.lexists(path):
            os.replace(path, old)
        try:
            os.replace(new, path)
        except OSError:
            if os.path.lexists(old):
                os.replace(old, path)
            raise


def need_space(path: Path, size: int) -> None:
    """Make sure that `size` bytes fit beside `path`, before work begins that would be lost.

    Raises:
        BundleError: they do not fit.
    """
    if not path.parent.is_dir():
        return
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise BundleError(
            f"writing {path} takes about {size >> 20} MiB for a while and {free >> 20} MiB are "
            "free there; free some space, nothing was changed"
        )


@contextmanager
def _replacing(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, and remove it afterwards in any case."""
    if path.resolve() == Path.cwd():
        raise UsageError(f"{path} is the current folder; name another one")
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} exists; write over it with --force, or choose another place")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist; make it first")
    _remove_abandoned(path)
    try:
        prefix = f".{path.name}.mbv3c-{os.getpid()}."
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield folder
    except OSError as error:
        if error.errno in _WRITE_ERRORS:
            raise _cannot_write(path, error) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what a killed run left beside `path`: its process no longer exists."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.mbv3c-*.*"):
        pid = folder.name.split(".")[-2].removeprefix("mbv3c-")
        if pid.isdecimal() and not Path("/proc", pid).exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}


def _cannot_write(path: Path, error: OSError) -> BundleError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    step = "free some space" if full else "choose another place"
    return BundleError(f"cannot write {path}: {error.strerror}; nothing was changed, {step}")
