"""Write files and folders whole or not at all.

Everything is written under a temporary name beside its final place, flushed to the disk, and
renamed when it is complete. What a killed run leaves behind is such a temporary name, never half a
result; the next run that writes there removes it.
"""

import ctypes
import errno
import glob
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mbv3c.errors import BundleError, UsageError
from mbv3c.scratch import locked_folder, remove_abandoned, scratch_folder


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary path; move it to `path` when the block ends without an error.

    A character device or a pipe at `path` (/dev/null, /dev/stdout) is written to, not replaced; so
    is what is open in this process (/dev/fd/3), where its writing has come to.

    Raises:
        UsageError: `path` exists and `force` is not set, was made by another run meanwhile, or is
            neither a file nor a device to write to.
        BundleError: the place cannot be written, or the disk is full.
    """
    if check_place(path, force=force):
        with _explained(path), scratch_folder("write") as folder:
            yield folder / path.name
            with (folder / path.name).open("rb") as source, _opened(path) as device:
                shutil.copyfileobj(source, device)
        return
    with _replacing(path, force=force) as folder:
        yield folder / path.name
        _flush(folder / path.name)
        if force:
            os.replace(folder / path.name, path)
        else:
            _move_to_free_place(folder / path.name, path)


def check_place(path: Path, *, force: bool) -> bool:
    """Make sure that `new_file` can write to `path`, before work begins that would be lost.

    Returns:
        Whether there is a character device or a pipe to write to.

    Raises:
        UsageError: as `new_file` says.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")
    if takes_bytes(path):
        return True
    check_free(path, force=force)
    return False


@contextmanager
def new_folder(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary folder; it becomes `path` when the block ends without an error.

    Raises:
        UsageError: `path` exists and `force` is not set, was made by another run meanwhile, or is
            a device, a pipe or a socket.
        BundleError: the place cannot be written, or the disk is full.
    """
    if not path.is_dir() and takes_bytes(path):
        raise UsageError(f"{path} is a device or a pipe, and no place for a folder; name another")
    with _replacing(path, force=force) as folder:
        new = folder / "new"
        new.mkdir()
        yield new
        for file in new.rglob("*"):
            if not file.is_symlink():  # it may lead nowhere, as in an unpacked package
                _flush(file)
        if force:
            _replace_folder(new, path)
        else:
            _move_to_free_place(new, path)


def beside(output: Path, ending: str) -> Path:
    """Return the place of what belongs to an output: its name and an ending.

    What belongs to a device or a pipe lies in the current folder.
    """
    place = Path(output.name) if takes_bytes(output) else output
    return place.with_name(f"{place.name}{ending}")


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
    """Yield a temporary folder beside `path`."""
    check_free(path, force=force)
    prefix = f".{path.name}.mbv3c-"
    remove_abandoned(path.parent, f"{glob.escape(prefix)}*")
    with _explained(path), locked_folder(path.parent, prefix) as folder:
        yield folder


def check_free(path: Path, *, force: bool) -> None:
    """Make sure that something can be put at `path`.

    Raises:
        UsageError: something is there and `force` is not set, or there is no folder for it.
    """
    if path == _DASH:
        raise UsageError(f"{path} is no place to write to: name a file, such as {_STDOUT}")
    if path.resolve() == Path.cwd():
        raise UsageError(f"{path} is the current folder; name another one")
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} exists; write over it with --force, or choose another place")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist; make it first")


def takes_bytes(path: Path) -> bool:
    """Say whether there is something at `path` to write to instead of replacing it.

    Raises:
        UsageError: there is a disk or a socket.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    for kind, is_kind in {"disk": stat.S_ISBLK, "socket": stat.S_ISSOCK}.items():
        if is_kind(mode):
            raise UsageError(f"{path} is a {kind}; name a file")
    # What /dev/stdout leads to may be a file, which others have open.
    return not stat.S_ISREG(mode) or descriptor_of(path) is not None


def descriptor_of(path: Path) -> int | None:
    """Return the number of what is open in this process, where a path names that."""
    if path in _STREAMS:
        return _STREAMS.index(path)
    return int(path.name) if path.parent in _OPEN and path.name.isdecimal() else None


_DASH, _STDOUT = Path("-"), Path("/dev/stdout")
_STREAMS = (Path("/dev/stdin"), _STDOUT, Path("/dev/stderr"))
_OPEN = (Path("/dev/fd"), Path("/proc/self/fd"))


def _opened(path: Path) -> IO[bytes]:
    """Open what takes bytes; what is open already stays so, and keeps what was written to it."""
    descriptor = descriptor_of(path)
    return path.open("wb") if descriptor is None else os.fdopen(os.dup(descriptor), "wb")


def _flush(path: Path) -> None:
    """Have the disk take a file: some file systems say only now that they are full."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_to_free_place(new: Path, place: Path) -> None:
    """Rename a file or a folder to a name that nothing has.

    Raises:
        UsageError: another run has taken the name since it was asked for.
    """
    try:
        if not _renamed(new, place, _NO_REPLACE):
            if not new.is_dir():
                place.hardlink_to(new)
            else:
                new.rename(place)  # fails where a file is, or a folder that is not empty
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise UsageError(
                f"another run has written {place} meanwhile; what it wrote is kept, choose "
                "another place or use --force"
            ) from error
        raise


def _replace_folder(new: Path, place: Path) -> None:
    """Move a folder to where another one may be, which comes to lie where the new one was."""
    while True:
        try:
            if _renamed(new, place, _EXCHANGE):
                return
            break
        except FileNotFoundError:
            try:
                if _renamed(new, place, _NO_REPLACE):
                    return
                break
            except FileExistsError:  # another run has come first
                continue
    old = new.with_name("old")
    if os.path.lexists(place):
        place.rename(old)
    try:
        new.rename(place)
    except OSError:
        if os.path.lexists(old):
            old.rename(place)
        raise


_NO_REPLACE, _EXCHANGE = 1, 2  # RENAME_NOREPLACE and RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD: paths are as the process sees them


def _renamed(new: Path, place: Path, flag: int) -> bool:
    """Rename by renameat2(2); False where the system or the file system has no such renaming.

    Raises:
        OSError: the renaming failed.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(new), _HERE, os.fsencode(place), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(new), None, str(place))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the system says of a place that cannot be written into an error for the user."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITE_ERRORS:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        step = "free some space" if full else "choose another place"
        raise BundleError(
            f"cannot write {path}: {error.strerror}; nothing was changed, {step}"
        ) from error


_WRITE_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.EPIPE,
    errno.EBADF,
}
