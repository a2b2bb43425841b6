"""The folder in which fetched and built tools are kept, each put in place when it is whole."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mbv3c.errors import ToolError
from mbv3c.progress import Progress
from mbv3c.records import open_locked

FETCH_COMMAND = "mbv3c doctor --fetch"
ZIG_CACHES = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")


def cache_root() -> Path:
    """Return the folder under which fetched tools are kept: $MBV3C_CACHE or the user's cache."""
    if own := os.environ.get("MBV3C_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "mbv3c"


@contextmanager
def only_one(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold a folder's lock, so that fetches of several processes follow one another."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open_locked(
            folder / "lock",
            lambda: progress("waiting for another mbv3c that is fetching the same parts"),
        )
    except OSError as error:
        raise ToolError(
            f"cannot write to the cache folder {folder}: {error.strerror}; "
            "set MBV3C_CACHE to a folder that you may write to"
        ) from error
    with lock:
        yield


def provide(place: Path, make: Callable[[Path], None]) -> None:
    """Have `make` fill a folder beside `place`, and rename it to `place` when it is whole.

    The caller holds the lock of `only_one`.
    """
    if place.is_dir():
        return
    partial = place.with_name(place.name + ".partial")  # the lock makes this name ours
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        make(partial)
        partial.rename(place)
    except OSError as error:
        raise ToolError(
            f"cannot prepare {place}: {error}; see to free space and permissions there, "
            f"then run `{FETCH_COMMAND}` again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
