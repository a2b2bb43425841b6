"""The memory regions of a program, with every access checked.

A region also knows which of its bytes were written. Reading any other byte is an error, since on a
device it would hold what the last program left.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mbv3c.targets.ethos_u.interpreter.errors import StreamError
from mbv3c.targets.ethos_u.interpreter.hazards import Access


class Memory:
    """Regions of bytes, by number."""

    def __init__(self, scratch: Mapping[int, int]) -> None:
        """Begin with unwritten regions of the given sizes in bytes."""
        self._bytes = {region: np.zeros(size, np.uint8) for region, size in scratch.items()}
        self._written = {region: np.zeros(size, np.bool_) for region, size in scratch.items()}
        self._constant: set[int] = set()
        self.accesses: list[Access] = []  # of the command that is being executed

    def add_constants(self, region: int, data: NDArray[np.uint8]) -> None:
        """Add a region that may only be read."""
        self._bytes[region] = data
        self._written[region] = np.ones(len(data), np.bool_)
        self._constant.add(region)

    def forget(self, region: int, start: int) -> None:
        """Treat the bytes of a region, from `start` on, as unwritten."""
        self._written[region][start:] = False
        self.accesses.append(Access(self._bytes[region][start:], writes=True))

    def load(self, region: int, address: int, size: int) -> NDArray[np.uint8]:
        """Return a copy of `size` bytes."""
        return self.read(region, address, (size,), np.uint8, (1,))

    def store(self, region: int, address: int, data: NDArray[np.uint8]) -> None:
        """Write bytes."""
        self.write(region, address, data, (1,))

    def read(
        self,
        region: int,
        address: int,
        shape: Sequence[int],
        dtype: DTypeLike,
        strides: Sequence[int],
    ) -> NDArray[Any]:
        """Return a copy of elements that lie `strides` bytes apart.

        Raises:
            StreamError: elements lie outside the region, or were not written.
        """
        kind = np.dtype(dtype)
        if not math.prod(shape):
            return np.zeros(shape, kind)
        self._check(region, address, shape, kind.itemsize, strides, "reads")
        written = np.ndarray(shape, np.bool_, self._written[region], address, tuple(strides))
        if not written.all():
            missing = written.size - np.count_nonzero(written)
            raise StreamError(
                f"reads {missing} of {written.size} elements at {address:#x} of region {region}"
                " that nothing was written to"
            )
        view: NDArray[Any] = np.ndarray(
            shape, kind, self._bytes[region].data, address, tuple(strides)
        )
        self.accesses.append(Access(view, writes=False))
        return view.copy()

    def write(
        self, region: int, address: int, values: NDArray[Any], strides: Sequence[int]
    ) -> None:
        """Write elements, `strides` bytes apart.

        Raises:
            StreamError: elements lie outside the region, or the region holds constants.
        """
        shape, kind = values.shape, values.dtype
        if not values.size:
            return
        self._check(region, address, shape, kind.itemsize, strides, "writes")
        if region in self._constant:
            raise StreamError(f"writes to region {region}, which holds the constants")
        view: NDArray[Any] = np.ndarray(shape, kind, self._bytes[region], address, tuple(strides))
        view[...] = values
        self.accesses.append(Access(view, writes=True))
        written = np.ndarray(
            (*shape, kind.itemsize), np.bool_, self._written[region], address, (*strides, 1)
        )
        written[...] = True

    def _check(
        self,
        region: int,
        address: int,
        shape: Sequence[int],
        itemsize: int,
        strides: Sequence[int],
        verb: str,
    ) -> None:
        if region not in self._bytes:
            raise StreamError(f"{verb} in region {region}, which the program does not have")
        reach = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
        first = address + sum(min(0, extent) for extent in reach)
        end = address + sum(max(0, extent) for extent in reach) + itemsize
        size = len(self._bytes[region])
        if first < 0 or end > size:
            raise StreamError(
                f"{verb} bytes {first:#x} to {end:#x} of region {region}, which has {size:#x}"
            )
