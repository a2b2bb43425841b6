"""Read a library's program as it lies in the file, for any processor; see `layout`."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mbv3c.execution.native import layout
from mbv3c.lowering.program import CONSTANT, PLACES

_MOST_DIMS = 16


class DamagedError(Exception):
    """What is read is no program."""


@dataclass(frozen=True)
class StoredArray:
    """An array in a library.

    Attributes:
        dtype: the element type.
        shape: the extents.
        offset: where its first byte lies in the file.
    """

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class StoredCall:
    """A call of a kernel; of its arguments None for memory that other kernels write."""

    kernel: str
    arguments: tuple[StoredArray | None, ...]


def stored_calls(data: bytes, entry: str) -> Iterator[StoredCall] | None:
    """Return the calls that a function makes; None of a library without a program.

    Raises:
        DamagedError: it is damaged, or has no such function; or what is iterated over raises it.
    """
    begins = data.count(layout.MAGIC)
    if begins == 0:
        return None
    if begins > 1:
        raise DamagedError(f"{begins} places begin as a program does")
    return _Program(data, data.index(layout.MAGIC)).calls_of(entry)


class _Program:
    """The tables of a program; every place is checked before it is read."""

    def __init__(self, data: bytes, begin: int) -> None:
        self._data, self._begin, self._end = data, begin, len(data)
        (_, version, *counts) = self._row(layout.PROGRAM, 0, 0)
        *sizes, size = counts
        self._functions, self._calls, self._tensors, self._extents, self._kernels = sizes[:5]
        self._places: Sequence[int] = sizes[5:10]
        if version != layout.VERSION:
            raise DamagedError(f"it is of version {version}")
        if not 0 < size <= len(data) - begin:
            raise DamagedError(f"it ends beyond the file, after {size} bytes")
        self._end = begin + size

    def calls_of(self, entry: str) -> Iterator[StoredCall]:
        rows = [
            self._row(layout.FUNCTION, self._places[0], at)
            for at in self._range(0, self._functions, self._functions)
        ]
        chosen = [row for row in rows if self._text(row[6]) == entry]
        if len(chosen) != 1:
            raise DamagedError(f"it has {len(chosen)} functions {entry!r}")
        _, first, count, *_ = chosen[0]
        for at in self._range(first, count, self._calls):
            kernel, argument, arguments, _ = self._row(layout.CALL, self._places[1], at)
            if kernel >= self._kernels:
                raise DamagedError(f"call {at} is of kernel {kernel}")
            (name,) = self._row(layout.NAME, self._places[4], kernel)
            places = self._range(argument, arguments, self._tensors)
            yield StoredCall(self._text(name), tuple(map(self._tensor, places)))

    def _tensor(self, index: int) -> StoredArray | None:
        at, first, place, rank, kind, bits = self._row(layout.TENSOR, self._places[2], index)
        if place >= len(PLACES) or rank > _MOST_DIMS or kind not in layout.KINDS:
            raise DamagedError(f"argument {index} is nowhere")
        if PLACES[place] != CONSTANT:
            return None
        shape = tuple(
            self._row(layout.EXTENT, self._places[3], one)[0]
            for one in self._range(first, rank, self._extents)
        )
        try:
            dtype = np.dtype(f"<{layout.KINDS[kind]}{bits // 8}")
        except TypeError as error:
            raise DamagedError(f"an array has numbers of {bits} bits") from error
        size = layout.elements(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or at + size > self._end - self._begin:
            raise DamagedError(f"an array of {shape} lies beyond its end")
        return StoredArray(dtype, shape, self._begin + at)

    def _range(self, first: int, count: int, limit: int) -> range:
        if first + count > limit:
            raise DamagedError(f"{first + count} of {limit} are asked for")
        return range(first, first + count)

    def _row(self, form: struct.Struct, table: int, index: int) -> tuple[int, ...]:
        at = self._begin + table + form.size * index
        if at + form.size > self._end:
            raise DamagedError(f"it ends within what begins at byte {at}")
        return form.unpack_from(self._data, at)

    def _text(self, at: int) -> str:
        begin = self._begin + at
        end = self._data.find(b"\0", begin, self._end)
        if end < 0:
            raise DamagedError(f"a name at byte {begin} has no end")
        return self._data[begin:end].decode()
