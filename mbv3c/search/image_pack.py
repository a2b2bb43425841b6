"""Labelled images as one file, which is known by its content and travels to other machines."""

import tarfile
from collections.abc import Iterable, Iterator
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import IO

from mbv3c.errors import UsageError
from mbv3c.execution.cache import cache_root, provide_once
from mbv3c.jobs.store import Store
from mbv3c.scratch import scratch_folder

_ROOT = "images"


def pack_images(source: Path, store: Store) -> str:
    """Put a file of images, or a folder of them, into a store, and return the sha256.

    Equal names and contents give equal bytes. What links in the folder lead to is packed, too, and
    so are empty folders, which are classes.

    Raises:
        UsageError: there is nothing, or it cannot be read.
        OSError: there is no space below TMPDIR.
    """
    with scratch_folder("images") as folder:
        packed = folder / "images.tar"
        try:
            with tarfile.open(packed, "w", format=tarfile.PAX_FORMAT) as archive:
                for name, path in _files(source):
                    entry = tarfile.TarInfo(f"{_ROOT}/{name}")
                    if path.is_dir():
                        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                        archive.addfile(entry)
                        continue
                    entry.size = path.stat().st_size
                    with path.open("rb") as file:
                        archive.addfile(entry, file)
        except OSError as error:
            if error.errno in (ENOSPC, EDQUOT):
                raise
            raise UsageError(f"{source} cannot be read: {error.strerror or error}") from error
        return store.put(packed)


def unpacked(packed: Path) -> Path:
    """Return the images of a packed file, which the store has under its sha256: unpacked once."""
    folder = cache_root() / "job-images" / packed.name

    def unpack(new: Path) -> None:
        with packed.open("rb") as file:
            _extract(file, new)

    provide_once(folder, unpack)
    found = list((folder / _ROOT).iterdir())
    single = len(found) == 1 and found[0].is_file()
    return found[0] if single else folder / _ROOT


def _extract(file: IO[bytes], folder: Path) -> None:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        archive.extractall(folder, filter="data")


def _files(source: Path) -> Iterator[tuple[str, Path]]:
    if source.is_file():
        yield source.name, source
        return
    found = list(_below(source, "", ()))
    if all(path.is_dir() for _, path in found):
        raise UsageError(f"{source} has no files")
    yield from found


def _below(folder: Path, name: str, within: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder and the folders without any, in the order of their names."""
    here = folder.resolve()
    if here in within:  # a link that leads back
        return
    empty = True
    for path in sorted(folder.iterdir()):
        found: Iterable[tuple[str, Path]] = ()
        if path.is_dir():
            found = _below(path, f"{name}{path.name}/", (*within, here))
        elif path.is_file():
            found = [(name + path.name, path)]
        for each in found:
            empty = False
            yield each
    if empty and name:
        yield name.rstrip("/"), folder
