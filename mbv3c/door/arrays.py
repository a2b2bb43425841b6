"""Arrays in .npy and .npz files: numbers, whose headers fit the bytes that are there.

Nothing is unpickled. A header that asks for more than its file holds is refused before memory is
taken for it.
"""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mbv3c.door.archives import open_zip
from mbv3c.door.files import Refused, plain_file

Array = NDArray[Any]

MOST_ARRAYS = 1 << 32  # bytes of a file of arrays, and of all that it unpacks to
_MOST_MAPPED = 1 << 40
_NUMBERS = "biufc"
_SUFFIX = ".npy"
_MOST_DIMENSIONS = 32  # numpy's own limit before version 2

# What numpy's and Python's readers of headers raise on what is damaged.
_DAMAGE = (
    *(ValueError, KeyError, TypeError, OverflowError, SyntaxError, TokenError, EOFError),
    *(RecursionError, MemoryError, IndexError, AttributeError),
)


def read_array(path: Path, kinds: str = _NUMBERS) -> Array:
    """Read the array of an .npy file.

    Raises:
        OSError: the file cannot be read.
        Refused: it is no .npy file of numbers, or cut short.
    """
    with plain_file(path, MOST_ARRAYS) as file:
        return array_in(file.read(), kinds)


def is_archive(path: Path) -> bool:
    """Say whether a file of arrays is an archive of them, by its first bytes.

    Raises:
        OSError: the file cannot be read.
        Refused: it is no plain file, or too large.
    """
    with plain_file(path, MOST_ARRAYS) as file:
        return file.read(2) == b"PK"


def map_array(path: Path) -> Array:
    """Return the array of an .npy file, of which only what is looked at is read.

    Raises:
        OSError: the file cannot be read.
        Refused: it is no .npy file of numbers, or cut short.
    """
    with plain_file(path, _MOST_MAPPED) as file:
        header = _Header(file, file.seek(0, 2), _NUMBERS)
        if not prod(header.shape):
            return np.zeros(header.shape, header.dtype)
        opened: Any = file
        mapped: Array = np.memmap(opened, header.dtype, "r", header.begin, (prod(header.shape),))
        return header.shaped(mapped)


def array_in(data: bytes, kinds: str = _NUMBERS) -> Array:
    """Return the array of an .npy file's bytes, read-only.

    Raises:
        Refused: they are none, or hold something else than numbers.
    """
    header = _Header(io.BytesIO(data), len(data), kinds)
    count = prod(header.shape)
    values: Array = np.frombuffer(data, header.dtype, count, header.begin)
    return header.shaped(values)


class Archive(Mapping[str, Array]):
    """The arrays of an open .npz file by name, each read when it is asked for."""

    def __init__(self, archive: ZipFile, kinds: str) -> None:
        self._archive, self._kinds = archive, kinds
        self._entries = {name.removesuffix(_SUFFIX): name for name in archive.namelist()}

    def __getitem__(self, name: str) -> Array:
        data = self._archive.read(self._entries[name])
        try:
            return array_in(data, self._kinds)
        except Refused as error:
            raise Refused(f"the entry {self._entries[name]!r} is damaged: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


@contextmanager
def open_arrays(path: Path, kinds: str = _NUMBERS) -> Iterator[Archive]:
    """Open an .npz file whose arrays are of some of numpy's kinds of types.

    Raises:
        OSError: the file cannot be read.
        Refused: it is no .npz file; also within the context, where an array is damaged.
    """
    with plain_file(path, MOST_ARRAYS) as file, open_zip(file, MOST_ARRAYS) as archive:
        yield Archive(archive, kinds)


class _Header:
    """What the header of an .npy file says, in a file or entry of `size` bytes."""

    def __init__(self, file: BinaryIO | io.BytesIO, size: int, kinds: str) -> None:
        file.seek(0)
        try:
            version = npy.read_magic(file)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            with warnings.catch_warnings(action="ignore"):  # of headers from Python 2
                self.shape, self.columns_first, self.dtype = read(file)
        except _DAMAGE as error:
            raise Refused(f"its header is damaged: {error}") from error
        self.begin = file.tell()
        if self.dtype.kind not in kinds or self.dtype.itemsize == 0:
            raise Refused(f"it holds {self.dtype}, not numbers")
        if len(self.shape) > _MOST_DIMENSIONS or min(self.shape, default=0) < 0:
            raise Refused(f"its shape {self.shape[:8]} is none")
        holds, wanted = size - self.begin, prod(self.shape) * self.dtype.itemsize
        if wanted > holds:
            raise Refused(f"its header asks for {wanted:,} bytes, and {holds:,} are there")

    def shaped(self, values: Array) -> Array:
        """Return values that follow each other in the file, in the array's shape."""
        if self.columns_first:
            return values.reshape(self.shape[::-1]).T
        return values.reshape(self.shape)
